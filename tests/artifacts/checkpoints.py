"""Checkpoints such as the training script of HYDRA's reference writes, made without it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustprune.models import create_model


class Reference:
    """A network of the reference: weights, scores, and what it computes at a density.

    Args:
        arch: its name there.
        options: arguments of `create_model` for the same layers.
    """

    def __init__(self, arch: str, options: dict[str, Any]) -> None:
        self.arch, self.options = arch, options
        torch.manual_seed(0)
        self.model = create_model(**options)
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_var, 0.5, 2)
                for tensor in (module.running_mean, module.weight, module.bias):
                    nn.init.normal_(tensor)
        self.layers = {
            f"{name.removeprefix('backbone.')}.weight": layer
            for name, layer in self.model.named_modules()
            if isinstance(layer, nn.Conv2d | nn.Linear)
        }
        self.scores = {name: torch.randn_like(layer.weight) for name, layer in self.layers.items()}

    def state(self, *, scores: bool, density: float) -> dict[str, Tensor]:
        """The state dict; without scores, as its ``save_dense`` writes it, with -0.0 and all."""
        found = self.model.state_dict().items()
        tensors = {name.removeprefix("backbone."): tensor for name, tensor in found}
        for name, score in self.scores.items():
            if scores:
                tensors[name.removesuffix("weight") + "popup_scores"] = score
            else:
                tensors[name] = tensors[name] * self.mask(name, density)
        if self.arch.startswith("wrn"):  # a stage that its forward pass does not use
            tensors["sub_block1.layer.0.bn1.weight"] = torch.ones(16)
            tensors["sub_block1.layer.0.conv1.weight"] = torch.ones(64, 16, 3, 3)
            if scores:
                tensors["sub_block1.layer.0.conv1.popup_scores"] = torch.ones(64, 16, 3, 3)
        return tensors

    def mask(self, name: str, density: float) -> Tensor:
        """All but the int((1 - k)·n) smallest |score|."""
        scores = self.scores[name].abs().flatten().numpy()
        kept = np.ones(scores.size, dtype=bool)
        kept[np.argsort(scores, kind="stable")[: int((1 - density) * scores.size)]] = False
        return torch.from_numpy(kept).view(self.scores[name].shape)

    def logits(self, images: Tensor, density: float) -> Tensor:
        dense = {name: layer.weight.detach().clone() for name, layer in self.layers.items()}
        with torch.no_grad():
            for name, layer in self.layers.items():
                layer.weight.mul_(self.mask(name, density))
            found = self.model.eval()(images)
            for name, layer in self.layers.items():
                layer.weight.copy_(dense[name])
        return found

    def write(
        self,
        path: Path,
        *,
        density: float = 0.1,
        scores: bool = True,
        prefix: str = "",
        zipped: bool = True,
        **changes: Any,
    ) -> Path:
        state = self.state(scores=scores, density=density)
        content = {
            "epoch": 100,
            "arch": self.arch,
            "state_dict": {f"{prefix}{name}": tensor for name, tensor in state.items()},
            "best_prec1": np.float64(51.25),
            "optimizer": {"state": {}, "param_groups": [{"lr": np.float64(0.01), "params": [0]}]},
        }
        content = {key: value for key, value in (content | changes).items() if value is not None}
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        return path
