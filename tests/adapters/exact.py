"""The exact minimum of a margin of a tiny ReLU network over a box, as a mixed-integer program.

Nothing here knows of auto-LiRPA, or of layers: between ReLUs a network is affine, whatever it is
made of, and its values at 0 and at each unit vector give such a map whole.
"""

import copy
from collections.abc import Iterator

import numpy as np
import torch
from scipy.optimize import Bounds as Limits
from scipy.optimize import LinearConstraint, milp
from torch import Tensor, nn


class Exact:
    """The program of one network.

    Its variables are the pixels, and what each ReLU gives out.

    Args:
        model: every nonlinearity is an `nn.ReLU`, and calls none twice.
        shape: of an image.
    """

    def __init__(self, model: nn.Module, shape: tuple[int, ...]) -> None:
        self.model = copy.deepcopy(model).double().eval()
        self.shape = shape
        relus = [layer for layer in self.model.modules() if isinstance(layer, nn.ReLU)]
        sizes: list[int] = []
        hooks = [r.register_forward_hook(lambda _, x, y: sizes.append(y[0].numel())) for r in relus]
        pixels = torch.zeros(1, *shape, dtype=torch.float64)
        self._call(pixels)
        self._remove(hooks)
        self.pixels, self.total = pixels.numel(), pixels.numel() + sum(sizes)
        self.layers: list[tuple[int, np.ndarray, np.ndarray]] = []
        hooks = [r.register_forward_hook(self._cut) for r in relus]
        basis = torch.cat([pixels.flatten(1), torch.eye(self.total)[:, : self.pixels].double()])
        self.last = _affine(self._call(basis.view(-1, *shape)))
        self._remove(hooks)

    def margins(self, images: Tensor, labels: Tensor, *, eps: float) -> Tensor:
        """As `Bounds.margins`: ``(n, classes - 1)``, float64."""
        classes = len(self.last[1])
        rows = [
            [self.minimum(image, int(y), j, eps=eps) for j in range(classes) if j != y]
            for image, y in zip(images, labels, strict=True)
        ]
        return torch.tensor(rows, dtype=torch.float64)

    def minimum(self, image: Tensor, y: int, j: int, *, eps: float) -> float:
        """Minimum of ``f(x')_y - f(x')_j``: its value at the image that attains it.

        So a bound above it is no bound, however exact the solver is; and the solver's own optimum
        must be the same.
        """
        x = image.double().flatten().numpy()
        low, high = (np.zeros(self.total) for _ in range(2))
        low[: self.pixels], high[: self.pixels] = np.clip(x - eps, 0, 1), np.clip(x + eps, 0, 1)
        neurons = list(self._neurons(low, high))
        constraints, binaries = _relus(neurons, self.total)
        (weight, bias), free = self.last, np.zeros(binaries)
        found = milp(
            np.concatenate([weight[y] - weight[j], free]),
            constraints=constraints,
            integrality=np.concatenate([np.zeros(self.total), free + 1]),
            bounds=Limits(np.concatenate([low, free]), np.concatenate([high, free + 1])),
            options={"mip_rel_gap": 0},
        )
        at = np.clip(found.x, np.append(low, free), np.append(high, free + 1))[: self.pixels]
        logits = self._call(torch.from_numpy(at).view(1, *self.shape))[0]
        attained = float(logits[y] - logits[j])
        assert abs(attained - (found.fun + bias[y] - bias[j])) < 1e-5 * max(1, abs(attained))
        return attained

    def _neurons(self, low: np.ndarray, high: np.ndarray) -> Iterator[tuple]:
        """Each ReLU's variable, its argument's weights and bias, and limits of its argument."""
        for start, weight, bias in self.layers:
            up, down = weight.clip(0), weight.clip(None, 0)
            least, most = up @ low + down @ high + bias, up @ high + down @ low + bias
            stop = start + len(bias)
            low[start:stop], high[start:stop] = least.clip(0), most.clip(0)
            yield from zip(range(start, stop), weight, bias, least, most, strict=True)

    def _cut(self, _: nn.Module, inputs: tuple[Tensor], after: Tensor) -> Tensor:
        """Note what a ReLU is given; hand on unit vectors of what it gives out."""
        start = self.layers[-1][0] + len(self.layers[-1][2]) if self.layers else self.pixels
        weight, bias = _affine(inputs[0])
        self.layers.append((start, weight, bias))
        return torch.eye(1 + self.total)[:, 1 + start :][:, : len(bias)].double().view(after.shape)

    @torch.no_grad()
    def _call(self, images: Tensor) -> Tensor:
        return self.model(images)

    @staticmethod
    def _remove(hooks: list) -> None:
        for hook in hooks:
            hook.remove()


def _affine(values: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Weights ``(outputs, variables)`` and bias of a map, from its values at 0 and unit vectors."""
    flat = values.flatten(1).numpy()
    return (flat[1:] - flat[0]).T, flat[0]


def _relus(neurons: list[tuple], total: int) -> tuple[LinearConstraint | tuple[()], int]:
    """Each z = max(a, 0), with one binary variable where a's sign is open, besides ``0 <= z``."""
    rows, lows, highs, unstable = [], [], [], [n for n in neurons if n[3] < 0 < n[4]]

    def add(z: int, weight: np.ndarray, extra: float, number: int, low: float, high: float) -> None:
        row = np.zeros(total + len(unstable))
        row[:total] = -weight
        row[z] += 1
        if extra:
            row[total + number] = extra
        rows.append(row), lows.append(low), highs.append(high)

    number = 0
    for z, weight, bias, least, most in neurons:
        if most > 0:
            add(z, weight, 0, number, bias, bias if least >= 0 else np.inf)
        if least < 0 < most:
            add(z, weight, -least, number, -np.inf, bias - least)
            add(z, np.zeros(total), -most, number, -np.inf, 0)
            number += 1
    return LinearConstraint(np.array(rows), lows, highs) if rows else (), len(unstable)
