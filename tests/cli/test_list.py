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


def test_kinds_and_defaults_are_shown(command: Command) -> None:
    out = command("list", "evaluators", "pgd").out
    assert "    norm (linf | l2) = linf: Which ball" in out
    assert "    eps (float) = 0.0313725: Radius" in out
    assert "    samples (int or nothing): Judge only" in out
    assert "autoattack" not in out
    assert "    allocation (allocation) = uniform: " in command("list", "pruners", "hydra").out
    assert "    attack (str), required: " in command("list", "evaluators", "torchattacks").out


def test_a_group_of_options_is_shown_below_its_own_name(command: Command) -> None:
    out = command("list", "objectives", "mixtrain").out.splitlines()
    place = out.index("    ramp (a group of options): How eps grows.")
    assert out[place + 1].startswith("        epochs (float) = 0: Length in epochs")
    assert "        stages (list of str) = ['pretrain', 'train']: " in out[place + 4]


def test_a_group_that_may_be_absent_is_shown_with_its_options(command: Command) -> None:
    out = command("list", "datasets", "mnist").out.splitlines()
    (place,) = [n for n, line in enumerate(out) if line.startswith("    extra (")]
    assert out[place].startswith("    extra (a group of options or nothing): Pseudo-labelled")
    assert out[place + 1].startswith("        path (path), required: ")


def test_models_are_ours_and_timms(command: Command) -> None:
    out = command("list", "models", "cnn").out.splitlines()
    assert out[:4] == ["cnn_digits", "cnn_large", "cnn_small", "cnn_small_bn"]
    assert all("cnn" in name for name in out)
    everything = command("list", "models").out.splitlines()
    assert "resnet18" in everything
    assert len(everything) > 500


def test_parts_of_ones_own_are_listed_with_their_recipe(
    command: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = family("schedules")
    registry.names()
    monkeypatch.setattr(registry, "_parts", dict(registry._parts))
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
