"""What a release consists of agrees with itself: versions, Dockerfile, citation, workflow."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from robustprune.version import __version__

ROOT = Path(__file__).parents[1]
BASE = "python:3.12-slim"


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_version_is_the_same_everywhere() -> None:
    assert tomllib.loads(text("pyproject.toml"))["project"]["version"] == __version__
    citation = yaml.safe_load(text("CITATION.cff"))
    assert (citation["version"], citation["license"]) == (__version__, "MIT")
    assert citation["references"][0]["identifiers"][0]["value"] == "arXiv:2002.10509"
    newest = re.search(r"^## (\S+?),? ", text("CHANGELOG.md"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == __version__


def test_the_constraints_pin_what_pyproject_asks_for() -> None:
    project = tomllib.loads(text("pyproject.toml"))["project"]
    extras = (line for extra in project["optional-dependencies"].values() for line in extra)
    asked = {re.split(r"[\[<>=]", line)[0] for line in (*project["dependencies"], *extras)}
    pinned = {line.partition("==")[0].lower() for line in text("constraints.txt").splitlines()}
    unpinned = {"robustprune", "setuptools", "types-PyYAML"}
    names = {re.sub(r"[-_]", "-", name.lower()) for name in asked - unpinned}
    assert names <= {re.sub(r"[-_]", "-", name) for name in pinned}


def test_the_workflow_tries_every_python_that_is_promised() -> None:
    jobs = yaml.safe_load(text(".github/workflows/release.yml"))["jobs"]
    assert [(name, job.get("needs")) for name, job in jobs.items()] == [
        *(("build", None), ("try", "build"), ("attach", "try"))
    ]
    tried = jobs["try"]["strategy"]["matrix"]["python"]
    classifiers = tomllib.loads(text("pyproject.toml"))["project"]["classifiers"]
    promised = [re.search(r"Python :: (3\.\d+)$", line) for line in classifiers]
    assert tried == [match[1] for match in promised if match]
    targets = re.findall(r"^([\w-]+):", text("Makefile"), re.MULTILINE)
    made = re.findall(r"run: make (\w+)", text(".github/workflows/release.yml"))
    assert set(made) <= set(targets)


def test_the_dockerfile_copies_what_the_package_is_built_from() -> None:
    instructions = re.findall(r"^([A-Z]+) (.*)$", text("Dockerfile"), re.MULTILINE)
    assert instructions[:2] == [("ARG", f"BASE={BASE}"), ("FROM", "${BASE}")]
    copied = {word for verb, rest in instructions if verb == "COPY" for word in rest.split()[:-1]}
    assert copied >= {"robustprune", "recipes", "setup.py", "pyproject.toml"}
    assert all((ROOT / name).exists() for name in copied)
    sent = re.findall(r"^!(.*)$", text(".dockerignore"), re.MULTILINE)
    assert copied == set(sent)
    if hadolint := shutil.which("hadolint"):
        done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_image_runs_the_demo_where_docker_is() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "info"], capture_output=True).returncode:
        pytest.skip("there is no docker daemon")
    if subprocess.run([docker, "pull", "--quiet", BASE], capture_output=True).returncode:
        pytest.skip(f"the base image {BASE} cannot be had")
    subprocess.run([docker, "build", "--tag", "robustprune-test", ROOT], check=True)
    words = ["robustprune-test", "run", "quickstart", "--max-steps", "1"]
    done = subprocess.run([docker, "run", "--rm", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "a page to look at" in done.stdout
