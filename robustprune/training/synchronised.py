"""BatchNorm with the statistics of the whole batch, wherever its images are.

torch's SyncBatchNorm does this on GPUs only. This one computes the same on any process group.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm`, whose batch is that of all processes together.

    Collective if ``training``: each process must call it as often as the others.

    Args:
        input: ``(n, channels, …)``; n may differ between processes.
        running_mean: ``(channels,)``, updated if ``training``, as is ``running_var``.
        running_var: ``(channels,)``.
        weight: ``(channels,)``.
        bias: ``(channels,)``.
        training: whether to use the batch's statistics, else the running ones.
        momentum: share of the batch's statistics in the new running ones.
        eps: added to the variance.
    """
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    mean, variance, count = _statistics(input.detach())
    if running_mean is not None and running_var is not None:
        unbiased = variance * (count / (count - 1).clamp_min(1))
        running_mean.lerp_(mean.to(running_mean), momentum)
        running_var.lerp_(unbiased.to(running_var), momentum)
    normalised: Tensor = _Normalise.apply(input, mean, torch.rsqrt(variance + eps), count)
    shape = [1, -1] + [1] * (input.dim() - 2)
    if weight is not None:
        normalised = normalised * weight.view(shape)
    if bias is not None:
        normalised = normalised + bias.view(shape)
    return normalised.to(input.dtype)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance of each channel, and the count, over all processes.

    Combined from those of each process, because a difference of large sums loses digits.
    Source: Chan, Golub, LeVeque 1979.
    """
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    dims = [0, *range(2, x.dim())]
    variance, mean = torch.var_mean(x, dims, correction=0)
    count = mean.new_tensor([x.numel() / x.shape[1]])
    here = torch.cat([mean, variance, count])
    parts = [torch.empty_like(here) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, here)
    n = len(mean)
    means, variances, counts = torch.stack(parts).tensor_split([n, 2 * n], dim=1)
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    return mean, (counts * (variances + (means - mean) ** 2)).sum(0) / total, total


class _Normalise(torch.autograd.Function):
    """(x − mean)·scale, differentiated through the mean and the scale that x gives."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, scale: Tensor, count: Tensor) -> Tensor:
        shape = [1, -1] + [1] * (x.dim() - 2)
        normalised = (x - mean.view(shape)) * scale.view(shape)
        ctx.save_for_backward(normalised, scale, count)
        return normalised

    @staticmethod
    @once_differentiable  # the sums over the processes have no gradient
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,) = grads
        normalised, scale, count = ctx.saved_tensors
        shape, dims = [1, -1] + [1] * (grad.dim() - 2), [0, *range(2, grad.dim())]
        sums = torch.stack([grad.sum(dims), (grad * normalised).sum(dims)])
        dist.all_reduce(sums)
        along, across = (sums / count).unbind()
        rest = grad - along.view(shape) - normalised * across.view(shape)
        return rest * scale.view(shape), None, None, None
