"""robustprune: make neural networks small and robust.

>>> import robustprune as rp
>>> rp.run("recipes/quickstart.yaml", overrides=["prune.densities=[0.01]"])

Everything here is imported when it is first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustprune import datasets, evaluators, masking, measures, objectives, pruners
    from robustprune.api import Evaluated, Pruned, certify, evaluate, export, prune, save_model
    from robustprune.artifacts import backends
    from robustprune.artifacts.backends import Backend
    from robustprune.artifacts.reading import load_model
    from robustprune.datasets import Dataset
    from robustprune.errors import UsageError
    from robustprune.evaluators import Evaluator
    from robustprune.inference import sparse
    from robustprune.masking import allocations, structures
    from robustprune.masking.allocations import Allocation
    from robustprune.masking.structures import Structure
    from robustprune.measures import Measure
    from robustprune.models import create_model
    from robustprune.objectives import Loss, Objective
    from robustprune.pipeline import RunResult, run
    from robustprune.pipeline.tuning import tune
    from robustprune.pruners import Context, Method, Pruner, Stage
    from robustprune.recipe import Recipe, StageChanges, StageOptions, load_recipe
    from robustprune.training import optimizers, schedules
    from robustprune.training.optimizers import OptimizerPart
    from robustprune.training.schedules import Schedule
    from robustprune.types import Progress
    from robustprune.version import __version__

__all__ = ["Allocation", "Backend", "Context", "Dataset", "Evaluated", "Evaluator", "Loss"]
__all__ += ["Measure", "Method", "Objective", "OptimizerPart", "Progress", "Pruned", "Pruner"]
__all__ += ["Recipe", "RunResult", "Schedule", "Stage", "StageChanges", "StageOptions", "Structure"]
__all__ += ["UsageError", "__version__", "allocations", "backends", "certify", "create_model"]
__all__ += ["datasets", "evaluate", "evaluators", "export", "load_model", "load_recipe", "masking"]
__all__ += ["measures", "objectives", "optimizers", "prune", "pruners", "run", "save_model"]
__all__ += ["schedules", "sparse", "structures", "tune"]

_HOMES = {
    "robustprune.api": "Evaluated Pruned certify evaluate export prune save_model",
    "robustprune.artifacts.backends": "backends Backend",
    "robustprune.artifacts.reading": "load_model",
    "robustprune.datasets": "datasets Dataset",
    "robustprune.errors": "UsageError",
    "robustprune.evaluators": "evaluators Evaluator",
    "robustprune.inference": "sparse",
    "robustprune.masking": "masking",
    "robustprune.masking.allocations": "allocations Allocation",
    "robustprune.masking.structures": "structures Structure",
    "robustprune.measures": "measures Measure",
    "robustprune.models": "create_model",
    "robustprune.objectives": "objectives Loss Objective",
    "robustprune.pipeline": "RunResult run",
    "robustprune.pipeline.tuning": "tune",
    "robustprune.pruners": "pruners Context Method Pruner Stage",
    "robustprune.recipe": "Recipe StageChanges StageOptions load_recipe",
    "robustprune.training.optimizers": "optimizers OptimizerPart",
    "robustprune.training.schedules": "schedules Schedule",
    "robustprune.types": "Progress",
    "robustprune.version": "__version__",
}
"""Names by the module that they are imported from; its own is the module itself."""


def __getattr__(name: str) -> Any:
    """Import what is asked for."""
    for home, names in _HOMES.items():
        if name in names.split():
            module = importlib.import_module(home)
            return module if home.endswith(f".{name}") else getattr(module, name)
    raise AttributeError(f"module 'robustprune' has no attribute '{name}'")


def __dir__() -> list[str]:
    """Everything that can be asked for."""
    return __all__
