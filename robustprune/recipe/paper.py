"""The recipe's ``paper:`` section: what a paper reports for its setting, shown beside ours."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, field_validator

from robustprune.parts import Options

Fraction = Annotated[float, Field(ge=0, le=1)]

_METRIC = re.compile(r"\w[\w.-]*")
_NETWORK = re.compile(r"dense|(?P<variant>\w[\w.-]*?)-(?P<density>[\d.e-]+)")


class PaperOptions(Options):
    """Where a setting stands in a paper, and the numbers that the paper gives for it."""

    source: str = Field(min_length=1)
    """The paper and its table."""
    metrics: dict[str, dict[str, Fraction]] = {}
    """For each metric, named as in results.json, the number of each network, named as there:
    ``{pgd: {dense: 0.519, hydra-0.1: 0.495}}``. Fractions in [0, 1]."""

    @field_validator("metrics")
    @classmethod
    def _named(cls, metrics: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        for metric, numbers in metrics.items():
            if not _METRIC.fullmatch(metric):
                raise ValueError(f"'{metric}' is no metric's name. Name one of 'evaluate', as pgd")
            for network in numbers:
                if not _is_network(network):
                    raise ValueError(
                        f"'{network}' is no network's name. Write 'dense', or a method and a "
                        "density as results.json has them, e.g. hydra-0.1"
                    )
        return metrics


def _is_network(name: str) -> bool:
    """Whether a run could call a network so: ``dense``, or a variant and a density in (0, 1]."""
    match = _NETWORK.fullmatch(name)
    if match is None:
        return False
    text = match["density"]
    if text is None:
        return True
    try:
        density = float(text)
    except ValueError:
        return False
    return 0 < density <= 1 and f"{density:g}" == text
