"""Run many pruning methods from the same dense networks, at rates chosen by validation; rank them.

    python benchmarks/zoo.py rates recipes/zoo/digits.yaml
    python benchmarks/zoo.py run recipes/zoo/digits.yaml --seeds 0 1 2 3 4
    python benchmarks/zoo.py report recipes/zoo/digits.yaml
    python benchmarks/zoo.py summary recipes/zoo/digits.yaml recipes/zoo/cifar10_resnet8.yaml

`rates` tries learning rates of the stage that is each method's own, as many for each (`--trials`),
at seed 0 and one density, and records the robust loss on the validation split after the last stage;
the recipe takes the best. `run` makes a run of each method and seed below `--runs`. Both go on
where they were interrupted. `report` writes the table from what is recorded below
benchmarks/results/zoo, and `summary` prints one of several recipes, ordered by the first.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ratio import table
from scipy.stats import t

from robustprune import pruners
from robustprune.artifacts.reading import read_model
from robustprune.errors import DivergedError
from robustprune.pipeline import run
from robustprune.pipeline.evaluate import evaluate_saved
from robustprune.pipeline.networks import networks
from robustprune.recipe import Recipe, load_recipe
from robustprune.tracking import Console

RESULTS = Path(__file__).parent / "results" / "zoo"
OWN = ("prune", "admm", "project", "train", "search", "finetune")
"""The stage whose rate is tried is the first of these to which the recipe gives an optimizer."""
SCORES = ("hydra", "harp", "edge_popup", "robust_scratch_ticket")
"""The pruners whose own stage trains scores: their rates lie further apart."""


# -- rates -----------------------------------------------------------------------------------------


def rates(recipe: Recipe, arguments: argparse.Namespace) -> None:
    """Try rates of each method that has no record of so many yet, about the recipe's."""
    file, known = record(recipe, "rates")
    for pruner in chosen(recipe, arguments.methods):
        before = {t["rate"]: t for t in known.get(pruner.variant, {}).get("trials", [])}
        if len(before) >= arguments.trials:
            continue
        key, trials, reach = rate_of(pruner), [], arguments.trials // 2
        apart = 10 if pruner.registered_name in SCORES else 3
        centre = sorted(before)[len(before) // 2] if before else float(option(pruner, key))
        for power in range(-reach, reach + 1):
            value = float(f"{centre * apart**power:.3g}")
            if value in before:
                trials.append(before[value])
                continue
            others = [p for p in methods(recipe) if f"mask:{p.variant}" in pruner.needs()]
            one = changed(pruner, key, value)
            trial = only(recipe, [*others, one], densities=[arguments.density], evaluate=[])
            out = arguments.runs / recipe.name / "rates" / f"{pruner.variant}-{value:g}"
            trials.append({"rate": value, **judged(trial, out, arguments.runs, one)})
            print(pruner.variant, key, trials[-1], flush=True)
        best = min(trials, key=lambda trial: trial["val_loss"] or math.inf)["rate"]
        found = {"option": key, "density": arguments.density, "best": best, "trials": trials}
        write(file, {**record(recipe, "rates")[1], pruner.variant: found})


def judged(recipe: Recipe, out: Path, runs: Path, pruner: Any) -> dict[str, float | None]:
    """The last epoch's robust loss and accuracy on the validation split, and the run's CPU time."""
    assert recipe.prune is not None
    before, anew = time.process_time(), not out.exists()
    try:
        run(recipe, out=out, resume=out.exists(), runs=runs, console=Console(quiet=True))
    except DivergedError:
        return {"val_loss": None, "val_accuracy": None}  # diverged
    history = out / pruner.network(recipe.prune.densities[0]) / "history.json"
    last = json.loads(history.read_text())[-1]["metrics"]
    found = {key: last[key] for key in ("val_loss", "val_accuracy")}
    return found | ({"seconds": round(time.process_time() - before, 1)} if anew else {})


def rate_of(pruner: Any) -> str:
    """The option that is tried, e.g. ``prune.optimizer.lr``."""
    document = pruner.model_dump(mode="json")
    stages = [stage for stage in OWN if (document.get(stage) or {}).get("optimizer")]
    if not stages:
        raise SystemExit(f"{pruner.variant}: the recipe gives none of its stages an optimizer")
    return f"{stages[0]}.optimizer.lr"


def option(pruner: Any, key: str) -> Any:
    """The value of an option of an option."""
    inner = pruner.model_dump(mode="json")
    for word in key.split("."):
        inner = inner[word]
    return inner


def changed(pruner: Any, key: str, value: float) -> Any:
    """The pruner with another value of an option."""
    inner = document = pruner.model_dump(mode="json")
    *places, last = key.split(".")
    for word in places:
        inner = inner[word]
    inner[last] = value
    return pruners.create(document.pop("name"), **document)


# -- runs ------------------------------------------------------------------------------------------


def everything(recipe: Recipe, arguments: argparse.Namespace) -> None:
    """Make the runs that are not finished yet, judge their networks, and record what comes out."""
    for seed in arguments.seeds:
        for group in together(chosen(recipe, arguments.methods)):
            label, tuned = group[0].variant, rates_of(recipe, arguments)
            if untuned := [pruner.variant for pruner in group if pruner.variant not in tuned]:
                print(f"{label}: no rates of {', '.join(untuned)}", flush=True)
                continue
            best = [tuned[pruner.variant] for pruner in group]
            ready = [changed(p, b["option"], b["best"]) for p, b in zip(group, best, strict=True)]
            out = arguments.runs / recipe.name / label / f"seed-{seed}"
            once = only(recipe, ready, seed=seed, evaluate=[])
            file, known = record(recipe, "networks")
            names = {network.name for network in networks(once)}
            if all(str(seed) in known.get(name, {}) for name in names):
                continue
            print(out, flush=True)
            quiet = Console(quiet=True)
            result = run(once, out=out, resume=out.exists(), runs=arguments.runs, console=quiet)
            for entry in result.networks:
                known = record(recipe, "networks")[1]
                if str(seed) not in known.get(entry["name"], {}):
                    keys = ("kept", "turnover")
                    found = {key: entry[key] for key in keys if key in entry}
                    found["metrics"] = judgement(recipe, out / entry["model"])
                    known = record(recipe, "networks")[1]
                    known.setdefault(entry["name"], {})[str(seed)] = found
                    write(file, known)


def judgement(recipe: Recipe, model: Path) -> dict[str, Any]:
    """The metrics of a network, attacked through sparse kernels where they are faster."""
    task = (read_model(model), recipe.data, list(recipe.evaluate))
    options = recipe.compute.model_copy(update={"sparse": "on"})
    state = model.parent / "judged"
    found = evaluate_saved(
        {"model": task},  # type: ignore[dict-item]
        console=Console(quiet=True),
        options=options,
        kept=lambda _, metric: state / metric,
        choices=lambda _: state / "choices.json",
    )
    return found["model"].metrics


def together(found: Sequence[Any]) -> Iterator[list[Any]]:
    """The pruners in groups: each with those that need its mask."""
    needing = {p.variant: {n.removeprefix("mask:") for n in p.needs()} for p in found}
    names = {p.variant for p in found}
    for pruner in found:
        if not needing[pruner.variant] & names:
            yield [pruner, *(p for p in found if pruner.variant in needing[p.variant])]


# -- the table -------------------------------------------------------------------------------------


def report(recipe: Recipe, arguments: argparse.Namespace) -> None:
    """Write README.md beside the records."""
    file, entries = record(recipe, "networks")
    metrics = [one.metric for one in recipe.evaluate]  # type: ignore[attr-defined]
    assert recipe.prune is not None
    parts = [f"# {recipe.name}"]
    if entries:
        parts.append(head(arguments, entries))
        for density in recipe.prune.densities:
            parts += [
                f"## Density {density:g}",
                ranking(recipe, arguments, entries, metrics, density),
            ]
    text = "\n\n".join([*parts, "## Rates", rates_table(recipe, arguments)]) + "\n"
    (file.parent / "README.md").write_text(text)
    print(text)


def rates_table(recipe: Recipe, arguments: argparse.Namespace) -> str:
    """The trials of each method, and their robust loss on the validation split."""
    if arguments.rates_of:
        return f"Those of {arguments.rates_of}."
    rows = []
    for label, found in record(recipe, "rates")[1].items():
        trials = found["trials"]
        losses = ", ".join(shown(one) for one in trials)
        seconds = min((one["seconds"] for one in trials if "seconds" in one), default=math.nan)
        stage = found["option"].partition(".")[0]
        edge = found["best"] in (trials[0]["rate"], trials[-1]["rate"])
        taken = f"{found['best']:g}{'*' if edge else ''}"
        rows.append([label, stage, losses, taken, f"{seconds:.0f}"])
    about = (
        f"`python benchmarks/zoo.py rates {arguments.recipe}`: learning rates of the stage "
        f"that is each method's own, seed 0, density {arguments.density:g}, and the loss of its "
        "last stage's objective on the validation split after the last epoch. One seed, so that "
        "losses choose rates and rank nothing; `pwoa` has a loss of its own. With *: the "
        "least or the largest that was tried, so that a better one may lie beyond. Seconds are CPU "
        "time of the trainings after the dense network, one thread, beside other programs."
    )
    return f"{about}\n\n" + table(["method", "stage", "rate: loss", "taken", "seconds"], rows)


def head(arguments: argparse.Namespace, entries: Any) -> str:
    seeds = sorted({int(seed) for runs in entries.values() for seed in runs})
    some = next(iter(entries["dense"].values()))["metrics"]
    images = ", ".join(f"{key[:-2]} {value}" for key, value in some.items() if key.endswith("_n"))
    commands = f"rates {arguments.recipe}`, then `run`"
    if arguments.rates_of:
        commands = f"run {arguments.recipe} --rates-of {arguments.rates_of}`"
    return (
        f"`python benchmarks/zoo.py {commands} with seeds {', '.join(map(str, seeds))}, then "
        "`report`.\n\n"
        f"Percent, mean over seeds with the half-width of its 95 % interval (Student), which tells "
        f"what other trainings would give on the same images: {images}. Ranked by "
        f"`{arguments.metric}`; "
        "*mean rank* is over seeds. *Over magnitude*: mean of the paired differences, in points, ± "
        "their standard error; fewer than two standard errors are not established. *Epochs*: all "
        "that a network was trained for, the dense one's included where it starts from it; with "
        "*×2*, each step takes two passes. *Seconds*: CPU time of the trainings after the dense "
        "network, one thread, at density 0.05, beside other programs."
    )


def ranking(
    recipe: Recipe,
    arguments: argparse.Namespace,
    entries: Mapping[str, Any],
    metrics: Sequence[str],
    density: float,
) -> str:
    """The table of one density."""
    judge = arguments.metric
    pruned = at_density(recipe, entries, density)
    means = {name: statistics.fmean(values(runs, judge)) for name, runs in pruned.items()}
    order = sorted(pruned, key=lambda name: -means[name])
    ranks = ranks_by_seed(pruned, judge)
    budgets, tried = epochs(recipe, density), rates_of(recipe, arguments)
    rows = [
        [
            "dense",
            "",
            "",
            *(interval(values(entries["dense"], m)) for m in metrics),
            "",
            "",
            str(budgets["dense"]),
            "",
        ]
    ]
    for place, name in enumerate(order, start=1):
        trials = [] if arguments.rates_of else tried.get(name, {}).get("trials", [])
        seconds = min((one["seconds"] for one in trials if "seconds" in one), default=None)
        twice = " ×2" if next(p for p in methods(recipe) if p.variant == name).sharpness else ""
        rows.append(
            [
                name,
                str(place),
                f"{statistics.fmean(ranks[name]):.1f}",
                *(interval(values(pruned[name], m)) for m in metrics),
                difference(pruned[name], pruned.get("magnitude", {}), judge),
                f"{tried[name]['best']:g}" if name in tried else "",
                f"{budgets[name]}{twice}",
                "" if seconds is None else f"{seconds:.0f}",
            ]
        )
    columns = [
        "method",
        "rank",
        "mean rank",
        *metrics,
        "over magnitude",
        "rate",
        "epochs",
        "seconds",
    ]
    return table(columns, rows)


def summary(judged: Mapping[str, str]) -> str:
    """A table of all methods: of each recipe (a path), one metric at each of its densities."""
    columns, places, cells = ["method", "mean rank"], {}, {}
    for path, judge in judged.items():
        recipe = load_recipe(path)
        _, entries = record(recipe, "networks")
        assert recipe.prune is not None
        for density in recipe.prune.densities:
            columns.append(f"{recipe.name.removeprefix('zoo-')} {density:g}")
            pruned = at_density(recipe, entries, density)
            for name, runs in pruned.items():
                cells.setdefault(name, {})[columns[-1]] = interval(values(runs, judge))
            if path == next(iter(judged)):
                for name, ranks in ranks_by_seed(pruned, judge).items():
                    places.setdefault(name, []).extend(ranks)
            cells.setdefault("dense", {})[columns[-1]] = interval(values(entries["dense"], judge))
    means = {name: statistics.fmean(ranks) for name, ranks in places.items()}
    order = ["dense", *sorted(means, key=lambda name: means[name])]
    rows = [
        [name, f"{means[name]:.1f}" if name in means else "–"]
        + [cells[name].get(column, "–") for column in columns[2:]]
        for name in order
    ]
    return table(columns, rows)


def at_density(recipe: Recipe, entries: Mapping[str, Any], density: float) -> dict[str, Any]:
    """What is recorded of each method's network at a density, by seed."""
    named = {p.variant: p.network(density) for p in methods(recipe)}
    return {name: entries[network] for name, network in named.items() if network in entries}


def ranks_by_seed(pruned: Mapping[str, Any], judge: str) -> dict[str, list[float]]:
    """The place of each method among those of a seed, 1 the best; equal ones share the middle."""
    ranks: dict[str, list[float]] = {name: [] for name in pruned}
    for seed in sorted({seed for runs in pruned.values() for seed in runs}):
        here = {name: runs[seed]["metrics"][judge] for name, runs in pruned.items() if seed in runs}
        for name, value in here.items():
            better = sum(other > value for other in here.values())
            same = sum(other == value for other in here.values())
            ranks[name].append(better + (1 + same) / 2)
    return ranks


def shown(trial: Mapping[str, Any]) -> str:
    loss = trial["val_loss"]
    return f"{trial['rate']:g}: {'diverged' if loss is None else f'{loss:.3f}'}"


def epochs(recipe: Recipe, density: float) -> dict[str, int]:
    """Epochs of each network's stages, the dense network's included where it starts from it."""
    dense = 0 if recipe.pretrain is None else recipe.pretrain.epochs
    found = {"dense": dense}
    for _, pruner, at, stages in networks(recipe):
        if pruner is not None and at == density:
            own = sum(s.options.epochs - s.start for s in stages if s.options is not None)
            found[pruner.variant] = own + (dense if pruner.needs()[0] == "dense" else 0)
    return found


def values(runs: Mapping[str, Any], metric: str) -> list[float]:
    """A metric in percent, by seed."""
    return [100 * entry["metrics"][metric] for _, entry in sorted(runs.items())]


def interval(found: Sequence[float]) -> str:
    mean = statistics.fmean(found)
    if len(found) < 2:
        return f"{mean:.1f}"
    reach = float(t.ppf(0.975, len(found) - 1)) * statistics.stdev(found) / len(found) ** 0.5
    return f"{mean:.1f} ± {reach:.1f}"


def difference(runs: Mapping[str, Any], others: Mapping[str, Any], metric: str) -> str:
    """The mean of paired differences and its standard error, in points."""
    both = sorted(runs.keys() & others.keys())
    gains = [100 * (runs[s]["metrics"][metric] - others[s]["metrics"][metric]) for s in both]
    if runs is others or len(gains) < 2:
        return ""
    error = statistics.stdev(gains) / len(gains) ** 0.5
    return f"{statistics.fmean(gains):+.1f} ± {error:.1f}"


# -- small things ----------------------------------------------------------------------------------


def rates_of(recipe: Recipe, arguments: argparse.Namespace) -> dict[str, Any]:
    """What `rates` has found for a recipe, or for the one that ``--rates-of`` names."""
    other = load_recipe(arguments.rates_of) if arguments.rates_of else recipe
    return record(other, "rates")[1]


def methods(recipe: Recipe) -> list[Any]:
    assert recipe.prune is not None
    return list(recipe.prune.methods)


def chosen(recipe: Recipe, names: Sequence[str]) -> list[Any]:
    """The pruners with these labels; all if there are none."""
    return [pruner for pruner in methods(recipe) if not names or pruner.variant in names]


def only(
    recipe: Recipe, found: Sequence[Any], *, densities: list[float] | None = None, **changes: Any
) -> Recipe:
    """The recipe with these pruners alone."""
    assert recipe.prune is not None
    update = {"methods": list(found), **({"densities": densities} if densities else {})}
    return recipe.model_copy(update={"prune": recipe.prune.model_copy(update=update), **changes})


def record(recipe: Recipe, what: str) -> tuple[Path, dict[str, Any]]:
    """A file of what was measured, and what stands in it."""
    file = RESULTS / recipe.name / f"{what}.json"
    return file, json.loads(file.read_text()) if file.exists() else {}


def write(file: Path, known: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in known.items())
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["rates", "run", "report", "summary"])
    parser.add_argument("recipes", nargs="+", metavar="RECIPE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", default=[], help="labels; all if absent")
    parser.add_argument("--trials", type=int, default=3, help="of each rate; an odd number")
    parser.add_argument("--density", type=float, default=0.05, help="at which rates are tried")
    parser.add_argument("--rates-of", metavar="RECIPE", help="take the rates found for this one")
    parser.add_argument("--metrics", nargs="+", help="one of each recipe, that ranks")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--runs", type=Path, default=Path("runs/zoo"))
    arguments = parser.parse_args()
    recipes = {path: load_recipe(path, arguments.set) for path in arguments.recipes}
    last = [recipe.evaluate[-1].metric for recipe in recipes.values()]  # type: ignore[attr-defined]
    judged = dict(zip(recipes, arguments.metrics or last, strict=True))
    if arguments.what == "summary":
        print(summary(judged))
        return
    act = {"rates": rates, "run": everything, "report": report}[arguments.what]
    for arguments.recipe, recipe in recipes.items():
        arguments.metric = judged[arguments.recipe]
        act(recipe, arguments)


if __name__ == "__main__":
    main()
