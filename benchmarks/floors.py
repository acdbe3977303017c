"""Cost of an objective's mathematics on a dense network, in plain PyTorch.

A floor is a whole optimizer step: the passes that the objective needs, gradients of every weight,
and SGD with momentum; nothing else. Random draws are those of the objective.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS, STEP, STEPS, BETA, SIGMA = 8 / 255, 2 / 255, 10, 6.0, 0.25
Objective = Callable[[nn.Module, Tensor, Tensor], Tensor]


def benign(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """One forward."""
    return F.cross_entropy(model(images), labels)


def pgd(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Ten forwards and backwards down to the input, one forward."""
    model.eval()
    start = (images + torch.empty_like(images).uniform_(-EPS, EPS)).clamp(0, 1)
    perturbed = _ascend(lambda x: F.cross_entropy(model(x), labels), images, start)
    model.train()
    return F.cross_entropy(model(perturbed), labels)


def trades(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """One clean forward, ten forwards and backwards down to the input, two forwards."""
    model.eval()
    with torch.no_grad():
        clean = F.log_softmax(model(images), 1)

    def divergence(x: Tensor) -> Tensor:
        found = F.log_softmax(model(x), 1)
        return F.kl_div(found, clean, reduction="sum", log_target=True)

    start = (images + 0.001 * torch.randn_like(images)).clamp(0, 1)
    perturbed = _ascend(divergence, images, start)
    model.train()
    return _consistency(model(images), model(perturbed), labels)


def stability(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Two forwards."""
    noisy = images + SIGMA * torch.randn_like(images)
    return _consistency(model(images), model(noisy), labels)


OBJECTIVES: dict[str, Objective] = {
    "benign": benign,
    "pgd": pgd,
    "trades": trades,
    "stability": stability,
}


def step_of(
    objective: Objective, model: nn.Module, images: Tensor, labels: Tensor
) -> Callable[[], None]:
    """An optimizer step of a dense network, to be called again and again."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    model.train()

    def step() -> None:
        objective(model, images, labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def reference_step(
    path_model: nn.Module, loss: Callable[..., Tensor], images: Tensor, labels: Tensor
) -> Callable[[], None]:
    """A prune step of HYDRA's reference with TRADES, as its trainer takes it.

    Args:
        path_model: its network of its subnet layers, prepared for pruning.
        loss: its `trades_loss`.
        images: in the default memory format, the only one that its masks are right in.
        labels: ``(n,)``.
    """
    trainable = [p for p in path_model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=1e-3, momentum=0.9)
    path_model.train()
    call = partial(
        loss,
        device=torch.device("cpu"),
        optimizer=optimizer,
        distance="l_inf",
        step_size=STEP,
        epsilon=EPS,
        perturb_steps=STEPS,
        beta=BETA,
        clip_min=0.0,
        clip_max=1.0,
    )

    def step() -> None:
        path_model(images)  # its trainer classifies the clean images first, for the accuracy
        total = call(model=path_model, x_natural=images, y=labels)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()

    return step


def _ascend(loss: Callable[[Tensor], Tensor], images: Tensor, start: Tensor) -> Tensor:
    x = start.detach()
    for _ in range(STEPS):
        x.requires_grad_()
        (grad,) = torch.autograd.grad(loss(x), x)
        x = x.detach() + STEP * grad.sign()
        x = (images + (x - images).clamp(-EPS, EPS)).clamp(0, 1)
    return x


def _consistency(clean: Tensor, moved: Tensor, labels: Tensor) -> Tensor:
    target = F.log_softmax(clean, 1)
    found = F.log_softmax(moved, 1)
    robust = F.kl_div(found, target, reduction="batchmean", log_target=True)
    return F.cross_entropy(clean, labels) + BETA * robust
