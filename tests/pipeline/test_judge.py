"""One evaluator on one network, and what it must keep to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustprune.datasets.source import TensorSource
from robustprune.errors import UsageError
from robustprune.evaluators import Evaluator
from robustprune.pipeline.judge import Verdict, judge
from robustprune.pipeline.progress import Subject
from robustprune.tracking import Console
from robustprune.types import Threat

from . import liars

LABELS = torch.tensor([0, 1, 1, 0, 1])


class Says(Evaluator):
    """Gives what it is told to, cut to the batch."""

    values: Any

    def judge(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, seed: int
    ) -> dict[str, Tensor]:
        return {self.metric: self.values[: len(images)], "labels": labels}


class Sums(Says):
    """Makes numbers of its own of what it gave."""

    def summarise(self, images: dict[str, Tensor]) -> dict[str, float | int | list[float]]:
        return {f"{self.metric}_sum": int(images["labels"].sum())}


class Promises(Says):
    """Claims a ball."""

    @property
    def claims(self) -> Threat:
        return Threat("linf", 0.1)


def judged(part: type[Evaluator], values: Tensor) -> Verdict:
    test = TensorSource(torch.zeros(5, 1, 2, 2), LABELS)
    with liars.registered(says=part):
        from robustprune.evaluators import create

        evaluator = create("says", values=values, batch_size=2, samples=5)
    return judge(
        evaluator,
        Subject(nn.Identity(), test, network="dense", seed=0),
        device=torch.device("cpu"),
        console=Console(quiet=True),
    )


def test_batches_are_joined_with_their_labels() -> None:
    verdict = judged(Says, torch.tensor([True, False]))
    assert verdict.labels.tolist() == LABELS.tolist()
    assert verdict.images["says"].tolist() == [True, False, True, False, True]
    assert verdict.images["labels"].tolist() == LABELS.tolist()
    assert verdict.metrics["says"] == 3 / 5
    assert "labels" not in verdict.metrics


def test_an_evaluator_may_summarise_in_its_own_way() -> None:
    assert judged(Sums, torch.tensor([True, False])).metrics == {"says_sum": 3}


def test_one_value_an_image_is_demanded() -> None:
    with pytest.raises(
        TypeError, match=r"'says': judge must give one value an image, shape \(2,\)"
    ):
        judged(Says, torch.tensor([True]))


def test_who_claims_a_ball_must_say_yes_or_no() -> None:
    with pytest.raises(TypeError, match="'says' must be boolean; got"):
        judged(Promises, torch.tensor([0.5, 0.25]))


def test_without_test_images_there_is_no_verdict() -> None:
    with pytest.raises(UsageError, match="no test images"):
        judge(
            Says(values=0),
            Subject(nn.Identity(), None, network="", seed=0),
            device=torch.device("cpu"),
            console=Console(quiet=True),
        )
