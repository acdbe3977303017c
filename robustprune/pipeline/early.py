"""Trials that are behind others, and are stopped before their end.

It is the rule of Optuna's `MedianPruner`, stage by stage. Optuna's own takes the lowest loss of all
steps for the trial's, which is the dense network's: no trial would ever be stopped after that one.
And it has one warm-up, where each stage of a run needs its own.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from robustprune.pipeline.candidates import final_objective, judged
from robustprune.pipeline.networks import networks
from robustprune.pruners import Stage
from robustprune.recipe import Recipe
from robustprune.tracking.console import Bar
from robustprune.training.loop import History

Curve = Mapping[int, float]
"""Losses on the validation split by step. A stage has 1,000 steps, whatever its epochs."""

_AT_LEAST = 4  # trials that have come as far, for one to be behind them
_SPARED = 1 / 3  # of each stage, in which no trial is stopped
_SPAN = 1000  # steps of a stage
_STAGES = 100  # of a network, at most


class StoppedEarly(Exception):  # noqa: N818 - no fault
    """A trial is behind others."""


class Watch:
    """Sees the epochs of one trial, as `run` takes it; see there.

    Stages are counted from a network's last one, so that trials whose epochs differ, or whose
    methods have other stages, can be compared. Stages that minimise something else than what is
    compared in the end do not count.

    Args:
        recipe: the trial's.
        curve: what an earlier job has reported.
        others: the curves of trials that have ended; None to stop none.
        report: called with (loss, step, epochs so far) for what is new.
        bar: advanced by each epoch.
    """

    def __init__(
        self,
        recipe: Recipe,
        curve: Curve,
        *,
        others: Sequence[Curve] | None,
        report: Callable[[float, int, int], object],
        bar: Bar,
    ) -> None:
        self._curve, self._others, self._report, self._bar = dict(curve), others, report, bar
        self._seen: dict[tuple[str, str], int] = {}
        final = [final_objective(recipe, network.stages) for network in judged(recipe)]
        self._places = {
            (network.name, stage.name): (index + 1) * _STAGES - left
            for index, network in enumerate(networks(recipe))
            for left, stage in reversed([*enumerate(reversed(network.stages), start=1)])
            if stage.options and final_objective(recipe, [stage]) in final
        }

    def __call__(self, network: str, stage: Stage, history: History) -> None:
        """See the epochs of a stage so far.

        Raises:
            StoppedEarly: the trial is behind others, and has not come to its last epoch.
        """
        key, done = (network, stage.name), len(history)
        losses = [epoch.get("val_loss", math.nan) for epoch in history]
        self._bar.advance(done - self._seen.get(key, 0), loss=losses[-1])
        self._seen[key] = done
        if key not in self._places or stage.options is None:
            return
        epochs, step = stage.options.epochs - stage.start, 0
        for epoch, loss in enumerate(losses, start=1):
            step = self._places[key] * _SPAN + round(_SPAN * epoch / epochs) - 1
            if step not in self._curve:
                self._curve[step] = loss
                self._report(loss, step, len(self._curve))
        at_end = done == epochs and key == [*self._places][-1]
        if self._others is not None and not at_end and behind(self._curve, self._others, step):
            raise StoppedEarly(f"stopped after epoch {done} of {network} {stage.name}")


def behind(curve: Curve, others: Sequence[Curve], step: int) -> bool:
    """True if a trial's lowest loss in a stage is above the median of others' there by then.

    Never in the first third of a stage, nor before four others have come as far. The stage alone
    counts: the lowest loss of all is the dense network's.
    """
    if step % _SPAN < _SPARED * _SPAN:
        return False
    reached = [_lowest(other, step) for other in others if step in other]
    return len(reached) >= _AT_LEAST and _lowest(curve, step) > statistics.median(reached)


def _lowest(curve: Curve, until: int) -> float:
    first = until - until % _SPAN
    return min(loss for step, loss in curve.items() if first <= step <= until)
