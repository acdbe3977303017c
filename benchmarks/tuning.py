"""See how near a tuner of few trials comes to a fine grid, from a rate that is far off.

    python benchmarks/tuning.py
    python benchmarks/tuning.py --set prune.epochs=5 --set finetune.epochs=5     in half the time

The scores' learning rate of HYDRA at one density, on the loss of the validation split. Both studies
go to runs/benchmarks/tuning/ and are resumed if they were interrupted; what is found is written to
benchmarks/results/tuning/tuning.json.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import robustprune as rp
from robustprune.files import write_json
from robustprune.tracking import Console

RESULTS = Path(__file__).parent / "results" / "tuning"
SPACE = "prune.optimizer.lr=log(1e-3,1e3)"


def main() -> None:
    arguments = _arguments()
    overrides = [
        "prune.methods=[hydra]",
        f"prune.densities=[{arguments.density:g}]",
        f"prune.optimizer.lr={arguments.start:g}",
        f"seed={arguments.seed}",
        "tracking.enabled=false",
        *arguments.set,
    ]
    studies = {
        sampler: _study(arguments.recipe, overrides, sampler, trials)
        for sampler, trials in (("tpe", arguments.trials), ("grid", arguments.points))
    }
    tuned, finest = (study["best"]["val_loss"] for study in studies.values())
    document = {
        "recipe": arguments.recipe,
        "set": overrides,
        "over": SPACE,
        "above_grid": tuned / finest - 1,
        **studies,
    }
    write_json(RESULTS / "tuning.json", document)
    print(f"tpe {tuned:.4f}, grid {finest:.4f}: {100 * document['above_grid']:+.2f} %")


def _study(recipe: str, overrides: list[str], sampler: str, trials: int) -> dict[str, Any]:
    """The trials of a study, and how many epochs they have trained."""
    out = Path("runs") / "benchmarks" / "tuning" / sampler
    result = rp.tune(
        recipe,
        over=[SPACE],
        overrides=overrides,
        trials=trials,
        sampler=sampler,
        out=out,
        resume=out.exists(),
        console=Console(),
    )
    rows = [
        {
            "value": trial.values["prune.optimizer.lr"],
            "val_loss": trial.loss if math.isfinite(trial.loss) else None,
            "end": trial.end,
            "epochs": len(trial.curve),
        }
        for trial in result.trials
    ]
    versions = json.loads((out / "trials/0000/results.json").read_text())["environment"]
    return {"best": rows[result.best.number], "trials": rows, "environment": versions}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="recipes/quickstart.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--density", type=float, default=0.05)
    parser.add_argument("--start", type=float, default=1e-3, help="the rate to begin with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=15)
    parser.add_argument("--points", type=int, default=25, help="of the grid")
    return parser.parse_args()


if __name__ == "__main__":
    main()
