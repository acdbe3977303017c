"""Bounds of small random networks against the least margins that a search finds.

    python benchmarks/soundness.py
    python benchmarks/soundness.py --networks 200 --seed 7 --piece quotient

Every operator, with every attribute drawn, is bounded by all four bounds and by `verified`, or it
is refused. No bound may be above the least margin that is found in the ball: among its corners,
points inside, and where gradients lead.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import multiprocessing
import sys
import warnings
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import torch
from soundness_networks import CLASSES, PIECES, VECTORS, draw
from torch import Tensor, nn

from robustprune.adapters.bounds import METHODS, TOLERANCE, Bounds, certified
from robustprune.errors import UsageError
from robustprune.evaluators.cascade import Cascade
from robustprune.pipeline.results import environment

RESULTS = Path(__file__).parent / "results" / "soundness"
RADII = (0.003, 0.03, 0.1, 0.3, 1.0)
STARTS, STEPS = 16, 15


class Verdict(NamedTuple):
    """Outcome of one network.

    Attributes:
        seed: that it was drawn from.
        piece: what it was drawn for.
        network: its layers, in words.
        eps: the balls' radius.
        wrong: bounds that are none: above a margin that was found in the ball by more than
            rounding, or certified though an image in the ball is classified wrongly.
        refused: bounds that were refused, and why.
        kinds: the operators whose value depends on the image, of networks that have a bound.
    """

    seed: int
    piece: str
    network: str
    eps: float
    wrong: list[str]
    refused: dict[str, str]
    kinds: frozenset[str]


def judge(seed: int, piece: str | None = None) -> Verdict:
    """Bound one network and search its balls."""
    drawn = draw(seed, piece)
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(3, *drawn.shape, generator=generator)
    images[1] = images[1].round()
    eps = RADII[seed % len(RADII)]
    network = drawn.network
    with torch.no_grad():
        logits = network(images)
    labels = logits.argmax(1)
    least = minima(network, images, labels, eps=eps, generator=generator)
    broken, limit = least.amin(1) < 0, TOLERANCE * _largest(network, images)
    wrong, refused, kinds = [], {}, frozenset[str]()
    graph: Bounds | None = None
    for method in METHODS:
        try:
            graph = graph or Bounds(network, images)
            found = graph.margins(network, images, labels, eps=eps, method=method, iterations=4)
        except UsageError as error:
            refused[method] = str(error)
            continue
        except Exception as error:  # a traceback where there should be a refusal
            wrong.append(f"{method}: {error!r}")
            break
        found, kinds = found.detach(), graph.operators()
        if (found > least + limit).any() or (certified(found, logits) & broken).any():
            wrong.append(method)
    try:
        by = Cascade(list(METHODS), eps=eps, iterations=4).settle(network, images, labels)
        if ((by >= 0) & broken).any():
            wrong.append("verified")
    except UsageError as error:
        refused["verified"] = str(error)
    return Verdict(seed, drawn.name, str(network), eps, wrong, refused, kinds)


def _largest(network: nn.Module, images: Tensor) -> float:
    """The largest number inside, of which rounding is a share; 1 at least."""
    sizes = [1.0]
    for layer in network:
        images = layer(images)
        sizes.append(float(images.detach().abs().max()))
    return max(sizes)


def minima(
    network: nn.Module, images: Tensor, labels: Tensor, *, eps: float, generator: torch.Generator
) -> Tensor:
    """The least margins that a search of each image's ball finds, ``(n, classes - 1)``, float64."""
    try:
        exact = copy.deepcopy(network).double()
        exact(images.double())
    except RuntimeError:  # it has numbers of its own type
        exact = network
    kind = next(exact.parameters()).dtype
    images = images.to(kind)
    low, high = (images - eps).clamp(0, 1), (images + eps).clamp(0, 1)
    pixels = images[0].numel()
    shares = torch.rand(1200, pixels, generator=generator)
    shares[:700] = shares[:700].round()
    if pixels <= 9:
        corners = torch.arange(2**pixels)
        shares = torch.cat([shares, (corners[:, None] >> torch.arange(pixels) & 1).float()])
    points = low + shares.to(kind).view(-1, 1, *images.shape[1:]) * (high - low)
    with torch.no_grad():
        found = _margins(exact, points.flatten(0, 1), labels.repeat(len(points)))
    found = found.view(len(points), len(images), -1)
    least = found.amin(0)
    for other in range(CLASSES - 1):
        best = found[..., other].topk(STARTS, dim=0, largest=False).indices
        x = torch.stack([points[best[:, n], n] for n in range(len(images))], 1)
        least = torch.minimum(least, _descend(exact, x, labels, low, high, other))
    return least.double()


def _descend(
    network: nn.Module, x: Tensor, labels: Tensor, low: Tensor, high: Tensor, other: int
) -> Tensor:
    """The least margins on the way of signed gradients from several points each."""
    starts, n = x.shape[:2]
    least = torch.full((n, CLASSES - 1), torch.inf, dtype=x.dtype)
    labels = labels.repeat(starts)
    for step in range(STEPS):
        x = x.detach().requires_grad_(True)
        margins = _margins(network, x.flatten(0, 1), labels)
        least = torch.minimum(least, margins.detach().view(starts, n, -1).amin(0))
        if not margins.requires_grad:
            break
        (gradient,) = torch.autograd.grad(margins[:, other].sum(), x, allow_unused=True)
        if gradient is None:
            break
        size = (high - low) * 0.25 * 0.75**step
        x = torch.minimum(torch.maximum(x.detach() - size * gradient.sign(), low), high)
    return least


def _margins(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    logits = network(images)
    others = torch.arange(CLASSES) != labels[:, None]
    return (logits.gather(1, labels[:, None]) - logits)[others].view(len(logits), -1)


def main() -> None:
    """Judge the networks and record what came of them."""
    arguments = _arguments()
    verdicts, wrong = Tally(), []
    seeds = range(arguments.seed, arguments.seed + arguments.networks)
    one = functools.partial(judge, piece=arguments.piece)
    with multiprocessing.get_context("spawn").Pool(arguments.processes, _alone) as pool:
        for number, verdict in enumerate(pool.imap(one, seeds, chunksize=4), start=1):
            verdicts.count(verdict)
            if verdict.wrong:
                wrong.append({"seed": verdict.seed, "piece": verdict.piece, "by": verdict.wrong})
                print(f"{wrong[-1]} eps {verdict.eps}\n{verdict.network}", flush=True)
            if number % 100 == 0:
                print(f"{number} of {len(seeds)}, {len(wrong)} violations", flush=True)
    if arguments.reasons:
        for reason, times in verdicts.reasons.most_common():
            print(times, reason)
    page = verdicts.page()
    print(page)
    if arguments.record:
        RESULTS.mkdir(parents=True, exist_ok=True)
        command = " ".join(["python benchmarks/soundness.py", *sys.argv[1:]])
        document = {
            "command": command,
            "environment": environment(torch.device("cpu")),
            "networks": arguments.networks,
            "violations": wrong,
            "pieces": verdicts.pieces,
            "operators": verdicts.operators,
        }
        (RESULTS / "soundness.json").write_text(json.dumps(document, indent=1) + "\n")
        (RESULTS / "README.md").write_text(f"# Bounds and searched minima\n\n`{command}`\n\n{page}")
    sys.exit(1 if wrong else 0)


def _alone() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


class Tally:
    """How many networks each bound took, by piece and by operator."""

    def __init__(self) -> None:
        self.pieces: dict[str, Counter[str]] = defaultdict(Counter)
        self.operators: dict[str, Counter[str]] = defaultdict(Counter)
        self.reasons: Counter[str] = Counter()

    def count(self, verdict: Verdict) -> None:
        """Add one network."""
        taken = {method: int(method not in verdict.refused) for method in COLUMNS[1:-1]}
        found = Counter({"networks": 1, "violations": int(bool(verdict.wrong)), **taken})
        self.pieces[verdict.piece].update(found)
        for kind in verdict.kinds:
            self.operators[kind].update(found)
        self.reasons.update(verdict.refused.values())

    def page(self) -> str:
        """Both tables, and what they say."""
        totals = sum(self.pieces.values(), Counter[str]())
        return (
            f"{totals['networks']} networks of three images, {totals['violations']} violations. "
            "Each was bounded, or refused by layer's name, and its balls were searched.\n\n"
            f"By operator, where a network with it has at least one bound:\n\n"
            f"{_table('operator', self.operators)}\n"
            "By what a network was drawn for, with all attributes, those that are refused "
            f"included:\n\n{_table('piece', self.pieces)}"
        )


COLUMNS = ("networks", *METHODS, "verified", "violations")


def _table(head: str, counts: dict[str, Counter[str]]) -> str:
    lines = [[head, *COLUMNS], ["---"] * (len(COLUMNS) + 1)]
    lines += [[name, *(str(counts[name][c]) for c in COLUMNS)] for name in sorted(counts)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=2500)
    parser.add_argument("--seed", type=int, default=0, help="of the first network")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--piece", choices=sorted([*PIECES, *VECTORS]))
    parser.add_argument("--reasons", action="store_true", help="print why bounds were refused")
    parser.add_argument("--record", action="store_true", help="write results/soundness")
    return parser.parse_args()


if __name__ == "__main__":
    main()
