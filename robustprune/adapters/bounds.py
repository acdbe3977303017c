"""Certified bounds on a network's outputs over a box of images, by auto-LiRPA.

The bounds hold in exact arithmetic for the network in eval mode; `TOLERANCE` covers float32.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from robustprune.adapters.lirpa_library import lirpa, recursion
from robustprune.adapters.operators import graph_of, of_the_image, refuse_wrong
from robustprune.adapters.rules import kind_of
from robustprune.adapters.unbounded import is_memory, named
from robustprune.errors import UsageError
from robustprune.train_mode import eval_mode
from robustprune.unparametrize import plain_copy

Method = Literal["ibp", "crown_ibp", "crown", "alpha_crown"]
METHODS: dict[Method, str] = {
    "ibp": "IBP",
    "crown_ibp": "CROWN-IBP",
    "crown": "CROWN",
    "alpha_crown": "CROWN-Optimized",
}
"""The library's names of the bounds, from the cheapest and loosest to the dearest and tightest."""

NARROW = 1e-6
"""Width below which an interval's chord is taken to be its tangent."""
INSIDE = 1e-3
"""Distance that slopes of α-CROWN keep from 0 and 1. The library clamps them to [0, 1], and recent
torch has no gradient at the ends of a clamp, where CROWN's own slopes lie: they would stay."""

_COMPUTED = ("linear", "lower", "upper", "interval", "forward_value", "lA", "uA", "d", "lower_d")
"""Attributes in which the library's nodes keep what they compute."""

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
        _check_network(model, images)
        lirpa()  # or its absence would be taken for a fault of the network
        self._shape, self._twin = images.shape[1:], plain_copy(model)
        image = images[:1].detach().contiguous()
        with _at_work(images):
            with named(self._twin, bound="IBP"):
                self._graph = graph_of(self._twin, image)
                refuse_wrong(self._graph, bound="IBP")
            self._leaves = [
                node
                for node in self._graph._modules.values()
                if kind_of(node) in ("Params", "Buffers")
            ]
            self.num_classes = self._check_forward(model, image)
        self._compared: set[str] = set()

    def fits(self, images: Tensor) -> bool:
        """True if these bounds are for images of this shape."""
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
        with self._computing(model, images, eps, method) as ball:
            if method == "alpha_crown":
                return self._optimised(ball, rows, iterations)
            return self._lower(ball, rows, method)

    def interval_and_linear(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, eps: float
    ) -> tuple[Tensor, Tensor]:
        """IBP's margins and CROWN-IBP's, which begins with the former, from one pass.

        See `margins` for the arguments, and for what each of the two is.
        """
        rows = self.contrasts(labels).to(images)
        with self._computing(model, images, eps, "crown_ibp") as ball:
            linear = self._lower(ball, rows, "crown_ibp")
            interval = self._graph.ibp_lower
        return interval, linear

    def cross_entropy(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, eps: float
    ) -> Tensor:
        """Upper bounds on log Σ_j exp(d_j) over the box, d_j = f(x')_j − f(x')_y: ``(n,)``.

        With intervals of the d_j from IBP, each exp lies below its chord there, and the logarithm
        below its tangent at a point s: one linear function of the logits, which CROWN-IBP bounds in
        a single backward pass. In narrow boxes that beats the loss of CROWN-IBP's margins, because
        the classes are bounded together; where intervals are wide chords are loose, and it nears
        IBP's. Source: the loss fusion of Xu et al. 2020 (arXiv 2002.12920), Sec. 3.3, which takes a
        gather that cannot be traced and is written out here.

        See `margins` for the arguments.
        """
        contrasts = self.contrasts(labels).to(images)  # rows f_y - f_j = -d_j
        with self._computing(model, images, eps, "ibp") as ball:
            lower, upper = self._graph.compute_bounds(x=(ball,), C=contrasts, method="IBP")
        high, low = -lower, -upper
        shift = high.detach().amax(1, keepdim=True).clamp_min(0)  # or exp overflows
        top, bottom = (high - shift).exp(), (low - shift).exp()
        wide = high - low > NARROW
        slope = torch.where(wide, (top - bottom) / (high - low).clamp_min(NARROW), top)
        intercept = top - slope * (high - shift)
        own = (-shift[:, 0]).exp() + intercept.sum(1)  # what does not depend on the image
        s = own + (slope * ((high + low) / 2 - shift)).sum(1)
        row = (slope / s[:, None]).unsqueeze(1) @ contrasts
        with self._computing(model, images, eps, "crown_ibp") as ball:
            linear = -self._lower(ball, row, "crown_ibp")[:, 0]
        constant = (own - (slope * shift).sum(1) - s) / s
        found: Tensor = shift[:, 0] + s.log() + linear + constant
        return found

    def contrasts(self, labels: Tensor) -> Tensor:
        """Rows ``e_y - e_j`` for each j other than y: ``(n, classes - 1, classes)``, on the CPU."""
        classes = self.num_classes  # the graph's own final_shape is that of the last bound
        one = torch.eye(classes)
        every = (one[:, None] - one[None])[~one.bool()].view(classes, classes - 1, classes)
        return every[labels.cpu()]

    @contextmanager
    def _computing(
        self, model: nn.Module, images: Tensor, eps: float, method: Method
    ) -> Iterator[Any]:
        """Hand the network's tensors over, and give the images' ball, for one use of the graph."""
        self._hand_over(model, detached=method == "alpha_crown")
        images, bound = images.detach().contiguous(), METHODS[method]
        lower, upper = (images - eps).clamp(0, 1), (images + eps).clamp(0, 1)
        norm = lirpa().PerturbationLpNorm(norm=float("inf"), eps=eps, x_L=lower, x_U=upper)
        with _at_work(images), named(self._twin, bound=bound):
            if bound not in self._compared:  # it does not depend on the images
                refuse_wrong(self._graph, bound=bound)
                self._compared.add(bound)
            yield lirpa().BoundedTensor(images, norm)
        self._forget()

    def _lower(self, ball: Any, rows: Tensor, method: Method) -> Tensor:
        """Lower bounds, ``(n, functions)``, on linear functions ``(n, functions, classes)``."""
        bound: Tensor = self._graph.compute_bounds(
            x=(ball,), C=rows, method=METHODS[method], bound_upper=False
        )[0]
        return bound

    def _optimised(self, ball: Any, rows: Tensor, iterations: int) -> Tensor:
        """α-CROWN: CROWN whose slopes under ReLU follow the gradient of the bound itself.

        No bound is below CROWN's. Source: Xu et al. 2021 (arXiv 2011.13824), with the bounds of
        hidden layers fixed at CROWN's, which costs a twentieth of optimising them too.
        """
        graph, passes = self._graph, iterations + 1  # the library's last one takes no step
        graph.set_bound_opts({"optimize_bound_args": {"iteration": passes, "init_alpha": False}})
        # both names were others before version 0.4
        initialise = getattr(graph, "init_slope", None) or graph.init_alpha
        names = inspect.signature(graph.compute_bounds).parameters
        fixed = "interm_bounds" if "interm_bounds" in names else "intermediate_layer_bounds"
        crown, _, hidden = initialise((ball,), method="backward", c=rows, bound_upper=False)
        if not _keep_slopes_inside(graph):
            return crown.detach()  # type: ignore[no-any-return]
        with torch.enable_grad():
            bound, _ = graph.compute_bounds(
                x=(ball,), C=rows, method="CROWN-Optimized", bound_upper=False, **{fixed: hidden}
            )
        return torch.maximum(crown, bound).detach()

    def _forget(self) -> None:
        """Let go of what was computed, so that no step's graph is kept beyond it.

        The library clears itself when it is used next; its own way takes as long as a small layer.
        """
        self._graph.ibp_lower = self._graph.ibp_upper = None
        for node in self._graph._modules.values():
            for name in _COMPUTED:
                vars(node).pop(name, None)

    def _hand_over(self, model: nn.Module, *, detached: bool = False) -> None:
        for leaf in self._leaves:
            path, _, name = leaf.ori_name.rpartition(".")
            tensor = getattr(model.get_submodule(path), name)
            if kind_of(leaf) == "Buffers":
                leaf.buffer = tensor.detach()
                continue
            if tensor is not None:  # or it is a bias of zeros that only the graph has
                leaf._parameters.pop("param", None)
                leaf.param = (tensor.detach() if detached else tensor).contiguous()
            # its own forward would make a frozen tensor want gradients
            leaf.forward = lambda leaf=leaf: leaf.param

    def _check_forward(self, model: nn.Module, image: Tensor) -> int:
        """Refuse a graph that computes something else than the network; gives its classes' number.

        Several images, each on its own in the network and together in the graph, show also whether
        an image's logits depend on the batch it is in, and whether a branch was taken for all that
        was taken for one: light and dark ones, and noise.
        """
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(3, *self._shape, generator=generator).to(image)
        flat = [torch.full_like(image, value) for value in (0.02, 0.5, 1.0)]
        images = torch.cat([image, 1 - image, *flat, noise, 0.1 * noise])
        why = ""
        with torch.no_grad(), eval_mode(model):
            expected = torch.cat([model(image[None]) for image in images])
            try:
                found = self.forward(model, images)
            except RuntimeError as error:
                if is_memory(error):
                    raise
                why = (
                    "has fixed the number of images, as x.view(x.size(0), -1) makes it do where "
                    "x.flatten(1) does not"
                )
            else:
                scale = float(expected.nan_to_num().abs().max().clamp_min(1.0))
                if not torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * scale):
                    by = (found - expected).abs().max().item()
                    why = f"gives other logits than each image alone does (by up to {by:.2g})"
        if why:
            raise UsageError(
                f"auto-LiRPA's graph of this network {why}: its bounds would not be about this "
                "network. Judge it by attacks or by {name: smoothing} instead."
            )
        return int(expected.shape[1])


def certified(margins: Tensor, logits: Tensor) -> Tensor:
    """The images of which every margin is certainly positive: ``(n,)``, boolean.

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


def _keep_slopes_inside(graph: Any) -> bool:
    """Move every slope off the ends of [0, 1], now and after each step; False if there is none."""
    relus = [n for n in graph.optimizable_activations if kind_of(n) == "Relu" and n.alpha]
    for node in relus:

        def clip(node: Any = node) -> None:
            for slope in node.alpha.values():
                slope.data.clamp_(INSIDE, 1 - INSIDE)

        clip()
        node.clip_alpha_ = clip
    return bool(relus)


def _check_network(model: nn.Module, images: Tensor) -> None:
    kinds = {tensor.dtype for tensor in (images, *model.parameters(), *model.buffers())}
    rough = [str(kind) for kind in kinds if kind in (torch.bfloat16, torch.float16)]
    if rough:
        raise UsageError(
            f"bounds are right up to the rounding of float32, and this network has {rough[0]}: "
            "use model.float() and images.float()"
        )
    for name, layer in model.named_modules():
        if isinstance(layer, _NormBase) and layer.running_mean is None:
            raise UsageError(
                f"layer '{name}' ({type(layer).__name__}) normalises by the batch it sees also in "
                "eval mode: there is no one function to bound. Use track_running_stats=True."
            )
