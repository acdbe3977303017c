from __future__ import annotations

from pathlib import Path

import pytest

from robustprune.families import FAMILIES, family

from .conftest import Command


def test_without_a_family_all_of_them_are_listed(command: Command) -> None:
    said = command("list")
    assert (said.code, said.err) == (0, "")
    for name in FAMILIES:
        assert f"{name}: {', '.join(family(name).names())}" in said.out.splitlines()
    assert "robustprune list models" in said.out


@pytest.mark.parametrize("name", FAMILIES)
def test_every_part_of_a_family_is_there_with_its_options(name: str, command: Command) -> None:
    said = command("list", name)
    assert (said.code, said.err) == (0, "")
    for part in family(name).names():
        assert any(line.startswith(f"{part}: ") for line in said.out.splitlines())
        for key, field in family(name).get(part).model_fields.items():
            assert f"    {key} (" in said.out
            assert " ".join((field.description or "").split()) in said.out
            assert field.description, f"{name} {part}: {key} is not documented"


def test_kinds_defaults_and_groups_of_options_are_shown(command: Command) -> None:
    out = command("list", "evaluators", "pgd").out
    assert "    norm (linf | l2) = linf: Which ball" in out
    assert "    eps (float) = 0.0313725: Radius" in out
    assert "    samples (int or nothing): Judge only" in out
    assert "autoattack" not in out
    assert "    allocation (allocation) = uniform: " in command("list", "pruners", "hydra").out
    assert "    attack (str), required: " in command("list", "evaluators", "torchattacks").out
    out = command("list", "objectives", "mixtrain").out
    assert (
        "    ramp (a group of options): Growth of eps.\n        epochs (float) = 0: Length" in out
    )
    assert "\n        stages (list of str) = ['pretrain', 'train']: " in out
    out = command("list", "datasets", "mnist").out
    assert "    extra (a group of options or nothing): Pseudo-labelled" in out
    assert "\n        path (path), required: " in out


def test_models_are_ours_and_timms(command: Command) -> None:
    out = command("list", "models", "cnn").out.splitlines()
    ours = ["cnn_digits", "cnn_digits_bn", "cnn_large", "cnn_small", "cnn_small_bn"]
    assert out[:5] == ours
    assert all("cnn" in name for name in out)
    everything = command("list", "models").out.splitlines()
    assert "resnet18" in everything
    assert len(everything) > 500


@pytest.mark.usefixtures("own_parts")
def test_parts_of_ones_own_are_listed_with_their_recipe(command: Command, here: Path) -> None:
    (here / "mine.py").write_text(
        "import robustprune as rp\n\n"
        "@rp.schedules.register('listed_sawtooth')\n"
        "class Sawtooth(rp.Schedule):\n"
        "    '''Up and down.'''\n\n"
        "    teeth: int = 3\n"
        "    '''How many.'''\n"
    )
    (here / "mine.yaml").write_text("imports: [mine.py]\n")
    assert "listed_sawtooth" not in command("list", "schedules").out
    out = command("list", "schedules", "--recipe", "mine.yaml").out
    assert "listed_sawtooth: Up and down.\n    teeth (int) = 3: How many.\n" in out
    assert "listed_sawtooth" in command("list", "--recipe", "mine.yaml").out


def test_every_pruner_is_listed_with_its_source_its_cost_and_its_needs(command: Command) -> None:
    blocks = command("list", "pruners").out.split("\n  source: ")[1:]
    assert len(blocks) == len(family("pruners").names())
    assert all("\n  cost: " in block and "\n  needs: " in block for block in blocks)


def test_the_options_of_a_stage_stand_on_one_line(command: Command) -> None:
    out = command("list", "pruners", "hydra").out
    assert "    finetune (options of a stage): Changes to the section ``finetune``.\n" in out + "\n"
    assert "batch_size" not in out
