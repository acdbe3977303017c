"""A recipe's evaluators, as far as this installation knows them, and what they speak of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from robustprune.arithmetic import written
from robustprune.errors import UsageError
from robustprune.evaluators import registry
from robustprune.evaluators.base import Evaluator
from robustprune.report.groups import Group
from robustprune.types import Threat

_NORMS = {"linf": "ℓ∞", "l2": "ℓ2"}
# what may change along a curve over eps: the step follows the radius
_ALONG = ("label", "samples", "batch_size", "eps", "step_size")


@dataclass(frozen=True)
class Judge:
    """An evaluator of a recipe.

    Attributes:
        part: the evaluator itself.
        document: as the resolved recipe has it.
    """

    part: Evaluator
    document: dict[str, Any]

    @property
    def metric(self) -> str:
        """What it is called in results."""
        return self.part.metric

    @property
    def threat(self) -> Threat | None:
        """The ball that it searches or makes promises of."""
        return self.part.refutes or self.part.claims

    @property
    def family(self) -> str:
        """Equal for evaluators that differ in their radius only."""
        fixed = {k: v for k, v in self.document.items() if k not in _ALONG and k != "args"}
        norm = self.threat.norm if self.threat else ""
        return f"{sorted(fixed.items(), key=str)} {norm}"

    @property
    def described(self) -> str:
        """``pgd, ℓ∞ ε = 8/255``."""
        return f"{self.metric}, {ball(self.threat)}" if self.threat else self.metric


def ball(threat: Threat) -> str:
    """``ℓ∞ ε = 8/255``."""
    return f"{_NORMS[threat.norm]} ε = {written(threat.eps)}"


def norm(threat: Threat) -> str:
    """``ℓ∞``."""
    return _NORMS[threat.norm]


def judges(group: Group) -> list[Judge]:
    """The evaluators of a group's recipe.

    Parts of the user's own are left out: their code is the recipe's, which a report does not run.
    """
    found = []
    for document in group.runs[0].results.params.evaluate:
        fields = {key: value for key, value in document.items() if key != "name"}
        try:
            found.append(Judge(registry.create(str(document.get("name")), **fields), document))
        except (UsageError, TypeError):
            continue
    return found
