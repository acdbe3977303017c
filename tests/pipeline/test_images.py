"""The table of images: what goes in comes out, in the same bytes."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch

from robustprune.errors import UsageError
from robustprune.evaluators import create
from robustprune.pipeline.images import ImageTable, check_ending

LABELS = torch.tensor([3, 1, 4, 1, 5])


@pytest.fixture
def table() -> ImageTable:
    table = ImageTable()
    table.add("clean", LABELS, {"clean": torch.tensor([True, False, True, True, False])})
    entries = {
        "cw": torch.tensor([True, False, True]),
        "cw_norm": torch.tensor([math.inf, 0.1, 0.25]),
        "cw_half": torch.tensor([0.5, 0.25, 2], dtype=torch.bfloat16),
        "cw_steps": torch.tensor([7, 8, 9], dtype=torch.int32),
    }
    table.add("cw", LABELS[:3], entries)
    return table


def test_an_image_an_evaluator_did_not_judge_is_null(table: ImageTable) -> None:
    assert table.arrow().to_pydict() == {
        "index": [0, 1, 2, 3, 4],
        "label": [3, 1, 4, 1, 5],
        "clean": [True, False, True, True, False],
        "cw": [True, False, True, None, None],
        "cw_norm": [math.inf, pytest.approx(0.1), 0.25, None, None],
        "cw_half": [0.5, 0.25, 2, None, None],
        "cw_steps": [7, 8, 9, None, None],
    }


def test_csv_and_parquet_have_the_same_content(table: ImageTable, tmp_path: Path) -> None:
    for name in ("a.csv", "a.parquet"):
        table.write(tmp_path / name)
    expected = pq.read_table(tmp_path / "a.parquet")
    found = pa.csv.read_csv(tmp_path / "a.csv")
    assert found.cast(expected.schema).equals(expected)
    assert expected.equals(table.arrow())


def test_read_and_written_again_it_is_the_same_file(table: ImageTable, tmp_path: Path) -> None:
    path = tmp_path / "images.parquet"
    table.write(path)
    again = ImageTable.read(path, ["clean", "cw"])
    again.write(tmp_path / "again.parquet")
    assert (tmp_path / "again.parquet").read_bytes() == path.read_bytes()
    assert again.evaluators == {"clean", "cw"}
    assert torch.equal(again.entries("cw")["cw"], table.entries("cw")["cw"])


def test_only_the_evaluators_asked_for_are_read(table: ImageTable, tmp_path: Path) -> None:
    path = tmp_path / "images.parquet"
    table.write(path)
    found = ImageTable.read(path, ["cw", "pgd"])
    assert found.evaluators == {"cw"}
    assert found.labels.tolist() == [3, 1, 4]  # as if the other one had not judged


@pytest.mark.parametrize("damage", ["missing", "nothing", "text", "truncated", "another table"])
def test_a_damaged_file_holds_nothing(table: ImageTable, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "images.parquet"
    table.write(path)
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "another table":
        pq.write_table(pa.table({"a": [1]}), path)
    else:
        path.write_bytes({"nothing": b"", "text": b"hello", "truncated": content[:-20]}[damage])
    found = ImageTable.read(path, ["clean", "cw"])
    assert (found.evaluators, len(found.labels)) == (set(), 0)


def test_two_evaluators_cannot_share_an_entry(table: ImageTable) -> None:
    entries = {"pgd": torch.tensor([True]), "cw_norm": torch.tensor([1.0])}
    with pytest.raises(UsageError, match=r"'pgd'.*'cw' has a column 'cw_norm' too.*another label"):
        table.add("pgd", LABELS[:1], entries)
    with pytest.raises(UsageError, match=r"'a'.*table of images itself has a column 'label' too"):
        table.add("a", LABELS[:1], {"label": torch.tensor([1])})


def test_a_label_that_is_a_column_of_every_table_is_refused() -> None:
    create("pgd", label="labels")
    with pytest.raises(UsageError, match="label: 'label' is the name of a column"):
        create("pgd", label="label")


@pytest.mark.parametrize("name", ["a.txt", "a", "a.csv.gz", "parquet"])
def test_another_ending_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"End it in \.csv or \.parquet"):
        check_ending(Path(name))
