from __future__ import annotations

import pytest

from robustprune.recipe.reading import NotYamlError, read_yaml

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{','.join([f'*{before}'] * 9)}]}}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def test_values_and_the_lines_they_stand_on() -> None:
    reading = read_yaml("# head\na: 1\nb:\n  c: [x,\n    {d: yes}]\n")
    assert reading.values == {"a": 1, "b": {"c": ["x", {"d": True}]}}
    assert reading.lines == {
        (): 2,
        ("a",): 2,
        ("b",): 3,
        ("b", "c"): 4,
        ("b", "c", "0"): 4,
        ("b", "c", "1"): 5,
        ("b", "c", "1", "d"): 5,
    }
    assert reading.problems == []


def test_keys_are_text_and_so_are_dates() -> None:
    text = "no: 1\n1: 2\n1.5: 3\n~: 4\n=: 5\nday: 2024-10-11\nbad: 2024-13-41\n"
    expected = {"no": 1, "1": 2, "1.5": 3, "~": 4, "=": 5}
    assert read_yaml(text).values == expected | {"day": "2024-10-11", "bad": "2024-13-41"}


def test_what_python_s_yaml_calls_numbers_stays_so() -> None:
    text = "[1, -2.5, 1e-4, 1.0e-4, 0x10, 1_000, .inf, yes, ~, '1', 8/255]"
    values = [1, -2.5, "1e-4", 1e-4, 16, 1000, float("inf"), True, None, "1", "8/255"]
    assert read_yaml(text).values == values


def test_nothing_is_nothing() -> None:
    for text in ("", "# a remark\n", "---\n", "~"):
        assert read_yaml(text).values is None


def test_doubled_keys_are_named_with_both_lines_wherever_they_are() -> None:
    reading = read_yaml("a: 1\nb:\n  - {c: 1}\n  - c: 1\n    d: 2\n    c: 3\na: 2\na: 3\n")
    assert [(p.place, p.message) for p in reading.problems] == [
        (("b", "1", "c"), "the key stands twice, on lines 4 and 6; keep one."),
        (("a",), "the key stands twice, on lines 1 and 7; keep one."),
        (("a",), "the key stands twice, on lines 1 and 8; keep one."),
    ]


def test_merged_keys_are_known_where_they_were_written_and_one_s_own_win() -> None:
    reading = read_yaml("a: &a\n  x: 1\n  y: 2\nb:\n  <<: *a\n  y: 3\nc: {<<: [*a, {z: 4}]}\n")
    assert reading.values["b"] == {"x": 1, "y": 3}
    assert reading.values["c"] == {"x": 1, "y": 2, "z": 4}
    assert reading.lines["b", "x"] == 2
    assert reading.lines["b", "y"] == 6
    assert reading.problems == []


def test_a_doubled_key_under_an_anchor_is_named_once() -> None:
    assert len(read_yaml("a: &a {x: 1, x: 2}\nb: *a\nc: {<<: *a}\n").problems) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("name: [x\nfoo: 3\n", 2, "expected ',' or ']', but got ':'"),
        ("name: x\n\tfoo: 3\n", 2, "indent with spaces, not with tabs"),
        ("a: 1\nb: 'x\n", 3, "found unexpected end of stream"),
        ("a: 1\nb: !!python/object/apply:os.system [ls]\n", 2, "could not determine a constructor"),
        ("a: !mine x\n", 1, "could not determine a constructor for the tag '!mine'"),
        ("a: 1\n---\na: 2\n", 2, "found another document"),
        ("a: 1\nb: \x01\n", 2, "special characters are not allowed"),
        ("\x00", 1, "special characters are not allowed"),
        ("a: 1\n? [b]\n: 2\n", 2, "a key must be plain text"),
        ("a: 1\n? {b: 1}\n: 2\n", 2, "a key must be plain text"),
        ("a: *b\n", 1, "found undefined alias"),
        ("a: 1\nb: {<<: 3}\n", 2, "expected a mapping or list of mappings for merging"),
        ("a: 1\nb: " + "9" * 5000, 2, "cannot be read"),
        ("a: 1\nb: !!int x\n", 2, "'x' cannot be read"),
        ("b: !!bool 12\n", 1, "'12' cannot be read"),
        ("b: !!timestamp x\n", 1, "'x' cannot be read"),
        ("b: !!int ''\n", 1, "'' cannot be read"),
        ("[" * 5000, None, "nested too deeply"),
        ("a: " + "[" * 60 + "]" * 60, 1, "nested more than 50 deep"),
        ("a: &a [*a]\n", 1, "nested more than 50 deep"),
        ("b: 1\na: &a {b: *a}\n", 2, "nested more than 50 deep"),
        ("a: &a {<<: *a}\n", None, "nested too deeply"),
        (BOMB, None, "larger than 10000 values"),
        (MERGES, None, "larger than 10000 values"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(
    text: str, line: int | None, reason: str
) -> None:
    with pytest.raises(NotYamlError) as error:
        read_yaml(text)
    assert reason in str(error.value)
    assert line is None or error.value.line == line
