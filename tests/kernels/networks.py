"""Small networks as operations."""

from __future__ import annotations

import numpy as np

from robustprune.kernels.operations import Operation

SHAPE = (3, 8, 8)


def window(**changes: object) -> dict[str, object]:
    return {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1} | changes


def weights(generator: np.random.Generator, *shape: int, density: float) -> dict[str, np.ndarray]:
    weight = generator.standard_normal(shape) * (generator.random(shape) < density)
    bias = generator.standard_normal(shape[0])
    return {"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)}


def residual(density: float = 0.1, seed: int = 0) -> list[Operation]:
    """All kinds of operations once; images are of `SHAPE`."""
    generator = np.random.default_rng(seed)
    scale = {name: generator.random(8).astype(np.float32) for name in ("scale", "shift")}
    pool = {"kernel": [2, 2], "stride": [2, 2], "padding": [0, 0]}
    return [
        Operation("convolution", (0,), window(), weights(generator, 8, 3, 3, 3, density=density)),
        Operation("relu", (1,)),
        Operation(
            "convolution",
            (2,),
            window(groups=2),
            weights(generator, 8, 4, 3, 3, density=density),
        ),
        Operation("affine", (3,), {}, scale),
        Operation("add", (4, 2)),
        Operation("max_pool", (5,), pool),
        Operation("average_pool", (6,), {**pool, "count_include_pad": True}),
        Operation("flatten", (7,)),
        Operation("linear", (8,), {}, weights(generator, 4, 32, density=density)),
    ]
