"""The wheel alone, from an empty folder, where the other packages are but no clone.

An installation from an index is in benchmarks/results/install/.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from robustprune.recipe.jsonschema import json_schema

from .conftest import CACHE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
RUN, MODEL = "run", "run/hydra-0.05/model.safetensors"
SET = [
    "prune.densities=[0.05]",
    "prune.methods=[hydra]",
    "evaluate=[{name: pgd, eps: 0.1, steps: 2, samples: 20}]",
    "tracking={enabled: false, report: false}",
]

# What is typed after the run, in one process, and the file that it leaves behind: a line for each
# command that must work without a clone.
COMMANDS = [
    ("recipes vgg16", ""),
    ("check quickstart", ""),
    ("show paper/cifar10_vgg16_adversarial", ""),
    ("recipes copy paper/cifar10_vgg16_adversarial mine.yaml", "mine.yaml"),
    ("show mine.yaml", ""),
    (f"report {RUN} --out page.html", "page.html"),
    (f"compare {RUN}", ""),
    (f"compare {RUN} --format latex --out table.tex", "table.tex"),
    (f"bench {MODEL} --seconds 0.01 --threads 1", ""),
    (f"export {MODEL} x.onnx", "x.onnx"),
    (f"export {MODEL}", "run/hydra-0.05/model.packed.safetensors"),
    (f"evaluate {MODEL} --evaluator ibp:eps=0.01,samples=5", ""),
    ("setup", ""),
]
_SCRIPT = """
import json, sys
import robustprune
from robustprune.cli import main
codes = {line: main(line.split()) for line in json.loads(sys.argv[1])}
print("@", json.dumps([robustprune.__file__, codes]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make dist` does, from the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    for name in ("robustprune", "recipes"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / "src" / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "src")
    schema = folder / "src" / "recipes" / "recipe.schema.json"
    schema.write_text(json.dumps(json_schema()), encoding="utf-8")
    sdist = "from setuptools import build_meta; build_meta.build_sdist('..')"
    command([sys.executable, "-c", sdist], folder / "src")
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder / "unpacked", filter="data")
    (sources,) = (folder / "unpacked").iterdir()
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    command([*build, "--no-index", "--wheel-dir", str(folder), str(sources)], folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment's folder of programs."""
    place = tmp_path_factory.mktemp("venv")
    command([sys.executable, "-m", "venv", "--without-pip", str(place)], place)
    programs = place / "bin"
    pip = [sys.executable, "-m", "pip", "--python", str(programs / "python"), "install"]
    command([*pip, "--no-deps", "--no-index", str(wheel)], place)
    scheme = sysconfig.get_default_scheme()
    own = sysconfig.get_path("purelib", scheme, {"base": str(place), "platbase": str(place)})
    # on the path only: a .pth in there, of an editable robustprune, is not followed
    present = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (Path(own) / "present.pth").write_text("\n".join(present), encoding="utf-8")
    return programs


def command(words: list[str], folder: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment |= {"ROBUSTPRUNE_CACHE": str(CACHE), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_it_holds_every_recipe_and_the_schema(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        schema = json.loads(archive.read("robustprune/recipes/recipe.schema.json"))
    recipes = [path.relative_to(ROOT) for path in (ROOT / "recipes").rglob("*.yaml")]
    assert names >= {f"robustprune/{path.as_posix()}" for path in recipes}
    assert schema == json_schema()
    parts = {path.relative_to(ROOT).as_posix() for path in (ROOT / "robustprune").rglob("*.py")}
    assert names >= parts | {"robustprune/py.typed", "robustprune/report/page.html.j2"}


def test_the_demo_is_run_looked_at_timed_and_shipped_from_an_empty_folder(
    installed: Path, tmp_path: Path
) -> None:
    program, python = str(installed / "robustprune"), str(installed / "python")
    words = [program, "run", "quickstart", "--max-steps", "1", "--out", RUN]
    out = command([*words, *(f"--set={change}" for change in SET)], tmp_path)
    assert f"written to {RUN}" in out
    lines = [line for line, _ in COMMANDS]
    said, _, end = command([python, "-c", _SCRIPT, json.dumps(lines)], tmp_path).rpartition("@ ")
    home, codes = json.loads(end)
    assert codes == dict.fromkeys(lines, 0), said
    assert Path(home).is_relative_to(installed.parent)
    for _, left in COMMANDS:
        assert (tmp_path / left).exists(), left
