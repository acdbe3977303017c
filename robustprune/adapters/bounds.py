"""Certified bounds on a network's outputs over a box of images, by auto-LiRPA.

The bounds hold in exact arithmetic for the network in eval mode; `TOLERANCE` covers float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from robustprune.adapters.lirpa_library import lirpa, recursion
from robustprune.adapters.operators import graph_of, of_the_image, refuse_wrong
from robustprune.adapters.optimised import optimise
from robustprune.adapters.rules import kind_of
from robustprune.adapters.unbounded import is_memory, named
from robustprune.errors import UsageError
from robustprune.modes import eval_mode
from robustprune.plain import plain_copy

if TYPE_CHECKING:
    from types import ModuleType

Method = Literal["ibp", "crown_ibp", "crown", "alpha_crown"]
METHODS: dict[Method, str] = {
    "ibp": "IBP",
    "crown_ibp": "CROWN-IBP",
    "crown": "CROWN",
    "alpha_crown": "CROWN-Optimized",
}
"""The library's names of the bounds, from the cheapest and loosest to the dearest and tightest."""

_COMPUTED = ("linear", "lower", "upper", "interval", "forward_value", "lA", "uA", "d", "lower_d")
"""Where the library's nodes keep what they compute."""

TOLERANCE = 1e-5
"""A margin is certified above this share of the logits' scale, which counts as 1 at least: bounds
are sound up to float32, and logits may be small because larger numbers cancel."""


class Bounds:
    """Lower bounds on the margins of one network.

    The library's graph is built once, from a plain copy. Before every use it is handed each tensor
    that the network computes with at that moment (masked weights, biases, norms' affine parameters
    and running statistics), so that gradients reach what those were computed from, scores included,
    and nothing in it goes stale.

    Args:
        model: maps images in [0, 1] to logits, ``(n, classes)``.
        images: ``(n, channels, height, width)``; some images that it takes.

    Raises:
        UsageError: the library cannot bound a layer of the network; names it and what to use.
        MissingDependencyError: auto-LiRPA is not installed.
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        _check_statistics(model)
        _check_precision(model, images)
        self._library: ModuleType = lirpa()
        self._shape = images.shape[1:]
        self._twin, self._image = plain_copy(model), images[:1].detach().contiguous()
        with _at_work(images):
            with named(self._library, self._twin, self._image, bound="IBP"):
                self._graph = graph_of(self._twin, self._image)
                refuse_wrong(self._graph, bound="IBP")
            self._leaves = [
                node
                for node in self._graph._modules.values()
                if type(node).__name__ in ("BoundParams", "BoundBuffers")
            ]
            self.num_classes = self._check_forward(model)
        self._compared: set[str] = set()

    def fits(self, images: Tensor) -> bool:
        """Whether these bounds are for images of this shape."""
        return images.shape[1:] == self._shape

    def operators(self) -> frozenset[str]:
        """The operators, in the library's words, whose value depends on the image."""
        return frozenset(map(kind_of, of_the_image(self._graph)))

    def forward(self, model: nn.Module, images: Tensor) -> Tensor:
        """The logits of the library's graph, ``(n, classes)``: the network's in eval mode."""
        self._hand_over(model)
        with _at_work(images):
            logits: Tensor = self._graph(images.contiguous())
        self._forget()
        return logits

    def margins(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        eps: float,
        method: Method,
        iterations: int = 20,
    ) -> Tensor:
        """Lower bounds on ``f(x')_y - f(x')_j`` over all x' in the ball and in [0, 1].

        Args:
            model: the network itself, or one with tensors of the same names and shapes.
            images: ``(n, channels, height, width)`` in [0, 1].
            labels: y, ``(n,)``, int64.
            eps: radius of the ℓ∞ ball; [0, 1] pixel range.
            method: the bound.
            iterations: optimisation steps of ``alpha_crown``.

        Returns:
            ``(n, classes - 1)``, the classes j in their order without y; with a graph to the
            network's tensors where those want gradients (``alpha_crown``: never).

        Raises:
            UsageError: the library has no such bound for a layer of the network.
        """
        rows = self.contrasts(labels).to(images)
        return self.linear(model, images, rows, eps=eps, method=method, iterations=iterations)

    def interval_and_linear(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, eps: float
    ) -> tuple[Tensor, Tensor]:
        """IBP's margins and CROWN-IBP's, which begins with the former, from one pass.

        See `margins` for the arguments, and for what each of the two is.
        """
        rows = self.contrasts(labels).to(images)
        with self._computing(model, images, eps, "crown_ibp") as ball:
            linear, _ = self._graph.compute_bounds(
                x=(ball,), C=rows, method=METHODS["crown_ibp"], bound_upper=False
            )
            interval = self._graph.ibp_lower
        return interval, linear

    def interval(
        self, model: nn.Module, images: Tensor, rows: Tensor, *, eps: float
    ) -> tuple[Tensor, Tensor]:
        """IBP's lower and upper bounds on linear functions of the logits; see `linear`."""
        with self._computing(model, images, eps, "ibp") as ball:
            lower, upper = self._graph.compute_bounds(x=(ball,), C=rows, method=METHODS["ibp"])
        return lower, upper

    def linear(
        self,
        model: nn.Module,
        images: Tensor,
        rows: Tensor,
        *,
        eps: float,
        method: Method,
        iterations: int = 20,
    ) -> Tensor:
        """Lower bounds on linear functions of the logits; the other arguments are `margins`'.

        ``rows``, ``(n, functions, classes)``, are their coefficients; it returns
        ``(n, functions)``.
        """
        bound: Tensor
        with self._computing(model, images, eps, method) as ball:
            if method == "alpha_crown":
                bound = optimise(self._graph, ball, rows, iterations=iterations)
            else:
                bound, _ = self._graph.compute_bounds(
                    x=(ball,), C=rows, method=METHODS[method], bound_upper=False
                )
        return bound

    @contextmanager
    def _computing(
        self, model: nn.Module, images: Tensor, eps: float, method: Method
    ) -> Iterator[Tensor]:
        """The network's tensors handed over, and the images' ball, for one use of the graph."""
        self._hand_over(model, detached=method == "alpha_crown")
        images = images.detach().contiguous()
        lower, upper = (images - eps).clamp(0, 1), (images + eps).clamp(0, 1)
        norm = self._library.PerturbationLpNorm(norm=float("inf"), eps=eps, x_L=lower, x_U=upper)
        with (
            _at_work(images),
            named(self._library, self._twin, self._image, bound=METHODS[method]),
        ):
            self._refuse_wrong(METHODS[method])
            yield self._library.BoundedTensor(images, norm)
        self._forget()

    def _refuse_wrong(self, bound: str) -> None:
        """What does not depend on the images is asked once."""
        if bound not in self._compared:
            refuse_wrong(self._graph, bound=bound)
            self._compared.add(bound)

    def _forget(self) -> None:
        """Let go of what was computed, so that no step's graph is kept beyond it.

        The library clears itself when it is used next; its own way takes as long as a small layer.
        """
        self._graph.ibp_lower = self._graph.ibp_upper = None
        for node in self._graph._modules.values():
            for name in _COMPUTED:
                vars(node).pop(name, None)

    def contrasts(self, labels: Tensor) -> Tensor:
        """Rows ``e_y - e_j`` for each j other than y: ``(n, classes - 1, classes)``, on the CPU."""
        classes = self.num_classes  # the graph's own final_shape is that of the last bound
        one = torch.eye(classes)
        every = (one[:, None] - one[None])[~one.bool()].view(classes, classes - 1, classes)
        return every[labels.cpu()]

    def _hand_over(self, model: nn.Module, *, detached: bool = False) -> None:
        for leaf in self._leaves:
            path, _, name = leaf.ori_name.rpartition(".")
            tensor = getattr(model.get_submodule(path), name)
            if type(leaf).__name__ == "BoundBuffers":
                leaf.buffer = tensor.detach()
                continue
            if tensor is not None:  # or it is a bias of zeros that only the graph has
                leaf._parameters.pop("param", None)
                leaf.param = (tensor.detach() if detached else tensor).contiguous()
            # its own forward would make a frozen tensor want gradients
            leaf.forward = lambda leaf=leaf: leaf.param

    def _check_forward(self, model: nn.Module) -> int:
        """A graph that computes something else than the network bounds something else.

        Several images, each on its own in the network and together in the graph, show also whether
        an image's logits depend on the batch it is in, and whether a branch was taken for all that
        was taken for one: light and dark ones, and noise.

        Returns:
            The number of classes.
        """
        image = self._image
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(3, *self._shape, generator=generator).to(image)
        flat = [torch.full_like(image, value) for value in (0.02, 0.5, 1.0)]
        images = torch.cat([image, 1 - image, *flat, noise, 0.1 * noise])
        with torch.no_grad(), eval_mode(model):
            expected = torch.cat([model(image[None]) for image in images])
            try:
                found = self.forward(model, images)
            except RuntimeError as error:
                if is_memory(error):
                    raise
                raise _another(
                    "has fixed the number of images, as x.view(x.size(0), -1) makes it do where "
                    "x.flatten(1) does not"
                ) from error
        if not torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * _scale(expected)):
            by = (found - expected).abs().max().item()
            raise _another(f"gives other logits than each image alone does (by up to {by:.2g})")
        return int(expected.shape[1])


def certified(margins: Tensor, logits: Tensor) -> Tensor:
    """Whether every margin of an image is certainly positive: ``(n,)``, boolean.

    Args:
        margins: lower bounds, ``(n, classes - 1)``.
        logits: of the untouched images, ``(n, classes)``; they give the scale.
    """
    scale = logits.abs().amax(1).clamp_min(1)
    return (margins.amin(1) > TOLERANCE * scale) & margins.isfinite().all(1)


@contextmanager
def _at_work(images: Tensor) -> Iterator[None]:
    """In full precision, and as deep as the library recurses."""
    with torch.autocast(images.device.type, enabled=False), recursion():
        yield


def _another(why: str) -> UsageError:
    return UsageError(
        f"auto-LiRPA's graph of this network {why}: its bounds would not be about this network. "
        "Judge it by attacks or by {name: smoothing} instead."
    )


def _scale(logits: Tensor) -> float:
    return float(logits.nan_to_num().abs().max().clamp_min(1.0))


def _check_precision(model: nn.Module, images: Tensor) -> None:
    kinds = {tensor.dtype for tensor in (images, *model.parameters(), *model.buffers())}
    rough = [str(kind) for kind in kinds if kind in (torch.bfloat16, torch.float16)]
    if rough:
        raise UsageError(
            f"bounds are right up to the rounding of float32, and this network has {rough[0]}: "
            "use model.float() and images.float()"
        )


def _check_statistics(model: nn.Module) -> None:
    for name, layer in model.named_modules():
        if isinstance(layer, _NormBase) and layer.running_mean is None:
            raise UsageError(
                f"layer '{name}' ({type(layer).__name__}) normalises by the batch it sees also in "
                "eval mode: there is no one function to bound. Use track_running_stats=True."
            )
