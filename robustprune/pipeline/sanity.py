"""Doubts about what evaluators found: refuted certificates, and networks that are dead."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

from robustprune.evaluators import Evaluator
from robustprune.evaluators.criteria import RELATIVE
from robustprune.pipeline.evaluation_state import Subject
from robustprune.pipeline.images import ImageTable
from robustprune.seeding import fork
from robustprune.train_mode import eval_mode

Alarm = dict[str, Any]
"""``{"certificate": metric, "attack": metric, "images": [index, …]}``."""
Dead = dict[str, Any]
"""``{"answer": class, "images": number}``."""

_MOST = 20  # images that are named one by one
_BATCH = 250
_TRIED = 20  # images on which a gradient is looked for


def alarms(evaluators: Sequence[Evaluator], table: ImageTable) -> list[Alarm]:
    """Find where evaluators of one network contradict each other: at most one of two is right.

    A certificate's claim about a ball is held against each attack in a ball of the same norm that
    is no larger, on the images that both have judged. That an attack may have left its ball by the
    tolerance of `robustprune.evaluators.criteria` excuses no certificate: it is rounding.
    """
    found = []
    for certificate, attack in itertools.product(evaluators, repeat=2):
        claim, search = certificate.claims, attack.refutes
        if claim is None or search is None or claim.norm != search.norm:
            continue
        if search.eps > claim.eps * (1 + RELATIVE):  # equal radii may differ by rounding
            continue
        names = {"certificate": certificate.metric, "attack": attack.metric}
        verified, robust = (table.entries(name)[name] for name in names.values())
        n = min(len(verified), len(robust))
        broken = (verified[:n] & ~robust[:n]).nonzero().flatten().tolist()
        if broken:
            found.append({**names, "images": broken})
    return found


def alarm_text(networks: Mapping[str, Sequence[Alarm]]) -> str:
    """Describe the alarms of networks, by name: a line for each pair, and what to do."""
    pairs = [
        f"  {name}: '{alarm['certificate']}' verified and '{alarm['attack']}' broke "
        f"{_counted(alarm['images'])}"
        for name, found in networks.items()
        for alarm in found
    ]
    return "\n".join(
        [
            "SOUNDNESS ALARM: images that a certificate verified were broken by an attack.",
            *pairs,
            "Nothing of what was found is lost, but do not use the certificates, for these images "
            "or others. Please report it, with the model file and the evaluators' options.",
        ]
    )


def find_dead(
    subject: Subject, evaluators: Sequence[Evaluator], *, device: torch.device
) -> Dead | None:
    """The one answer of a network to all images that it is judged by; None if it gives several.

    A living network costs one batch: a second answer is enough. Images of one class say nothing.
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


def dead_text(network: str, found: Dead) -> str:
    """Describe a dead network."""
    return (
        f"{network} is dead: it answers class {found['answer']} for all {found['images']} images, "
        "and its accuracies are the share of that class."
    )


def flat_text(subject: Subject, evaluators: Sequence[Evaluator], *, device: torch.device) -> str:
    """Say that attacks have no gradient to follow; empty if they have, or none is asked for.

    Rounding inside the network and logits that are too large make it exactly 0, and then attacks
    find a network robust that is not. The first images that are classified rightly are tried.
    """
    if not subject.test or not any(evaluator.refutes for evaluator in evaluators):
        return ""
    images, labels = next(iter(subject.test.ordered(_TRIED, limit=_TRIED)))
    images, labels = images.to(device).requires_grad_(), labels.to(device)
    with eval_mode(subject.model), torch.enable_grad(), fork(subject.seed, "flat"):
        logits = subject.model(images)
        right = logits.argmax(1) == labels
        if not (logits.requires_grad and right.any()):
            return ""
        loss = functional.cross_entropy(logits, labels, reduction="sum")
        (found,) = torch.autograd.grad(loss, images, allow_unused=True)
    flat = right if found is None else right & (found.flatten(1).count_nonzero(1) == 0)
    tried, n = int(right.sum()), int(flat.sum())
    if 2 * n <= tried:
        return ""
    name = subject.network or "the network"
    return (
        f"{name}: the loss has no gradient (0 in every pixel) on {n} of {tried} images that are "
        "classified rightly, so that attacks which follow it find nothing there: what they call "
        "robust may not be. Something in the network rounds, or its logits are too large. Judge it "
        "by an attack that needs no gradient, too: autoattack."
    )


def _counted(images: Sequence[int]) -> str:
    more = f" and {len(images) - _MOST} more" if len(images) > _MOST else ""
    plural = "image" if len(images) == 1 else f"{len(images)} images:"
    return f"{plural} {', '.join(map(str, images[:_MOST]))}{more}"
