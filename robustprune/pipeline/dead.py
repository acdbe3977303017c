"""Dead networks: one answer, whatever they are shown. Their accuracies are a class's share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from robustprune.modes import eval_mode
from robustprune.seeding import fork

if TYPE_CHECKING:
    from robustprune.evaluators import Evaluator
    from robustprune.pipeline.progress import Subject

Dead = dict[str, Any]
"""``{"answer": class, "images": number}``."""

_BATCH = 250


def dead(subject: Subject, evaluators: Sequence[Evaluator], *, device: torch.device) -> Dead | None:
    """What a network answers to all images that it is judged by; None if it tells some apart.

    A living network costs one batch: the second answer settles it. Images of one class settle
    nothing.

    Args:
        subject: the network, on ``device``, and the test images.
        evaluators: say how many images.
        device: the network's device.
    """
    test = subject.test
    if not test or not evaluators:
        return None
    n = max(min(evaluator.samples or len(test), len(test)) for evaluator in evaluators)
    answers: set[int] = set()
    classes: set[int] = set()
    with eval_mode(subject.model), torch.no_grad(), fork(subject.seed, subject.network, "answers"):
        for images, labels in test.ordered(_BATCH, limit=n):
            answers.update(subject.model(images.to(device)).argmax(1).tolist())
            classes.update(labels.tolist())
            if len(answers) > 1:
                return None
    return {"answer": answers.pop(), "images": n} if len(classes) > 1 else None


def describe(network: str, found: Dead) -> str:
    """What to say of a dead network."""
    return (
        f"{network} is dead: it answers class {found['answer']} for all {found['images']} images, "
        "and its accuracies are the share of that class."
    )
