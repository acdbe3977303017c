"""The contract of objectives: losses over weights and over scores, which leave all else alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from robustprune.masking import MaskedModel, attach, select
from robustprune.masking.allocations import create as create_allocation
from robustprune.objectives import Loss, Objective
from robustprune.testing.contract import Contract, expect, joined
from robustprune.types import Progress

OBJECTIVES = Contract("loss", "__call__", "attack")


def network(dropout: float = 0.0) -> Any:
    """Everything that makes the mode matter, norm layers and dropout; for images of 3×6×6."""
    torch.manual_seed(0)
    convolution = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()]
    return nn.Sequential(*convolution, nn.Dropout(dropout), nn.Flatten(), nn.Linear(4 * 36, 5))


def batch(n: int = 6, shape: tuple[int, int, int] = (3, 6, 6)) -> tuple[Tensor, Tensor]:
    """Images and labels of five classes."""
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, *shape, generator=generator), torch.arange(n) % 5


def modes(model: nn.Module) -> list[bool]:
    """The modules that are in train mode."""
    return [module.training for module in model.modules()]


def ready(objective: Objective) -> Objective:
    """The objective without state, with the networks that it needs."""
    other = network().eval().requires_grad_(False)
    for parameter in other.parameters():
        parameter.add_(0.1)
    fresh = objective.fresh()
    fresh.bind(dict.fromkeys(objective.needs, other))
    return fresh


def backward(loss: Loss) -> None:
    """Differentiate its total, or say that nothing can be learned from it."""
    expect(loss.total.shape == (), f"total has the shape {tuple(loss.total.shape)}: take a mean")
    expect(loss.total.requires_grad, "total has no graph, so nothing is learned: detach less of it")
    torch.autograd.backward(loss.total)


def _loss(
    objective: Objective, model: nn.Module, images: Tensor | None = None, *, seed: int = 3
) -> Loss:
    usual, labels = batch()
    given, own = usual if images is None else images, ready(objective)
    torch.manual_seed(seed)
    return own(model, given, labels[: len(given)], Progress())


def _masked() -> MaskedModel:
    """As HYDRA prunes: weights frozen, and scores that learn."""
    masked = attach(network().requires_grad_(False))
    sizes = {name: weight.detach().abs() for name, weight in masked.weights.items()}
    uniform = create_allocation("uniform")
    masked.set(select(sizes, 0.5, allocation=uniform, structure=masked.structure))
    masked.add_scores(masked.weights)
    return masked


@OBJECTIVES.promise
def gives_a_loss(objective: Objective) -> None:
    """It gives Loss(total, logits, parts): a finite scalar, logits of the batch, named scalars."""
    loss = _loss(objective, network())
    expect(
        isinstance(loss, Loss), f"got {type(loss).__name__}; return rp.Loss(total, logits, {{}})"
    )
    expect(loss.total.shape == (), f"total has the shape {tuple(loss.total.shape)}: take a mean")
    expect(loss.total.isfinite(), f"total is {loss.total.item()}")
    expect(loss.logits.shape == (6, 5), f"logits of 6 images are {tuple(loss.logits.shape)}")
    wrong = [name for name, part in loss.parts.items() if getattr(part, "shape", None) != ()]
    expect(not wrong, f"parts that are no scalar tensors: {joined(wrong)}")


@OBJECTIVES.promise
def reaches_every_parameter(objective: Objective) -> None:
    """Its gradient reaches every weight, and is finite."""
    model, own = network(), ready(objective)
    backward(own(model, *batch(), Progress()))
    own.after_backward()
    missed = [name for name, p in model.named_parameters() if p.grad is None]
    expect(not missed, f"no gradient for {joined(missed)}")
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    odd = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
    expect(not odd, f"gradients that are not finite: {joined(odd)}")
    still = [name for name in ("0.weight", "5.weight") if not gradients[name].any()]
    expect(not still, f"gradients of zeros only: {joined(still)}")


@OBJECTIVES.promise
def leaves_images_alone(objective: Objective) -> None:
    """Images and labels are left as they were."""
    images, labels = batch()
    backward(ready(objective)(network(), images, labels, Progress()))
    expect(torch.equal(images, batch()[0]), "images were changed in place: clone them first")
    expect(torch.equal(labels, batch()[1]), "labels were changed in place")
    expect(not images.requires_grad, "the images given want a gradient: attack a copy")


@OBJECTIVES.promise
def restores_modes(objective: Objective) -> None:
    """Each module is left in the mode it was found in, train or eval."""
    model = network(dropout=0.5)
    model[1].eval()
    for found in (modes(model), [False] * len(modes(model))):
        model.train(any(found))
        model[1].eval()
        _loss(objective, model)
        expect(modes(model) == found, "modes differ: use robustprune.train_mode.eval_mode")


@OBJECTIVES.promise
def keeps_statistics(objective: Objective) -> None:
    """Norm layers in eval mode keep their running statistics."""
    model = network()
    model[1].eval()
    before = model[1].running_mean.clone()
    _loss(objective, model)
    expect(torch.equal(model[1].running_mean, before), "running_mean has changed")


@OBJECTIVES.promise
def takes_one_image(objective: Objective) -> None:
    """One image is a batch."""
    expect(_loss(objective, network(), batch()[0][:1]).total.isfinite(), "total is not finite")


@OBJECTIVES.promise
def takes_channels_last(objective: Objective) -> None:
    """Networks and images may be channels-last."""
    model = network().to(memory_format=torch.channels_last)
    images = batch()[0].contiguous(memory_format=torch.channels_last)
    backward(_loss(objective, model, images))
    expect(model[0].weight.grad.isfinite().all(), "gradients are not finite")


@OBJECTIVES.promise
def draws_from_the_generator(objective: Objective) -> None:
    """The same state of torch's generator gives the same loss."""
    one, other = (_loss(objective, network(), seed=4).total for _ in range(2))
    expect(torch.equal(one, other), f"{one.item()} and {other.item()}")


@OBJECTIVES.promise
def trains_scores(objective: Objective) -> None:
    """Scores learn while the weights are frozen."""
    masked, own = _masked(), ready(objective)
    with masked.cached():
        backward(own(masked.model, *batch(), Progress()))
        own.after_backward()
    for name, scores in masked.scores.items():
        learns = scores.grad is not None and scores.grad.isfinite().all() and scores.grad.any()
        expect(learns, f"no finite gradient for the scores of {name}")
    frozen = all(parameter.grad is None for parameter in masked.weight_parameters())
    expect(frozen, "frozen weights have gradients")


@OBJECTIVES.promise
def shares_cached_weights(objective: Objective) -> None:
    """Masked weights that are computed once a step give the same loss and gradients."""
    plain, shared = _masked(), _masked()
    one = _loss(objective, plain.model)
    backward(one)
    with shared.cached():
        two = _loss(objective, shared.model)
        backward(two)
    totals = one.total, two.total
    expect(torch.equal(*totals), f"{totals[0].item()} and {totals[1].item()}")
    for name, scores in plain.scores.items():
        gradient: Any = scores.grad
        close = torch.allclose(gradient, shared.scores[name].grad, rtol=1e-5, atol=1e-8)  # type: ignore[arg-type]
        expect(close, f"other gradients for the scores of {name}")


@OBJECTIVES.promise
def sees_no_pruned_weight(objective: Objective) -> None:
    """Pruned weights have no say: with other values there, the loss is the same."""
    totals = []
    for junk in (0.0, 7.0):
        masked = _masked()
        for name, mask in masked.masks.items():
            masked.weights[name].data[~mask] = junk
        with masked.cached():
            totals.append(_loss(objective, masked.model).total)
    expect(torch.equal(*totals), f"{totals[0].item()} and {totals[1].item()}")


@OBJECTIVES.promise
def attacks_apart(objective: Objective) -> None:
    """Its attack and loss apart, where it defines them, give the loss of the call."""
    if not objective.attacks_apart:
        return
    images, labels = batch()
    expected = _loss(objective, network()).total
    model, own = network(), ready(objective)
    torch.manual_seed(3)
    attacked = own.attack(model, images, labels, Progress())
    expect(attacked is None or attacked.is_leaf, "attacked images have a graph: detach them")
    clean = all(parameter.grad is None for parameter in model.parameters())
    expect(clean, "the attack leaves gradients on the weights: use torch.autograd.grad")
    total = own.loss(model, images, attacked, labels, Progress()).total
    expect(torch.equal(total, expected), f"{total.item()} and {expected.item()}")
