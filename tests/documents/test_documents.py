"""What README.md, CONTRIBUTING.md and docs/ show: examples run, recipes validate, links resolve."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import robustprune as rp
from robustprune.cli import main
from robustprune.cli.main import parser
from robustprune.cli.parts import check_parts
from robustprune.families import FAMILIES, family
from robustprune.tracking import Console

from .markdown import BLOCK, DOCUMENTS, PAGES, ROOT, blocks, plain_python, recipes, snippets, text

OWN_NETWORK = "docs/how-to/python.md"
LINK = re.compile(r"\[[^\]]+\]\((?!https?:)([^)#]*)(#[^)]*)?\)")


def quickstart() -> dict[str, Any]:
    """The recipe of the demo, cut until it takes a second."""
    recipe: dict[str, Any] = yaml.safe_load((ROOT / "recipes/quickstart.yaml").read_text())
    recipe["data"] |= {"subset": 100}
    for section in ("pretrain", "prune", "finetune"):
        recipe[section] |= {
            "epochs": 1 + (section == "pretrain")
        }  # some pruners go back to the first
    recipe["prune"] |= {"densities": [0.5]}
    attack = {"name": "pgd", "label": "pgd-20", "eps": 0.1, "steps": 1, "samples": 50}
    recipe["evaluate"] = [attack]
    return recipe | {"compute": {"device": "cpu", "threads": 1}, "tracking": {"enabled": False}}


def merged(recipe: Any, more: Any) -> Any:
    """``more`` put into ``recipe``: lists grow, and another part takes the place of one."""
    if isinstance(recipe, list):
        return recipe + more
    if not isinstance(recipe, dict) or recipe.get("name") != more.get("name", recipe.get("name")):
        return more
    keys = recipe | more
    return {
        key: merged(recipe[key], more[key]) if key in recipe and key in more else keys[key]
        for key in keys
    }


def write(path: Path, recipe: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["pruners", "allocations"])
def test_every_method_and_allocation_has_one_row_on_their_page(name: str):
    rows = [row for row in (ROOT / "docs/methods.md").read_text().splitlines() if row[:3] == "| `"]
    named = [row.split("`")[1] for row in rows]
    assert len(set(named)) == len(named)
    assert set(named) >= set(family(name).names())
    assert set(named) <= {*family("pruners").names(), *family("allocations").names()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Overwriting all_conv")  # timm forgets no model
@pytest.mark.parametrize("document", [*filter(snippets, DOCUMENTS)])
def test_every_example_trains_prunes_and_judges_in_one_recipe(document: str, workshop: Path):
    recipe = quickstart()
    for snippet in snippets(document):
        recipe = merged(recipe, snippet)
    files = {block.file for block in blocks(document, "python") if block.file}
    assert files == set(recipe.get("imports", []))

    result = rp.run(write(workshop / "mine.yaml", recipe), max_steps=1, out=workshop / "out")

    resolved = yaml.safe_load((workshop / "out" / "recipe.yaml").read_text())
    for section in ("data", "model", "objective"):
        assert resolved[section]["name"] == recipe[section]["name"]
    named = [{"name": m} if isinstance(m, str) else m for m in recipe["prune"]["methods"]]
    methods = [method.get("label", method["name"]) for method in named]
    assert [entry["name"] for entry in result.networks] == ["dense"] + [f"{m}-0.5" for m in methods]
    for entry in result.networks:
        assert set(entry["metrics"]) >= {e.get("label", e["name"]) for e in recipe["evaluate"]}
        rp.load_model(result.folder / entry["model"])


@pytest.mark.slow
@pytest.mark.parametrize("document", ["docs/how-to/method-author.md", "docs/how-to/parts.md"])
def test_every_example_keeps_the_promises_of_its_family(
    document: str, workshop: Path, capsys: pytest.CaptureFixture[str]
):
    (workshop / "data").mkdir()
    (workshop / "data" / "npz").symlink_to(workshop / "small_digits")
    code = (workshop / "npz.py").read_text().replace("Field(32,", "Field(8,")
    (workshop / "npz.py").write_text(code.replace("grey: bool = False", "grey: bool = True"))
    files = {block.file for block in blocks(document, "python") if block.file}
    backbones = {"all_conv.py"}  # timm registers them
    check_parts([workshop / file for file in sorted(files - backbones)], Console())
    assert "not checked" not in capsys.readouterr().err


def test_a_page_has_an_example_of_every_family():
    found = {name for block in blocks("docs/how-to/parts.md", "python") for name in FAMILIES
             if f"@rp.{name}.register(" in block.text}  # fmt: skip
    assert found == set(FAMILIES)


@pytest.mark.slow
def test_python_of_the_readme_runs_as_it_stands(workshop: Path, capsys: pytest.CaptureFixture[str]):
    recipe = quickstart()
    write(workshop / "recipes/quickstart.yaml", recipe)
    namespace: dict[str, Any] = {}
    for code in plain_python("README.md"):
        exec(compile(code, "README.md", "exec"), namespace)

    result = namespace["result"]
    assert f"\n{result.network('hydra-0.05')['metrics']['pgd-20']}\n" in capsys.readouterr().out
    entry = json.loads(blocks("docs/reference/files.md", "json")[0].text)
    written = result.network("hydra-0.05")
    assert entry.keys() == written.keys()
    assert {key.partition("_")[2] for key in entry["metrics"]} == {"", "n", "interval"}
    files = {path.name for path in result.folder.iterdir()}
    assert files == {"recipe.yaml", "results.json", "state", "dense", "hydra-0.05",
                     "magnitude-0.05"}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if plain_python(p) and p != OWN_NETWORK])
def test_python_of_a_page_runs_as_it_stands(
    page: str, workshop: Path, capsys: pytest.CaptureFixture[str]
):
    result = rp.run(write(workshop / "recipes/quickstart.yaml", quickstart()))
    capsys.readouterr()
    namespace: dict[str, Any] = {}
    for code in plain_python(page):
        exec(compile(code, page, "exec"), namespace)

    out = capsys.readouterr().out
    if page == "docs/quickstart.md":
        hydra, magnitude = (bars[0].get_ydata() for bars in namespace["axes"].containers)
        measured = [result.network(f"{m}-0.5")["metrics"]["pgd-20"] for m in ("hydra", "magnitude")]
        assert [*hydra, *magnitude] == pytest.approx([100 * accuracy for accuracy in measured])
        assert (workshop / "robust-accuracy.svg").exists()
    elif page == "docs/how-to/researcher.md":
        low, high = result.network("hydra-0.5")["metrics"]["pgd-20_interval"]
        line = f"seed 0  hydra-0.5       pgd-20 {100 * low:.1f} to {100 * high:.1f} %"
        assert line in out.splitlines()
    elif page == "docs/how-to/engineer.md":
        names = sorted(path.name for path in (workshop / "my-network").iterdir())
        assert names == ["README.md", "config.json", "model.safetensors"]
    else:
        assert out == "3.0\n"


@pytest.mark.slow
def test_python_of_a_network_of_ones_own_runs_as_it_stands(
    workshop: Path, capsys: pytest.CaptureFixture[str]
):
    """With an independent value: torch.nn.utils.prune keeps the same weights."""
    namespace: dict[str, Any] = {}
    for code in plain_python(OWN_NETWORK):
        exec(compile(code, OWN_NETWORK, "exec"), namespace)

    out = capsys.readouterr().out
    shown = [block.text for block in blocks(OWN_NETWORK, "text")]
    assert "\n[True, True, True]\n" in out
    assert f"\n{shown[-1]}987 9872\n" in out  # a table of masks alone is the same everywhere
    for table in shown[:-1]:  # the others hold numbers of a training
        assert {line.split()[0] for line in table.splitlines()} <= {*out.split()}
    assert (workshop / "robust.onnx.md").exists()
    again, packed = namespace["again"].state_dict(), rp.load_model("net.packed.safetensors")
    assert all(again[name].equal(tensor) for name, tensor in packed.state_dict().items())


def test_torch_pruning_of_a_page_runs_where_it_is_installed():
    pytest.importorskip("torch_pruning")
    setup, *_ = plain_python(OWN_NETWORK)
    namespace: dict[str, Any] = {}
    for code in (setup, *(block.text for block in blocks(OWN_NETWORK, "py"))):
        exec(compile(code, OWN_NETWORK, "exec"), namespace)
    assert namespace["small"][0].out_channels == 8


def test_tables_for_a_paper_are_those_that_compare_writes(capsys: pytest.CaptureFixture[str]):
    page = "docs/how-to/researcher.md"
    runs = [str(path) for path in sorted((ROOT / "benchmarks/results/quickstart").glob("*.json"))]
    assert main(["compare", *runs, "--format", "latex"]) == 0
    (shown,) = blocks(page, "latex")
    assert capsys.readouterr().out == shown.text
    paired = ["--paired", "magnitude", "--metrics", "autoattack-10", "--format", "markdown"]
    assert main(["compare", *runs, *paired]) == 0
    table, _, _ = capsys.readouterr().out.partition("\n\n")
    assert table in text(page)


def test_a_part_of_ones_own_is_listed_as_the_page_shows(
    workshop: Path, capsys: pytest.CaptureFixture[str]
):
    page = "docs/how-to/method-author.md"
    write(workshop / "mine.yaml", snippets(page)[0])
    (command,) = [line for line in commands(page) if line.endswith("logit --recipe mine.yaml")]
    assert main(shlex.split(command)[1:]) == 0
    (shown,) = blocks(page, "text")
    assert capsys.readouterr().out == shown.text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Overwriting all_conv")  # timm forgets no model
@pytest.mark.parametrize("document", [*filter(recipes, DOCUMENTS)])
def test_every_recipe_validates(document: str, workshop: Path):
    shutil.copytree(ROOT / "recipes", workshop / "recipes")  # what examples extend
    for number, recipe in enumerate(recipes(document)):
        whole = recipe if "name" in recipe else merged(quickstart(), recipe)
        rp.load_recipe(write(workshop / "recipes" / "mine" / f"{number}.yaml", whole))


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_relative_links_resolve(document: str):
    for path, anchor in LINK.findall(text(document)):
        target = ROOT / (path or document)
        assert target.exists(), path
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor[1:] in [
                re.sub(r"[^\w-]", "", h.lower().replace(" ", "-")) for h in headings
            ]


def commands(document: str) -> list[str]:
    shown = [line for block in blocks(document, "console") for line in block.text.splitlines()]
    prose = re.sub(BLOCK, "", text(document))
    return shown + re.findall(r"`((?:robustprune|make) [^`]+)`", prose)


@pytest.mark.parametrize("document", [*filter(commands, DOCUMENTS)])
def test_commands_exist_with_their_options(document: str):
    targets = set(re.findall(r"^([\w-]+):", text("Makefile"), re.MULTILINE))
    checked = 0
    for line in commands(document):
        program, *words = shlex.split(line.partition(" > ")[0], comments=True)
        if program == "make":
            assert words[0] in targets, line
        elif program == "robustprune":
            arguments = parser().parse_args(words)
            assert callable(arguments.command), line
            recipe = getattr(arguments, "recipe", None)
            if recipe is not None and recipe.parts[0] == "recipes":
                rp.load_recipe(ROOT / recipe, getattr(arguments, "overrides", []))
        checked += program in ("make", "robustprune")
    assert checked


@pytest.mark.parametrize("script", [*(b.text for p in DOCUMENTS for b in blocks(p, "bash"))])
def test_scripts_are_bash_and_their_commands_exist(script: str):
    if (bash := shutil.which("bash")) is None:
        pytest.skip("there is no bash")
    subprocess.run([bash, "-n"], input=script, text=True, check=True)
    lines = re.findall(r"-m robustprune (.*?)(?: &)?$", script.replace("\\\n", ""), re.MULTILINE)
    assert lines
    for line in lines:
        arguments = parser().parse_args(shlex.split(line))
        for recipe in arguments.recipes:
            rp.load_recipe(ROOT / recipe)


def test_table_of_parts_is_complete():
    rows = dict(re.findall(r"^\| (\w+) \| (`.*`) \|$", text("README.md"), re.MULTILINE))
    assert rows.keys() == FAMILIES.keys()
    for name, cell in rows.items():
        registry = family(name)
        ours = [
            n for n in registry.names() if registry.get(n).__module__.startswith("robustprune.")
        ]
        assert re.findall(r"`(\w+)`", cell) == ours, name


def test_floors_are_those_of_the_contract():
    (diagram,) = blocks("CONTRIBUTING.md", "text")
    contract = tomllib.loads(text("pyproject.toml"))["tool"]["importlinter"]["contracts"][0]
    floors = [layer.replace("robustprune.", "") for layer in contract["layers"]]
    assert diagram.text.splitlines() == floors
