"""Networks whose masks stand still, trained through sparse kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustprune import kernels
from robustprune.errors import UsageError
from robustprune.inference.training import SparseTraining
from robustprune.masking import MaskedModel, attach

pytestmark = pytest.mark.skipif(kernels.available() is not None, reason=str(kernels.available()))
IMAGES = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class PadsItself(nn.Conv2d):
    """Pads by the size of its input, as timm's ``Conv2dSame`` does."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (1, 1, 1, 1)))


def prepared(
    *, second: nn.Module | None = None, layers: tuple[str, ...] = ("0", "3", "6")
) -> tuple[nn.Sequential, MaskedModel, SparseTraining]:
    """A network of which these layers, and all of its attacks, go through kernels."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        second or nn.Conv2d(8, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 6),
    )  # fmt: skip
    masked = attach(model)
    masked.set({name: torch.rand_like(weight) < 0.3 for name, weight in masked.weights.items()})
    attacks: dict[str, Any] = {"network": "sparse", "few": 1}
    attacks["layers"] = {name: {"sparse": True} for name in ("0", "3", "6")}
    if second is not None:
        attacks = {"network": "dense"}
    choices = {"attacks": attacks, "layers": layers}
    return model, masked, SparseTraining(model, masked, IMAGES, choices=choices)


def gradients(network: nn.Module, model: nn.Module, masked: MaskedModel) -> list[Tensor]:
    images = IMAGES.clone().requires_grad_()
    with masked.cached():
        output = network(images)
        wanted = [images, *model.parameters()]
        return [output, *torch.autograd.grad(output.square().sum(), wanted)]


def test_in_train_mode_images_and_weights_get_the_gradients_of_torch() -> None:
    model, masked, through = prepared()
    assert through.choices["layers"] == ["0", "3", "6"]
    for found, expected in zip(
        gradients(through, model, masked), gradients(model, model, masked), strict=True
    ):
        scale = float(expected.detach().abs().max())
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * scale + 1e-6)


def test_a_layer_with_a_forward_of_its_own_stays_torchs() -> None:
    model, _, through = prepared(second=PadsItself(8, 4, 3))
    assert through.choices["layers"] == ["0", "6"]
    found, expected = through(IMAGES), model(IMAGES)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_attacks_meet_the_statistics_that_a_forward_just_before_them_left() -> None:
    model, masked, through = prepared()
    with masked.cached(), torch.no_grad():
        through.refresh()
        through.train()
        through(2 + 3 * IMAGES)
        through.eval()
        torch.testing.assert_close(through(IMAGES), model(IMAGES), rtol=0, atol=1e-4)


def test_in_eval_mode_images_get_gradients_and_weights_with_them_are_refused() -> None:
    model, masked, through = prepared()
    through.eval()
    images = IMAGES.clone().requires_grad_()
    with masked.cached():
        through.refresh()
        found, expected = (
            torch.autograd.grad(network(images)[:, 0].sum(), images)[0]
            for network in (through, model)
        )
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
        with pytest.raises(UsageError, match=r"images alone.*Use compute\.sparse: auto"):
            through(images).sum().backward()


def test_in_eval_mode_weights_alone_get_gradients() -> None:
    model, masked, through = prepared()
    through.eval()
    found = []
    for network in (through, model):
        with masked.cached():
            output = network(IMAGES)[:, 0].sum()
            found.append(torch.autograd.grad(output, [*masked.weights.values()]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3)


def test_measuring_draws_nothing_from_the_callers_generator() -> None:
    model, masked, _ = prepared()
    before = torch.get_rng_state()
    SparseTraining(model, masked, IMAGES)
    assert torch.equal(torch.get_rng_state(), before)
