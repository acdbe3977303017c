"""robustprune: make neural networks small and robust.

>>> import robustprune as rp
>>> rp.run("recipes/quickstart.yaml", overrides=["prune.densities=[0.01]"])

Everything here is imported when it is first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustprune import datasets, evaluators, masking, objectives, pruners
    from robustprune.artifacts.reading import load_model
    from robustprune.datasets import Dataset
    from robustprune.errors import UsageError
    from robustprune.evaluators import Evaluator
    from robustprune.masking import allocations, structures
    from robustprune.masking.allocations import Allocation
    from robustprune.masking.structures import Structure
    from robustprune.models import create_model
    from robustprune.objectives import Loss, Objective
    from robustprune.pipeline import RunResult, run
    from robustprune.pruners import Context, Method, Pruner, Stage
    from robustprune.recipe import Recipe, StageChanges, StageOptions, load_recipe
    from robustprune.training import optimizers, schedules
    from robustprune.training.optimizers import OptimizerPart
    from robustprune.training.schedules import Schedule
    from robustprune.types import Progress

__version__ = "0.1.0"

_SUBPACKAGES = {
    "allocations": "robustprune.masking.allocations",
    "datasets": "robustprune.datasets",
    "evaluators": "robustprune.evaluators",
    "masking": "robustprune.masking",
    "objectives": "robustprune.objectives",
    "optimizers": "robustprune.training.optimizers",
    "pruners": "robustprune.pruners",
    "schedules": "robustprune.training.schedules",
    "structures": "robustprune.masking.structures",
}
_NAMES = {
    "Allocation": "robustprune.masking.allocations",
    "Dataset": "robustprune.datasets",
    "Evaluator": "robustprune.evaluators",
    "Context": "robustprune.pruners",
    "Loss": "robustprune.objectives",
    "Objective": "robustprune.objectives",
    "Method": "robustprune.pruners",
    "OptimizerPart": "robustprune.training.optimizers",
    "Progress": "robustprune.types",
    "Pruner": "robustprune.pruners",
    "Recipe": "robustprune.recipe",
    "RunResult": "robustprune.pipeline",
    "Stage": "robustprune.pruners",
    "StageChanges": "robustprune.recipe",
    "StageOptions": "robustprune.recipe",
    "Structure": "robustprune.masking.structures",
    "Schedule": "robustprune.training.schedules",
    "UsageError": "robustprune.errors",
    "create_model": "robustprune.models",
    "load_model": "robustprune.artifacts.reading",
    "load_recipe": "robustprune.recipe",
    "run": "robustprune.pipeline",
}
__all__ = [
    "Allocation",
    "Context",
    "Dataset",
    "Evaluator",
    "Loss",
    "Method",
    "Objective",
    "OptimizerPart",
    "Progress",
    "Pruner",
    "Recipe",
    "RunResult",
    "Schedule",
    "Stage",
    "StageChanges",
    "StageOptions",
    "Structure",
    "UsageError",
    "__version__",
    "allocations",
    "create_model",
    "datasets",
    "evaluators",
    "load_model",
    "load_recipe",
    "masking",
    "objectives",
    "optimizers",
    "pruners",
    "run",
    "schedules",
    "structures",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for."""
    if name in _SUBPACKAGES:
        return importlib.import_module(_SUBPACKAGES[name])
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'robustprune' has no attribute '{name}'")


def __dir__() -> list[str]:
    """What can be asked for."""
    return __all__
