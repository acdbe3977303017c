"""The alarm: an image that a certificate verified and an attack broke."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from robustprune.evaluators.ball import RELATIVE

if TYPE_CHECKING:
    from torch import Tensor

    from robustprune.evaluators import Evaluator
    from robustprune.pipeline.images import ImageTable
    from robustprune.types import Threat

Alarm = dict[str, Any]
"""``{"certificate": metric, "attack": metric, "images": [index, …]}``."""

_MOST = 20  # images that are named one by one


def alarms(evaluators: Sequence[Evaluator], table: ImageTable) -> list[Alarm]:
    """Where evaluators of one network contradict each other: at most one of the two is right.

    A certificate's claim about a ball is held against each attack in a ball of the same norm that
    is no larger, on the images that both have judged. That an attack may have left its ball by the
    tolerance of `robustprune.evaluators.ball` excuses no certificate: it is rounding.

    Args:
        evaluators: all that have judged the network.
        table: what they said of each image.
    """
    found = []
    for certificate, attack in _comparable(evaluators):
        broken = _contradictions(table.entry(certificate.metric), table.entry(attack.metric))
        if broken:
            names = {"certificate": certificate.metric, "attack": attack.metric}
            found.append({**names, "images": broken})
    return found


def describe(network: str, found: Iterable[Alarm]) -> str:
    """What to say of a network's alarms, at once: a line each, and what to do."""
    lines = [
        f"  '{alarm['certificate']}' verified and '{alarm['attack']}' broke "
        f"{_counted(alarm['images'])}"
        for alarm in found
    ]
    return "\n".join(
        [
            f"SOUNDNESS ALARM for network '{network}': a certificate promises what is not so.",
            *lines,
            "Do not use the certificates of this run, for these images or others. Please report "
            "it, with the model file and the evaluators' options.",
        ]
    )


def verdict(networks: Mapping[str, Sequence[Alarm]]) -> str:
    """The last word on alarms, for `robustprune.errors.SoundnessError`.

    Args:
        networks: the alarms of each network that has any, by its name.
    """
    pairs = [
        f"  {name}: '{alarm['certificate']}' against '{alarm['attack']}', "
        f"{len(alarm['images'])} images"
        for name, found in networks.items()
        for alarm in found
    ]
    return "\n".join(
        [
            "soundness alarm: images that a certificate verified were broken by an attack.",
            *pairs,
            "Nothing of what was found is lost, but do not use the certificates. Please report it.",
        ]
    )


def _comparable(evaluators: Sequence[Evaluator]) -> Iterator[tuple[Evaluator, Evaluator]]:
    for certificate in evaluators:
        for attack in evaluators:
            claim, search = certificate.claims, attack.refutes
            if claim is not None and search is not None and _within(search, claim):
                yield certificate, attack


def _within(search: Threat, claim: Threat) -> bool:
    """Whether all that an attack may try is within the claim; radii up to rounding."""
    return search.norm == claim.norm and search.eps <= claim.eps * (1 + RELATIVE)


def _contradictions(verified: Tensor, robust: Tensor) -> list[int]:
    n = min(len(verified), len(robust))
    found: list[int] = (verified[:n] & ~robust[:n]).nonzero().flatten().tolist()
    return found


def _counted(images: Sequence[int]) -> str:
    more = f" and {len(images) - _MOST} more" if len(images) > _MOST else ""
    plural = "image" if len(images) == 1 else f"{len(images)} images:"
    return f"{plural} {', '.join(map(str, images[:_MOST]))}{more}"
