"""Robust accuracy against what a network costs, and the front that no other network beats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from robustprune.report.accuracy import ball
from robustprune.report.estimates import Estimate, plain
from robustprune.report.figures import Figure, Section, draw
from robustprune.report.groups import Group

_COSTS = {
    "size/bytes_packed": "bytes, packed",
    "flops/macs_sparse": "multiply-adds an image",
    "latency/milliseconds_per_image": "milliseconds an image, by torch",
}


def section(groups: Sequence[Group]) -> Section:
    """Draw a panel for each cost that was measured, of each recipe."""
    found = Section("cost", "Robust accuracy against cost")
    found.text.append(
        "All networks of a recipe, under the strongest of its attacks of one radius, that of the "
        "first attack; those to the left are cheaper. One below the grey line is not on the front: "
        "another is as cheap and withstands more. Bars are 95 % intervals, as above."
    )
    for group in groups:
        if (robust := strongest(group)) is None:
            found.missing.append(f"{group.label}: the recipe's evaluators hold no attack.")
        elif not any(cost in group.numbers for cost in _COSTS):
            found.missing.append(f"{group.label}: the recipe's 'measures:' hold no cost.")
        else:
            found.figures.extend(p for cost in _COSTS for p in _panel(group, *robust, cost))
    return found


def strongest(group: Group) -> tuple[str, str] | None:
    """Return the attack after which least is right, on average over the networks, and its ball."""
    attacks = [(e.metric, e.refutes) for e in group.evaluators if e.refutes is not None]
    means: dict[str, float] = {}
    for metric, threat in attacks:
        values = [group.estimate(network.name, metric) for network in group.networks]
        if threat == attacks[0][1] and (known := [v.value for v in values if v is not None]):
            means[metric] = fmean(known)
    return (min(means, key=means.__getitem__), ball(attacks[0][1])) if means else None


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the ``(cost, accuracy)`` with no other as cheap and more accurate; cheapest first."""
    kept: list[tuple[float, float]] = []
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or accuracy > kept[-1][1]:
            kept.append((cost, accuracy))
    return kept


def _panel(group: Group, metric: str, threat: str, cost: str) -> Iterator[Figure]:
    places: dict[str, list[tuple[Estimate, Estimate]]] = {}
    for network in group.networks:
        price, value = group.estimate(network.name, cost), group.estimate(network.name, metric)
        if price is not None and value is not None and price.value > 0:
            places.setdefault(network.variant, []).append((price, value))
    best = front([(p.value, 100 * v.value) for found in places.values() for p, v in found])
    if not best:
        return

    thousands = EngFormatter(sep="")  # 20k, 5M

    def paint(axes: Axes) -> None:
        for variant, style in group.styles_of(places).items():
            prices, values = zip(*places[variant], strict=True)
            axes.errorbar(
                [p.value for p in prices],
                [100 * v.value for v in values],
                xerr=_reach(prices, 1),
                yerr=_reach(values, 100),
                fmt=style.marker,
                color=style.colour,
                elinewidth=0.8,
                label=variant,
            )
        axes.set_xscale("log")
        costs = [p.value for found in places.values() for p, _ in found]
        left, right = min(costs) / 1.6, 1.6 * max(costs)  # what reaches further is cut
        x, y = zip(*best, (right, best[-1][1]), strict=True)
        axes.step(x, y, where="post", color="#999999", zorder=0, label="front")
        axes.set_xlim(left, right)
        wide, subs = right / left, (1, 2, 5)
        ticks = LogLocator(subs=subs if wide < 300 else (1,)) if wide > 8 else MaxNLocator(4)
        axes.xaxis.set_major_locator(ticks)
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda x, _: thousands(x) if x > 1 else f"{x:g}")
        )
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(f"{_COSTS[cost]} (log scale)")
        axes.set_ylabel(f"{metric} accuracy (%)")

    words = "; ".join(f"{y:.1f} % at {plain(x)}" for x, y in best)
    alt = f"Accuracy ({metric}, {threat}) against {_COSTS[cost]}; on the front: {words}."
    name, title = f"cost {group.label} {metric} {cost}", f"{group.label}: {metric}, {threat}"
    yield draw(name, title, alt, paint)


def _reach(estimates: Sequence[Estimate], scale: float) -> list[list[float]]:
    """Return how far the intervals reach below and above; never down to 0, for log axes."""
    below = [scale * min(max(e.value - e.low, 0), 0.99 * e.value) for e in estimates]
    return [below, [scale * max(e.high - e.value, 0) for e in estimates]]
