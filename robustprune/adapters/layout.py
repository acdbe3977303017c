"""A network as attacks expect one. Imports torch at once: import it where it is used."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def logits(model: nn.Module, images: Tensor) -> Tensor:
    """A network's logits, ``(n, classes)``, in the images' precision whatever the network's is.

    Images reach a network of bfloat16 weights rounded to bfloat16, as all that follows.
    """
    first = next(model.parameters(), images)
    found: Tensor = model(images.to(first.dtype))
    return found.to(images.dtype)


class Attackable(nn.Module):
    """The same network, in the images' precision and with contiguous gradients of the images.

    Libraries take ``view`` of gradients, which fails where the weights are channels-last, and
    write logits into tensors of their own.

    Args:
        model: in the mode that it is to be attacked in.
        images: those that are to be attacked, ``(n, channels, height, width)``.

    Attributes:
        classes: how many logits it has given; 0 before it has given any.
        failed: it could not take images of the shape that it is to be attacked on, so that the
            fault is not the attack's.
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        super().__init__()
        self.model = model
        self.training = model.training  # libraries restore the mode that they find here
        self.classes, self.failed = 0, False
        self._shape = images.shape[1:]
        self._contiguous = all(parameter.is_contiguous() for parameter in model.parameters())

    def forward(self, images: Tensor) -> Tensor:
        """The network's logits, ``(n, classes)``."""
        if images.requires_grad and not self._contiguous:
            images = images.view_as(images)  # a hook on a leaf would stay behind on it
            images.register_hook(torch.Tensor.contiguous)  # type: ignore[no-untyped-call]
        try:
            found = logits(self.model, images)
        except Exception:
            self.failed = images.shape[1:] == self._shape
            raise
        self.classes = found.shape[1]
        return found
