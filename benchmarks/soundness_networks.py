"""Small random networks of every operator that bounds may meet, with every attribute drawn.

`draw` makes one of them: a few layers around one *piece*, whose attributes are drawn, those that
are refused included. Pieces stand first, after convolutions, and under others.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 3


class Drawn(NamedTuple):
    """A network, the shape of its images, and the name of the piece that it is about."""

    name: str
    network: nn.Module
    shape: tuple[int, ...]


class Apply(nn.Module):
    """A function, and the tensors that it takes besides the image's."""

    def __init__(self, function: Callable[..., Tensor], *own: Tensor, buffers: bool = True) -> None:
        super().__init__()
        self.function, self.number = function, len(own)
        for index, value in enumerate(own):
            if buffers:
                self.register_buffer(f"own{index}", value)
            else:
                self.register_parameter(f"own{index}", nn.Parameter(value))

    def forward(self, x: Tensor) -> Tensor:
        """The function of them all."""
        return self.function(x, *(getattr(self, f"own{n}") for n in range(self.number)))


class Branches(nn.Module):
    """Joins of several functions of one input."""

    def __init__(self, join: Callable[..., Tensor], *branches: nn.Module) -> None:
        super().__init__()
        self.join, self.branches = join, nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """The join of the branches."""
        return self.join(*(branch(x) for branch in self.branches))


Piece = Callable[[Random, tuple[int, ...]], nn.Module]
PIECES: dict[str, Piece] = {}
"""Each makes a layer for inputs of a shape ``(channels, height, width)``."""
VECTORS: dict[str, Piece] = {}
"""The same, for inputs of shape ``(features,)``."""


def piece(make: Piece) -> Piece:
    """Register a piece under its function's name."""
    PIECES[make.__name__] = make
    return make


def vector(make: Piece) -> Piece:
    """Register a piece for vectors."""
    VECTORS[make.__name__] = make
    return make


def pair(r: Random, *values: int) -> tuple[int, int]:
    """Two values, equal half of the time."""
    first = r.choice(values)
    return (first, first) if r.random() < 0.5 else (first, r.choice(values))


@piece
def convolution(r: Random, shape: tuple[int, ...]) -> nn.Module:
    """Strides, paddings, dilations, groups and modes."""
    groups = shape[0] if r.random() < 0.3 else 1
    return nn.Conv2d(
        shape[0],
        groups * r.choice([1, 2]),
        pair(r, 1, 2, 2, 3),
        stride=pair(r, 1, 1, 2, 3),
        padding=pair(r, 0, 1, 1, 2),
        dilation=pair(r, 1, 1, 1, 2),
        groups=groups,
        bias=r.random() < 0.7,
        padding_mode=r.choice(["zeros"] * 4 + ["circular", "replicate"]),
    )


@piece
def same_convolution(r: Random, shape: tuple[int, ...]) -> nn.Module:
    """Padding by name, unequal on the two sides where the kernel is even."""
    return nn.Conv2d(shape[0], 2, pair(r, 1, 2, 3), padding="same")


@piece
def transposed_convolution(r: Random, shape: tuple[int, ...]) -> nn.Module:
    """Mostly as the library takes them."""
    rare = r.random() < 0.3
    stride = r.choice([1, 2])
    return nn.ConvTranspose2d(
        shape[0],
        2,
        pair(r, 2, 2, 3),
        stride=pair(r, 2, 3) if rare else stride,
        padding=r.choice([0, 1]) if rare else 0,
        output_padding=r.choice([0, 1]) if rare else 0,
        bias=r.random() < 0.7,
    )


@piece
def batch_norm(r: Random, shape: tuple[int, ...]) -> nn.Module:
    """With and without an affine map."""
    return trained(nn.BatchNorm2d(shape[0], affine=r.random() < 0.6))


@piece
def maximum_pooling(r: Random, shape: tuple[int, ...]) -> nn.Module:
    """Half of them tile."""
    if r.random() < 0.6:
        return nn.MaxPool2d(pair(r, 1, 2, 2), ceil_mode=r.random() < 0.1)
    return nn.MaxPool2d(
        pair(r, 2, 3),
        stride=pair(r, 1, 2),
        padding=r.choice([0, 0, 1]),
        dilation=r.choice([1, 1, 2]),
        ceil_mode=r.random() < 0.3,
    )


@piece
def average_pooling(r: Random, shape: tuple[int, ...]) -> nn.Module:
    """Half of them tile."""
    if r.random() < 0.6:
        return nn.AvgPool2d(pair(r, 1, 2, 2), ceil_mode=r.random() < 0.1)
    return nn.AvgPool2d(
        pair(r, 2, 3),
        stride=pair(r, 1, 2),
        padding=r.choice([0, 0, 1]),
        ceil_mode=r.random() < 0.3,
        count_include_pad=r.random() < 0.5,
    )


@piece
def adaptive_pooling(r: Random, shape: tuple[int, ...]) -> nn.Module:
    """To one pixel or a few."""
    return nn.AdaptiveAvgPool2d(r.choice([1, 1, 2, (1, 2), (2, 1), (None, 1)]))


@piece
def reduction(r: Random, shape: tuple[int, ...]) -> nn.Module:
    """Sums, means and maxima over axes in any order, counted from either end."""
    axes = r.choice([(2, 3), (3, 2), (-1, -2), (-2, -1), (1,), (2,), (3,), (-1,), (1, 3), (3, 1)])
    keep = r.random() < 0.5
    if r.random() < 0.2:
        return Apply(lambda x: x.amax(axes[0], keepdim=keep))
    sums = r.random() < 0.5
    return Apply(lambda x: (x.sum if sums else x.mean)(axes, keepdim=keep))


@piece
def reshape(r: Random, shape: tuple[int, ...]) -> nn.Module:
    """The same numbers in another shape."""
    c, h, w = shape
    return Apply(
        r.choice(
            [
                lambda x: x.reshape(-1, w, c, h),
                lambda x: x.reshape(-1, 1, c * h, w),
                lambda x: x.reshape(-1, c * w, h, 1),
                lambda x: x.reshape(-1, c, h * w),
                lambda x: x.flatten(2),
                lambda x: x.flatten(1, 2),
                lambda x: x.reshape(-1, c * h * w),
                lambda x: x.flatten(2).transpose(1, 2),
            ]
        )
    )


@piece
def axes(r: Random, shape: tuple[int, ...]) -> nn.Module:
    """Transposes and axes of size one, put in and taken out."""
    return Apply(
        r.choice(
            [
                lambda x: x.permute(0, 2, 3, 1),
                lambda x: x.permute(0, 3, 1, 2),
                lambda x: x.transpose(2, 3),
                lambda x: x.transpose(-1, 1),
                lambda x: x.unsqueeze(1).squeeze(1),
                lambda x: x.unsqueeze(-1).squeeze(-1),
                lambda x: x.unsqueeze(2).relu().squeeze(2),
                lambda x: x[:, :1].squeeze(1),
                lambda x: x[..., :1].squeeze(-1),
                lambda x: x.unsqueeze(-2).sum(-1),
            ]
        )
    )


@piece
def selection(r: Random, shape: tuple[int, ...]) -> nn.Module:
    """Slices, picks and splits along any axis."""
    axis, index = r.choice([1, 2, 3, -1, -2]), r.randrange(2)
    return Apply(
        r.choice(
            [
                lambda x: x[:, :, 1:],
                lambda x: x[:, -1:],
                lambda x: x[:, :, :-1, 1:],
                lambda x: x[..., ::2],
                lambda x: x[:, :, index],
                lambda x: x[:, 0],
                lambda x: x[..., -1],
                lambda x: x[:, :, [1, 0]],
                lambda x: x[:, :, [0, 0, 1]],
                lambda x: x.index_select(2, torch.tensor([1, 0])),
                lambda x: x.index_select(2, torch.tensor([1, 1])),
                lambda x: x.flip(2),
                lambda x: x.roll(1, 3),
                lambda x: x.chunk(2, axis)[-1],
                lambda x: torch.cat(x.chunk(2, axis)[::-1], axis),
                lambda x: x.split([1, x.shape[2] - 1], 2)[index],
                lambda x: x.narrow(3, 1, 2),
                lambda x: torch.stack(x.unbind(2), 2),
                lambda x: x.gather(2, torch.zeros_like(x, dtype=torch.int64)),
            ]
        )
    )


@piece
def padding(r: Random, shape: tuple[int, ...]) -> nn.Module:
    """Padding by zeros and others, unequal and negative."""
    sides = r.choice([(1, 1, 1, 1), (0, 1, 0, 1), (2, 0, 1, 0), (-1, 0, 0, 1), (0, 0, -1, -1)])
    return Apply(
        r.choice(
            [
                lambda x: F.pad(x, sides),
                lambda x: F.pad(x, sides),
                lambda x: F.pad(x, sides, value=0.7),
                lambda x: F.pad(x, sides, value=-2.0),
                lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
                lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"),
                lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"),
            ]
        )
    )


@piece
def constants(r: Random, shape: tuple[int, ...]) -> nn.Module:
    """Arithmetic with numbers, buffers and parameters of any rank."""
    c, h, w = shape
    sizes = r.choice([(), (1,), (w,), (h, w), (c, 1, 1), (c, h, w), (1, c, 1, 1), (1, 1, h, w)])
    own = torch.randn(sizes)
    own = own.sign() * (0.3 + own.abs())
    if r.random() < 0.5:
        own = own.abs()
    if r.random() < 0.2:
        own = float(own.flatten()[0])
    return with_constant(r, own, r.choice(OPERATIONS))


OPERATIONS: list[Callable[..., Tensor]] = [
    lambda x, k: x + k,
    lambda x, k: x - k,
    lambda x, k: k - x,
    lambda x, k: x * k,
    lambda x, k: x / k,
    lambda x, k: k * x + k,
    lambda x, k: (x - k) / (k * k + 0.1),
    lambda x, k: k / (x.relu() + 0.5),
]


def with_constant(r: Random, own: Any, function: Callable[..., Tensor]) -> nn.Module:
    """A number, a buffer, a parameter, a plain tensor, or one that is computed from a parameter."""
    if isinstance(own, float):
        return Apply(lambda x: function(x, own))
    kind = r.choice(["buffer", "parameter", "plain", "moved", "computed"])
    if kind == "plain":
        return Apply(lambda x: function(x, own.to(x)))
    change = {"moved": lambda k: k[None], "computed": lambda k: k * k.abs()}.get(kind, lambda k: k)
    return Apply(lambda x, k: function(x, change(k)), own, buffers=r.random() < 0.5)


@piece
def wide_constants(r: Random, shape: tuple[int, ...]) -> nn.Module:
    """Constants along an axis that the image has only one of."""
    own = torch.randn(r.choice([(1, 3, 1, 1), (3, 1, 1)]))
    operation = r.choice(OPERATIONS)
    return nn.Sequential(
        Apply(lambda x: x.mean(1, keepdim=True)),
        Apply(lambda x, k: operation(x, k), own, buffers=r.random() < 0.5),
    )


@piece
def activation(r: Random, shape: tuple[int, ...]) -> nn.Module:
    """Scaled, to meet their tails too."""
    scale = r.choice([0.3, 1, 1, 5, 30, 2000])
    function = r.choice(ACTIVATIONS)
    return Apply(lambda x: function(scale * x))


ACTIVATIONS: list[Callable[[Tensor], Tensor]] = [
    torch.relu,
    lambda x: F.leaky_relu(x, 0.2),
    lambda x: F.leaky_relu(x, 0.7),
    lambda x: F.leaky_relu(x, 1.5),
    torch.tanh,
    torch.tanh,
    torch.sigmoid,
    torch.sigmoid,
    lambda x: x * torch.sigmoid(x),
    F.softplus,
    torch.abs,
    lambda x: -x,
    lambda x: (-x).relu(),
    lambda x: -(x.relu()),
    F.relu6,
    lambda x: x.clamp(-0.5, 0.5),
    lambda x: x.clamp(min=0.1),
    F.hardtanh,
    F.hardsigmoid,
    F.elu,
    F.selu,
    F.gelu,
    F.silu,
    F.mish,
    torch.sin,
    torch.cos,
    torch.atan,
    torch.erf,
    torch.sign,
    torch.floor,
    lambda x: x.int().float(),
    lambda x: x.double().float(),
    lambda x: torch.where(x > 0, x, 0.1 * x),
    lambda x: torch.maximum(x, -x),
    lambda x: (x > 0).float() * x,
    lambda x: x % 1,
]


@piece
def domain(r: Random, shape: tuple[int, ...]) -> nn.Module:
    """Functions that are right, or are defined, on a part of the line, at and beyond its edge."""
    floor = r.choice([0, 1e-3, 0.01, 0.1, 0.5, 2, -0.5])
    scale = r.choice([0.2, 1, 1, 3, 50])
    function = r.choice(DOMAINS)
    inside = r.choice([torch.relu, torch.sigmoid, lambda x: x, lambda x: x * x])
    return Apply(lambda x: function(scale * inside(x) + floor))


DOMAINS: list[Callable[[Tensor], Tensor]] = [
    torch.reciprocal,
    lambda x: 2 / x,
    lambda x: -1 / x,
    torch.sqrt,
    torch.rsqrt,
    torch.log,
    torch.log1p,
    torch.exp,
    lambda x: x**2,
    lambda x: x**2,
    lambda x: x**3,
    lambda x: x**4,
    lambda x: x**-1,
    lambda x: x**-2,
    lambda x: x**0.5,
    lambda x: x**0,
    lambda x: x.abs() ** 1.5,
    lambda x: 2**x,
    torch.tan,
    torch.asin,
    lambda x: (x.exp() + 1).log(),
]


@piece
def quotient(r: Random, shape: tuple[int, ...]) -> nn.Module:
    """Both operands depend on the image; the denominator stays positive but for some."""
    floor = r.choice([0.01, 0.1, 0.1, 0.5, 1, -0.1, 0])
    positive = r.choice([torch.relu, torch.sigmoid, torch.abs, lambda x: x * x, lambda x: x])
    reduce = r.choice(
        [lambda x: x, lambda x: x.sum(1, keepdim=True), lambda x: x.mean((2, 3), True)]
    )
    above = Apply(r.choice([torch.relu, lambda x: x, torch.tanh]))
    below = Apply(lambda x: reduce(positive(x)) + floor)
    return Branches(torch.div, side(r, shape, above), side(r, shape, below))


@piece
def product(r: Random, shape: tuple[int, ...]) -> nn.Module:
    """Both operands depend on the image, or are the same."""
    gate = r.choice(
        [lambda x: x, torch.sigmoid, torch.relu, lambda x: x.mean((2, 3), True).sigmoid()]
    )
    return r.choice(
        [
            Apply(lambda x: x * x),
            Apply(lambda x: x.relu() * x.relu()),
            Apply(lambda x: x.relu() * x.sigmoid()),
            Branches(torch.mul, side(r, shape), side(r, shape, Apply(gate))),
            Branches(torch.mul, nn.Identity(), side(r, shape, Apply(gate))),
            Branches(torch.mul, side(r, shape, Apply(gate)), nn.Identity()),
        ]
    )


@piece
def addition(r: Random, shape: tuple[int, ...]) -> nn.Module:
    """Sums of branches, of an input and itself, and along axes of size one."""
    few = r.choice([lambda x: x, lambda x: x.mean((2, 3), True), lambda x: x.sum(1, True)])
    return r.choice(
        [
            Apply(lambda x: x + x),
            Apply(lambda x: x - x.relu()),
            Apply(lambda x: x - x),
            Apply(lambda x: x.relu() - 2 * x),
            Branches(torch.add, nn.Identity(), side(r, shape)),
            Branches(torch.add, side(r, shape), side(r, shape, Apply(few))),
            Branches(torch.sub, side(r, shape, Apply(few)), side(r, shape)),
        ]
    )


@piece
def concatenation(r: Random, shape: tuple[int, ...]) -> nn.Module:
    """Along any axis, of an input with itself, and with constants."""
    axis = r.choice([1, 1, 2, 3, -1, -3])
    return r.choice(
        [
            Branches(lambda *b: torch.cat(b, axis), side(r, shape), nn.Identity()),
            Branches(lambda *b: torch.cat(b, axis), nn.Identity(), side(r, shape), nn.ReLU()),
            Apply(lambda x: torch.cat([x, x], axis)),
            Apply(lambda x, k: torch.cat([x, k.expand_as(x)], 1), torch.randn(shape)),
            Branches(lambda a, b: torch.stack([a, b], 1).mean(1), side(r, shape), nn.ReLU()),
            Branches(lambda a, b: torch.stack([a, b], 2).flatten(1, 2), side(r, shape), nn.ReLU()),
        ]
    )


@piece
def weights(r: Random, shape: tuple[int, ...]) -> nn.Module:
    """Convolutions whose weights are computed, from parameters or from the image."""
    own = torch.randn(2, shape[0], 2, 2)
    mask = (torch.rand_like(own) > 0.4).float()
    scales = torch.rand(2, 1, 1, 1) + 0.5
    return r.choice(
        [
            Apply(lambda x, w, m: F.conv2d(x, w * m), own, mask),
            Apply(lambda x, w, m: F.conv2d(x, w * m), own, mask, buffers=False),
            Apply(
                lambda x, w: F.conv2d(x, w - w.mean((1, 2, 3), keepdim=True)), own, buffers=False
            ),
            Apply(
                lambda x, w, g: F.conv2d(x, g * w / w.pow(2).sum((1, 2, 3), True).sqrt()),
                own,
                scales,
                buffers=False,
            ),
            Apply(lambda x, w: F.conv2d(x, w * x.mean()), own),
            Apply(lambda x, w: F.conv2d(x, w.transpose(2, 3)), own, buffers=False),
            nn.utils.parametrizations.weight_norm(nn.Conv2d(shape[0], 2, 2)),
        ]
    )


@piece
def normalisation(r: Random, shape: tuple[int, ...]) -> nn.Module:
    """By the image's own statistics."""
    return r.choice(
        [
            nn.LayerNorm(shape),
            nn.LayerNorm(shape[-1]),
            nn.GroupNorm(1, shape[0]),
            nn.InstanceNorm2d(shape[0]),
            Apply(lambda x: x / (x.pow(2).sum(1, True) + 1).sqrt()),
            Apply(lambda x: F.normalize(x, dim=1)),
            Apply(lambda x: x.softmax(1)),
            Apply(lambda x: x.flatten(1).softmax(1)),
            Apply(lambda x: x.softmax(-1)),
            nn.LocalResponseNorm(2),
        ]
    )


@piece
def resize(r: Random, shape: tuple[int, ...]) -> nn.Module:
    """More pixels, or others."""
    return r.choice([nn.Upsample(scale_factor=2), nn.PixelUnshuffle(1), nn.ChannelShuffle(1)])


@vector
def linear(r: Random, shape: tuple[int, ...]) -> nn.Module:
    """Layers, and products of matrices in other words."""
    n, width = shape[0], r.choice([2, 5])
    w, b = torch.randn(width, n), torch.randn(width)
    alpha, beta = r.choice([1, 0.5, -2]), r.choice([1, 0, 3])
    own = r.random() < 0.5
    return r.choice(
        [
            nn.Linear(n, width, bias=r.random() < 0.5),
            Apply(
                lambda x, w, b: torch.addmm(b, x, w.t(), alpha=alpha, beta=beta), w, b, buffers=own
            ),
            Apply(lambda x, w, b: x @ w.t() + b, w, b, buffers=own),
            Apply(lambda x, w, b: F.linear(x, w, b), w, b, buffers=own),
            Apply(lambda x, w: F.linear(x, w), w, buffers=own),
            Apply(lambda x, w: F.linear(x, w * w), w, buffers=own),
            Apply(lambda x, w: torch.einsum("bi,oi->bo", x, w), w, buffers=own),
            Apply(lambda x, w: (w @ x.t()).t(), w, buffers=own),
            Apply(lambda x: (x.unsqueeze(1) @ x.unsqueeze(2)).flatten(1)),
            Apply(lambda x: x.unsqueeze(2) @ x.unsqueeze(1)),
            nn.Sequential(nn.Unflatten(1, (1, n)), nn.Linear(n, width), nn.ReLU()),
            nn.Bilinear(n, n, 2) if r.random() < 0.0 else nn.Linear(n, width),
        ]
    )


@vector
def vector_norm(r: Random, shape: tuple[int, ...]) -> nn.Module:
    """With and without an affine map."""
    return trained(nn.BatchNorm1d(shape[0], affine=r.random() < 0.6))


@vector
def vector_activation(r: Random, shape: tuple[int, ...]) -> nn.Module:
    """As `activation`, or at the edge of a domain."""
    return r.choice([activation, domain])(r, shape)


@vector
def vector_constants(r: Random, shape: tuple[int, ...]) -> nn.Module:
    """As `constants`."""
    own = torch.randn(r.choice([(), (1,), shape, (1, *shape)])).abs() + 0.3
    return with_constant(r, own, r.choice(OPERATIONS))


@vector
def vector_shape(r: Random, shape: tuple[int, ...]) -> nn.Module:
    """Vectors made into images, and parts of vectors."""
    n = shape[0]
    return Apply(
        r.choice(
            [
                lambda x: x.reshape(-1, 1, n, 1),
                lambda x: x.reshape(-1, 1, 1, n).relu(),
                lambda x: x.unsqueeze(1).unsqueeze(-1),
                lambda x: x[:, 1:],
                lambda x: x[:, [0, 0, 1]],
                lambda x: x[:, 0].unsqueeze(1),
                lambda x: x.sum(1, keepdim=True),
                lambda x: x.mean(-1).unsqueeze(-1),
                lambda x: torch.cat([x, x.relu()], 1),
                lambda x: torch.cat([x, x.relu()], -1),
                lambda x: torch.stack([x, x.relu()], 2).flatten(1),
                lambda x: x.cumsum(1),
                lambda x: x.softmax(1),
                lambda x: x.log_softmax(-1),
                lambda x: x.sort(1).values,
                lambda x: x - x.mean(1, keepdim=True),
                lambda x: x / (x.relu().sum(1, keepdim=True) + 0.1),
            ]
        )
    )


def side(r: Random, shape: tuple[int, ...], *after: nn.Module) -> nn.Module:
    """A small convolution that keeps the shape, then other layers."""
    kernel = r.choice([1, 3])
    first = nn.Conv2d(shape[0], shape[0], kernel, padding=kernel // 2, bias=r.random() < 0.7)
    return nn.Sequential(first, *after)


def trained(layer: nn.Module) -> nn.Module:
    """A norm with statistics, and an affine map, as training leaves them."""
    with torch.no_grad():
        layer.running_mean.normal_(0, 0.5)
        layer.running_var.uniform_(0.3, 2)
        if layer.affine:
            layer.weight.normal_()
            layer.bias.normal_(0, 0.5)
    return layer


def draw(seed: int, name: str | None = None) -> Drawn:
    """One network.

    Args:
        seed: of everything in it.
        name: of its piece; drawn if it is not given.
    """
    r = Random(seed)
    name = name or r.choice([*PIECES, *VECTORS])
    for attempt in range(100):
        torch.manual_seed(1000 * seed + attempt)
        shape = r.choice(
            [(1, 2, 2), (1, 3, 3), (2, 2, 3), (1, 4, 3), (1, 4, 4), (3, 2, 2), (1, 5, 5)]
        )
        try:
            return Drawn(name, _around(r, name, shape), shape)
        except (RuntimeError, ValueError, IndexError, TypeError):
            continue  # the piece does not go with this shape, or with what is around it
    raise RuntimeError(f"no network of {name} from seed {seed}")


@torch.no_grad()
def _around(r: Random, name: str, shape: tuple[int, ...]) -> nn.Module:
    """Layers before and behind a piece, and the classifier that fits."""
    body = nn.Sequential().eval()
    images = torch.rand(64, *shape)

    def now() -> tuple[int, ...]:
        return tuple(body(images).shape[1:])

    def add(layer: nn.Module) -> None:
        body.append(layer.eval())
        values = body(images)
        if values.shape[0] != len(images) or not values.isfinite().all() or values.numel() < 64:
            raise ValueError("not a layer for these images")
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None and r.random() < 0.7:
            axes = [axis for axis in range(values.ndim) if axis != 1]
            if values.shape[1] == len(layer.bias):  # centred, so that what follows is unstable
                layer.bias -= values.mean(axes)

    if r.random() < 0.85:
        size = r.choice([1, 2, 3])
        stride, pad = r.choice([1, 1, 2]), r.choice([0, 1])
        add(nn.Conv2d(shape[0], r.choice([1, 2, 3]), size, stride, pad, bias=r.random() < 0.8))
        if r.random() < 0.4:
            add(nn.ReLU())
    if name in VECTORS:
        add(nn.Flatten())
    for _ in range(r.choice([1, 1, 1, 2])):
        makers = PIECES if len(now()) == 3 else VECTORS
        if name in makers:
            add(makers[name](r, now()))
    if r.random() < 0.7:
        if len(now()) == 3 and r.random() < 0.8:
            if r.random() < 0.3:
                add(trained(nn.BatchNorm2d(now()[0])))
            if r.random() < 0.4:
                add(nn.ReLU())
            add(nn.Conv2d(now()[0], 2, min(2, *now()[1:]), stride=r.choice([1, 1, 2])))
        else:
            add(nn.Flatten())
            add(nn.Linear(now()[0], 4))
        add(r.choice([nn.ReLU(), nn.ReLU(), nn.Tanh()]))
    if len(now()) > 1:
        add(nn.Flatten())
    if now()[0] != CLASSES or r.random() < 0.8:
        add(nn.Linear(now()[0], CLASSES))
    for parameter in body.parameters():
        parameter.mul_(r.choice([1, 1, 2]))
    return body
