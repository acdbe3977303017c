"""Contract tests of parts: what each family promises, held against a part of anybody's.

>>> from robustprune.testing import check_objective
>>> check_objective(MyLoss(beta=2))  # raises an AssertionError that names each broken promise

No test framework is needed; ``robustprune check --part my.py`` does the same from a shell.
"""

from __future__ import annotations

from robustprune.components import Part
from robustprune.datasets import Dataset
from robustprune.evaluators import Evaluator
from robustprune.masking.allocations import Allocation
from robustprune.masking.structures import Structure
from robustprune.objectives import Objective
from robustprune.pruners import Pruner
from robustprune.testing.contract import BrokenPromiseError, Contract, Finding
from robustprune.testing.datasets import DATASETS
from robustprune.testing.evaluators import EVALUATORS
from robustprune.testing.masks import ALLOCATIONS, STRUCTURES
from robustprune.testing.objectives import OBJECTIVES
from robustprune.testing.pruners import PRUNERS

__all__ = [
    "CONTRACTS",
    "BrokenPromiseError",
    "Contract",
    "Finding",
    "check_allocation",
    "check_dataset",
]
__all__ += ["check_evaluator", "check_objective", "check_pruner", "check_structure"]

CONTRACTS: dict[type[Part], Contract] = {
    Objective: OBJECTIVES,
    Pruner: PRUNERS,
    Structure: STRUCTURES,
    Allocation: ALLOCATIONS,
    Evaluator: EVALUATORS,
    Dataset: DATASETS,
}
"""The contract of each family that has one, by its base class."""


def check_objective(objective: Objective) -> None:
    """Hold an objective against its contract, on small images of 5 classes.

    Raises:
        AssertionError: names each promise that it breaks.
    """
    OBJECTIVES.check(objective)


def check_pruner(pruner: Pruner) -> None:
    """Hold a pruner and its method against their contract, on a network of two layers.

    Raises:
        AssertionError: names each promise that it breaks.
    """
    PRUNERS.check(pruner)


def check_structure(structure: Structure) -> None:
    """Hold a structure against its contract, on layers of every kind.

    Raises:
        AssertionError: names each promise that it breaks.
    """
    STRUCTURES.check(structure)


def check_allocation(allocation: Allocation) -> None:
    """Hold an allocation against its contract, from density 0.05 to 1.

    Raises:
        AssertionError: names each promise that it breaks.
    """
    ALLOCATIONS.check(allocation)


def check_evaluator(evaluator: Evaluator) -> None:
    """Hold an evaluator against its contract, on nine small images of six classes.

    Raises:
        AssertionError: names each promise that it breaks.
    """
    EVALUATORS.check(evaluator)


def check_dataset(dataset: Dataset) -> None:
    """Hold a dataset against its contract, on its own files.

    Raises:
        AssertionError: names each promise that it breaks.
        UsageError: its files are not there.
    """
    DATASETS.check(dataset)
