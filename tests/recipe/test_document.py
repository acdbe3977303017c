from __future__ import annotations

from pathlib import Path

import pytest

from robustprune.errors import Problem, UsageError
from robustprune.recipe.document import Document, dump

TEXT = "name: x\nobjective: pgd\nprune:\n  methods: [a, b]\n  epochs: 3\nevaluate: []\nnone:\n"


def document(*overrides: str) -> Document:
    made = Document("r.yaml", TEXT)
    for override in overrides:
        made.override(override)
    return made


def where(made: Document, *place: str | int) -> str:
    (problem,) = made.located([Problem(place, "!")])
    return problem.message.removesuffix(f": {Problem(place, '!')}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a recipe: found nothing, expected 'key: value' lines"),
        (b"- a\n- b\n", "found ['a', 'b'], expected 'key: value' lines"),
        (b"\x80\x04\x95", "is not a recipe: it is not UTF-8 text"),
        ("name: x\n".encode("utf-16"), "it is not UTF-8 text"),
        (b"PK\x03\x04\x00", "r.yaml:1: this is not YAML: unacceptable character"),
        (b"a: 1\nb: [\n", "r.yaml:3: this is not YAML: "),
        (b"#" * (2**20 + 1), "is not a recipe: it is larger than 1 MiB"),
    ],
)
def test_files_that_are_no_recipe_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError) as error:
        Document.read(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named_with_the_one_beside_it(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").touch()
    with pytest.raises(UsageError, match="No such file or directory") as error:
        Document.read(tmp_path / "quikstart.yaml")
    assert "Did you mean 'quickstart.yaml'?" in str(error.value)
    with pytest.raises(UsageError, match=r"no-such\.yaml") as error:
        Document.read(tmp_path / "no-such.yaml")
    assert "Did you mean" not in str(error.value), "only the suffix is alike"
    with pytest.raises(UsageError, match=r"robustprune recipes"):
        Document.read(tmp_path / "no" / "folder.yaml")
    with pytest.raises(UsageError, match="Is a directory"):
        Document.read(tmp_path)


def test_a_byte_order_mark_and_other_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: x\r\nseed: 3\r\n")
    made = Document.read(path)
    assert made.values == {"name": "x", "seed": 3}
    assert where(made, "seed") == f"{path}:2"


def test_places_are_found_and_so_is_what_is_around_missing_ones() -> None:
    made = document()
    assert where(made, "prune", "methods", 1) == "r.yaml:4"
    assert where(made, "prune", "epochs", "deep", 0) == "r.yaml:5"
    assert where(made, "prune", "missing") == "r.yaml:3"
    assert where(made, "missing") == where(made) == "r.yaml:1"


def test_problems_come_in_the_file_s_order_and_overrides_after_them() -> None:
    made = document("seed=x")
    places = [("seed",), ("evaluate",), ("name",), ("prune", "epochs")]
    located = made.located([Problem(place, "!") for place in places])
    assert [str(problem).split(": ")[0] for problem in located] == [
        *("r.yaml:1", "r.yaml:5", "r.yaml:6", "--set seed=x")
    ]


@pytest.mark.parametrize(
    ("override", "place", "value"),
    [
        ("seed=3", ("seed",), 3),
        ("name='3'", ("name",), "3"),
        ("name=", ("name",), None),
        ("name = x", ("name",), "x"),
        ("prune.epochs=8/2", ("prune", "epochs"), "8/2"),
        ("prune.methods.1=c", ("prune", "methods"), ["a", "c"]),
        ("prune.methods.0.label=c", ("prune", "methods"), [{"name": "a", "label": "c"}, "b"]),
        ("objective.eps=1", ("objective",), {"name": "pgd", "eps": 1}),
        ("none.a.b=1", ("none",), {"a": {"b": 1}}),
        ("new.1=x", ("new",), {"1": "x"}),
        ("prune=null", ("prune",), None),
    ],
)
def test_overrides_change_one_value(override: str, place: tuple[str, ...], value: object) -> None:
    made = document(override)
    assert made.problems == []
    found = made.values
    for key in place:
        found = found[key]
    assert found == value
    untouched = {key: item for key, item in document().values.items() if key != place[0]}
    assert {key: made.values[key] for key in untouched} == untouched


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "expected key=value"),
        ("a..b=3", "expected key=value"),
        ("seed=[", "this is not YAML: "),
        ("seed=!!python/name:os.system", "could not determine a constructor"),
        ("seed=" + "9" * 5000, "cannot be read"),
        ("seed={a: 1, a: 2}", "a: the key stands twice"),
        ("prune.epochs.x=3", "there is no 'x' in 3."),
        ("prune.methods.2=c", "there is no '2' in ['a', 'b']. Items are counted from 0."),
        ("prune.methods.-1=c", "there is no '-1' in ['a', 'b']"),
        ("prune.methods.²=c", "there is no '²' in ['a', 'b']"),
        ("evaluate.0=c", "there is no '0' in []."),
    ],
)
def test_overrides_that_cannot_be_applied_are_noted_and_change_nothing(
    override: str, message: str
) -> None:
    made = document(override)
    (problem,) = made.problems
    assert str(problem).startswith(f"--set {override}: ")
    assert message in str(problem)
    assert made.values == document().values


def test_a_fault_is_an_override_s_where_it_put_the_value() -> None:
    made = document("prune.epochs=x", "objective.eps=1")
    assert where(made, "prune", "epochs") == "--set prune.epochs=x"
    assert where(made, "prune", "methods", 0) == "r.yaml:4"
    assert where(made, "objective", "eps") == "--set objective.eps=1"
    assert where(made, "objective") == "--set objective.eps=1", "the file's own value was right"
    assert where(made) == "r.yaml:1"


def test_a_part_s_new_name_is_blamed_for_options_that_are_left_over() -> None:
    text = "name: x\nobjective:\n  name: pgd\n  eps: 1\nevaluate: [{name: a, b: 1}]\n"
    made = Document("r.yaml", text)
    for override in ("name=y", "objective.name=benign", "evaluate.0.name = c"):
        made.override(override)
    places = [("objective", "eps"), ("objective", "beta"), ("evaluate", 0, "b"), ("objective",)]
    assert [str(problem) for problem in made.located(Problem(p, "!") for p in places)] == [
        "r.yaml:2 with --set objective.name=benign: objective.beta: !",
        "r.yaml:4 with --set objective.name=benign: objective.eps: !",
        "r.yaml:5 with --set evaluate.0.name = c: evaluate.0.b: !",
        "--set objective.name=benign: objective: !",
    ]
    made.override("objective.eps=2")
    assert where(made, "objective", "eps") == "--set objective.eps=2"
    assert where(made, "objective", "name") == "--set objective.name=benign"
    made.override("objective={name: benign, eps: 2}")
    assert where(made, "objective", "eps") == "--set objective={name: benign, eps: 2}"


def test_the_last_override_of_a_place_counts() -> None:
    made = document("prune.epochs=x", "prune={epochs: y}")
    assert made.values["prune"] == {"epochs": "y"}
    assert where(made, "prune", "epochs") == "--set prune={epochs: y}"
    again = document("prune={epochs: y}", "prune.epochs=x")
    assert where(again, "prune", "epochs") == "--set prune.epochs=x"
    assert where(again, "prune", "methods") == "--set prune={epochs: y}"


def test_doubled_keys_are_problems_with_their_line() -> None:
    made = Document("r.yaml", "a: 1\nb: 2\na: 3\n")
    assert str(made.problems[0]).startswith("r.yaml:1: a: the key stands twice, on lines 1 and 3")


def test_dumped_values_are_read_again_unchanged() -> None:
    values = {"z": "1e-4", "a": [0.1, None, True, "8/255", "ε"], "m": {"deep": {"x": 1e-8}}}
    assert Document("x", dump(values)).values == values
    assert dump(values).index("z:") < dump(values).index("a:")
