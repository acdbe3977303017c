from __future__ import annotations

import sys
from pathlib import Path

import pytest

from robustprune import objectives
from robustprune.recipe.imports import import_files, run_imports

pytestmark = pytest.mark.usefixtures("own_parts")

MINE = """\
import robustprune as rp

@rp.objectives.register("mine")
class Mine(rp.Objective):
    'Mine.'
    weight: float = 1
    'How much.'
"""


def messages(names: object, folder: Path) -> dict[int | str, str]:
    problems = run_imports(names, folder)
    assert all(problem.place[0] == "imports" for problem in problems)
    return {problem.place[1]: problem.message for problem in problems}


def test_a_file_beside_the_recipe_registers_its_parts(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "losses.py").write_text(MINE)
    assert messages(["own/losses.py"], tmp_path) == {}
    assert objectives.create("mine", weight="1/2").weight == 0.5


def test_a_file_in_the_working_directory_is_found_after_the_recipe_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    (here / "losses.py").write_text(MINE)
    assert messages(["losses.py"], tmp_path) == {}
    (tmp_path / "losses.py").write_text(MINE.replace("mine", "nearer"))
    assert messages(["losses.py"], tmp_path) == {}
    assert {"mine", "nearer"} <= set(objectives.names())


def test_a_file_is_run_once_a_process_however_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "losses.py").write_text(MINE)
    (tmp_path / "sub").mkdir()
    names = ["losses.py", "./losses.py", "sub/../losses.py", str(tmp_path / "losses.py")]
    assert messages(names, tmp_path) == {}
    assert messages(names, tmp_path) == {}


def test_a_copy_in_the_run_s_folder_is_found_last_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, run = tmp_path / "here", tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    places = [run / "imports" / "losses.py", here / "own" / "losses.py", run / "own" / "losses.py"]
    here.mkdir()
    monkeypatch.chdir(here)
    names = ["own/losses.py", "json", "gone.py"]
    assert import_files(names, run) == {}
    for place in places:
        place.parent.mkdir(parents=True)
        place.touch()
        assert import_files(names, run) == {"own/losses.py": place}
    assert import_files(["../losses.py"], run) == {"../losses.py": places[0]}


def test_a_run_s_copy_registers_its_parts_and_is_not_run_beside_its_original(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    copies = tmp_path / "run" / "imports"
    copies.mkdir(parents=True)
    (copies / "losses.py").write_text(MINE)
    assert messages(["../own/losses.py"], tmp_path / "run") == {}
    assert "mine" in objectives.names()
    (tmp_path / "renamed.py").write_text(MINE)
    assert messages(["renamed.py"], tmp_path) == {}, "it would register 'mine' again"


def test_a_file_that_has_changed_needs_a_new_process(tmp_path: Path) -> None:
    path = tmp_path / "losses.py"
    path.write_text(MINE)
    assert messages(["losses.py"], tmp_path) == {}
    path.write_text(MINE.replace("weight", "factor"))
    assert messages(["losses.py"], tmp_path) == {
        0: "'losses.py' has changed since this process imported it. Start a new process."
    }


def test_files_of_one_name_in_two_folders_are_two_modules(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "losses.py").write_text(MINE.replace("mine", folder))
    assert messages(["a/losses.py", "b/losses.py"], tmp_path) == {}
    assert {"a", "b"} <= set(objectives.names())


def test_a_module_is_imported_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "__init__.py").touch()
    (tmp_path / "own_package" / "losses.py").write_text(MINE)
    assert messages(["own_package.losses"], tmp_path) == {}
    assert "mine" in objectives.names()
    found = messages(["own_package.loses", "own_package.losses.x"], tmp_path)
    assert found[0].startswith("there is no module 'own_package.loses'.")
    assert found[1].startswith("there is no module 'own_package.losses.x'.")


def test_what_is_no_module_s_name_is_said_to_be_none(tmp_path: Path) -> None:
    names = ["", "..", "/", "own-losses", "losses.txt/x"]
    assert all("is no module's name" in told for told in messages(names, tmp_path).values())


def test_missing_files_and_modules_are_all_named_with_where_they_were_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = messages(["gone.py", "no_such_module_at_all", str(tmp_path)], tmp_path / "f")
    places = f"{tmp_path / 'f' / 'gone.py'}, gone.py, {tmp_path / 'f' / 'imports' / 'gone.py'}"
    looked = f"looked for {places}."
    assert found[0] == f"there is no file 'gone.py'; {looked}"
    assert found[1].startswith("there is no module 'no_such_module_at_all'. Install it")
    assert "is no module's name" in found[2]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1\n1 / 0\n", "raised ZeroDivisionError at {path}:2: division by zero"),
        ("x = 1\ndef f(:\n", "raised SyntaxError at {path}:2: "),
        ("\n\nimport no_such_library\n", "raised ModuleNotFoundError at {path}:3: No module named"),
        ("\nraise SystemExit('bye')\n", "raised SystemExit at {path}:2: bye"),
        (MINE.replace("mine", "pgd"), "raised UsageError at {path}:3: objective 'pgd' is already"),
        ("\x00", "raised "),
    ],
)
def test_a_file_that_raises_is_named_with_its_own_line(
    code: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "losses.py"
    path.write_text(code)
    modules = set(sys.modules)
    (found,) = messages(["losses.py"], tmp_path).values()
    assert found.startswith("importing 'losses.py' raised ")
    assert message.format(path=path) in found
    assert not [name for name in set(sys.modules) - modules if name.startswith("losses")]


def test_a_mended_file_is_run_again(tmp_path: Path) -> None:
    path = tmp_path / "losses.py"
    path.write_text("1 / 0\n")
    assert messages(["losses.py"], tmp_path)
    path.write_text(MINE)
    assert messages(["losses.py"], tmp_path) == {}
    assert "mine" in objectives.names()


def test_what_is_no_list_of_text_is_left_to_the_schema(tmp_path: Path) -> None:
    for names in (None, "losses.py", {"a": 1}, 3, [3, None, ["x"]]):
        assert messages(names, tmp_path) == {}
