"""Memory layout of gradients. Imports torch at once: import it where it is used."""

from __future__ import annotations

from torch import Tensor, nn


class ContiguousGradients(nn.Module):
    """The same network, whose images' gradients are contiguous.

    Libraries take ``view`` of them, which fails where the network's weights are channels-last.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training  # libraries restore the mode that they find here

    def forward(self, images: Tensor) -> Tensor:
        """The network's logits, ``(n, classes)``."""
        if images.requires_grad:
            images = images.view_as(images)  # a hook on a leaf would stay behind on it
            images.register_hook(_contiguous)  # type: ignore[no-untyped-call]
        logits: Tensor = self.model(images)
        return logits


def _contiguous(gradient: Tensor) -> Tensor:
    return gradient.contiguous()
