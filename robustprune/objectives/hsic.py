"""What a robust teacher knows, and how layers depend on images and labels: no adversary."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from robustprune.masking import prunable_layers
from robustprune.masking.prunable import ends
from robustprune.objectives import register
from robustprune.objectives.base import Loss, Objective
from robustprune.types import Progress

RIDGE = 1e-5
"""ε of the normalised HSIC."""


@register("pwoa")
class Pwoa(Objective):
    """A robust teacher's softened logits, and the HSIC bottleneck, on clean images alone.

    With the recipe's dense network as the teacher t, hidden layers z and K classes::

        alpha·T²·KL(softmax(t(x)/T) ‖ softmax(f(x)/T)) / K
            + λx·Σ HSIC(z, x) − λy·Σ HSIC(z, y) + ce·CE(f(x), y)

    The teacher has to be robust: nothing else here makes the network so. The KL is a mean over the
    batch and, as in the source's code, over the classes. HSIC is the normalised one, tr(R_z·R_x)
    with R = HKH·(HKH + ε·n·I)⁻¹, of the n images that a process has at once. Kernels of layers and
    images are exp(−‖a − b‖² / (2σ²·d)), d being the number of their entries, that of labels is
    linear. The source centres kernels on one side only, which gives the same trace.

    Hidden layers are the inputs of convolutions and linear layers, but for those that see the
    images: what the activation before them gives, each tensor once. The source names them in each
    of its networks: outputs of stem and residual blocks, and the pooled features; here those inside
    of blocks count too.

    Source: Jian et al. 2022, PwoA, arXiv 2210.04311; the options are those of its CIFAR-10 script.
    """

    needs = ("dense",)

    temperature: float = Field(30.0, gt=0)
    """T: divides both networks' logits."""
    alpha: float = Field(10.0, ge=0)
    """Weight of the KL term; 100 for CIFAR-100."""
    lambda_x: float = Field(2e-5, ge=0)
    """λx: weight of what layers keep of the images. 2e-4 for MNIST, 5e-7 for CIFAR-100."""
    lambda_y: float = Field(1e-4, ge=0)
    """λy: weight of what they tell of the labels. 5e-5 for MNIST, 2e-6 for CIFAR-100."""
    width: float = Field(5.0, gt=0)
    """σ: of the kernels."""
    ce: float = Field(0.0, ge=0)
    """Weight of cross-entropy, which the source leaves out."""

    def loss(
        self,
        model: nn.Module,
        images: Tensor,
        attacked: Tensor | None,
        labels: Tensor,
        progress: Progress,
    ) -> Loss:
        """The sum, of the clean images."""
        logits, hidden = with_hidden(model, images)
        kl = self._divergence(logits, images)
        total, parts = self.alpha * kl, {"distillation": kl}
        if self.ce:
            total = total + self.ce * F.cross_entropy(logits, labels)
        if self.lambda_x or self.lambda_y:
            of_images, of_labels = self._bottleneck(hidden, images, labels, logits.shape[1])
            total = total + self.lambda_x * of_images - self.lambda_y * of_labels
            parts |= {"hsic_images": of_images, "hsic_labels": of_labels}
        return Loss(total, logits, parts)

    def _divergence(self, logits: Tensor, images: Tensor) -> Tensor:
        """T²·KL(teacher ‖ network) / K."""
        with torch.no_grad():
            known = self.networks["dense"](images)
        mine, its = (F.log_softmax(wide(z) / self.temperature, dim=1) for z in (logits, known))
        kl = F.kl_div(mine, its, reduction="batchmean", log_target=True)
        return self.temperature**2 * kl / logits.shape[1]

    def _bottleneck(
        self, hidden: list[Tensor], images: Tensor, labels: Tensor, classes: int
    ) -> tuple[Tensor, Tensor]:
        """HSIC of the layers with the images, and with the labels; summed over the layers."""
        with torch.autocast(images.device.type, enabled=False):
            onehot = F.one_hot(labels, classes).double()
            x, y = response(gaussian(images, self.width)), response(onehot @ onehot.T)
            z = sum((response(gaussian(one, self.width)) for one in hidden), torch.zeros_like(x))
            return (z * x.T).sum().to(wide(images)), (z * y.T).sum().to(wide(images))


def with_hidden(model: nn.Module, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The logits, and what prunable layers get that do not see the images: each tensor once.

    Inputs that have other rows than one an image, as windows of attention have, are left out.
    """
    found: dict[int, Tensor] = {}

    def see(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs[0]) == len(images):
            found[id(inputs[0])] = inputs[0]

    first = ends(model).inputs
    layers = [layer for name, layer in prunable_layers(model).items() if name not in first]
    hooks = [layer.register_forward_pre_hook(see) for layer in layers]
    try:
        return model(images), list(found.values())
    finally:
        for hook in hooks:
            hook.remove()


def wide(tensor: Tensor) -> Tensor:
    """The tensor, in single precision where it has less."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def gaussian(rows: Tensor, width: float) -> Tensor:
    """The kernel exp(−‖a − b‖² / (2σ²·d)) of each two rows of d entries, in double precision."""
    flat = wide(rows.flatten(1))
    products = (flat @ flat.T).double()
    sizes = products.diagonal()
    squares = (sizes[:, None] + sizes - 2 * products).clamp_min(0)
    return torch.exp(-squares / (2 * width**2 * flat.shape[1]))


def response(kernel: Tensor) -> Tensor:
    """R = HKH·(HKH + ε·n·I)⁻¹ of an ``(n, n)`` kernel, with H = I − 1/n."""
    centred = kernel - kernel.mean(0) - kernel.mean(1, keepdim=True) + kernel.mean()
    ridge = RIDGE * len(kernel) * torch.eye(len(kernel)).to(kernel)
    solved: Tensor = torch.linalg.solve(centred + ridge, centred)
    return solved
