import io
import json
import pickle
import random
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from robustprune.artifacts import backends
from robustprune.artifacts.checksummed import KEY, ModelFile, write_checksummed
from robustprune.artifacts.reading import load_model, read_model
from robustprune.errors import UsageError
from tests.artifacts.nets import DIGITS, flipped, pruned, saved, saved_to
from tests.artifacts.planted import Planted


def rewritten(path: Path, change) -> None:
    """The same file with other tensors."""
    metadata, tensors = ModelFile(path).checksummed()
    change(tensors)
    write_checksummed(path, tensors, metadata)


@pytest.mark.parametrize("read", [read_model, load_model])
def test_a_missing_file_is_named(tmp_path, read):
    with pytest.raises(UsageError, match=r"there is no model file .*none\.safetensors"):
        read(tmp_path / "none.safetensors")
    with pytest.raises(UsageError, match="there is no model file"):
        read(tmp_path / f"{'long' * 200}.safetensors")
    with pytest.raises(UsageError, match="is a folder, and no model file"):
        read(tmp_path)
    with pytest.raises(UsageError, match="is no regular file, and no model file"):
        read(Path("/dev/null"))


@pytest.mark.parametrize("length", [0, 1, 7, 8, 100, -1])
def test_a_truncated_file_is_refused(path, length):
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UsageError, match="not a whole safetensors file"):
        read_model(path)


def test_a_file_with_something_behind_it_is_refused(path):
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(UsageError, match="not a whole safetensors file"):
        read_model(path)


def written(folder: Path, format: str) -> Path:
    if format == "run":
        return saved_to(folder / "a.safetensors", saved())
    backend = backends.create(format)
    for library in backend.libraries:
        pytest.importorskip(library, reason=backend.install)
    path = folder / f"a{backend.suffixes[0]}"
    backend.export(saved(), path)
    return path


@pytest.mark.parametrize(
    "format", ["run", "dense", pytest.param("onnx", marks=pytest.mark.slow)]
)  # packed: test_packed_damaged.py
def test_any_flipped_bit_is_refused(tmp_path, format):
    path = written(tmp_path, format)
    data = path.read_bytes()
    head = range(0, 8 * 1500, 97)
    for bit in [*head, *random.Random(0).sample(range(8 * len(data)), 60), 8 * len(data) - 1]:
        path.write_bytes(flipped(data, bit))
        with pytest.raises(UsageError):
            read_model(path)


def test_a_flipped_bit_in_a_zip_of_torch_is_refused_or_changes_no_weight(tmp_path):
    network, path = saved(), tmp_path / "a.pt"
    backends.create("dense").export(network, path)
    data = path.read_bytes()
    refused = 0
    bits = random.Random(0).sample(range(8 * len(data)), 150)
    for bit in bits:
        path.write_bytes(flipped(data, bit))
        try:
            weights = read_model(path, DIGITS).model.state_dict()
        except UsageError:
            refused += 1
        else:  # it hit a date, or the padding between two records
            for name, tensor in network.model.state_dict().items():
                assert torch.equal(weights[name], tensor)
    assert refused > 0.9 * len(bits)


def test_another_key_of_metadata_is_refused(path):
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    save_file(load_file(path), path, metadata={**header, "format": "pt"})
    with pytest.raises(UsageError, match="does not have the digest"):
        read_model(path)


TORCHS = (torch.save, lambda file: torch.load(io.BytesIO(file.read_bytes()), weights_only=False))
PYTHONS = (
    lambda value, file: file.write_bytes(pickle.dumps(value)),
    lambda file: pickle.loads(file.read_bytes()),
)


@pytest.mark.parametrize(("write", "open_it"), [TORCHS, PYTHONS], ids=["torch", "python"])
def test_a_pickle_in_disguise_is_never_opened(tmp_path, write, open_it):
    file, target = tmp_path / "model.safetensors", tmp_path / "planted"
    write(Planted(target), file)
    with pytest.raises(UsageError, match="pickles can run code"):
        read_model(file)
    assert not target.exists()
    open_it(file)  # it would have worked
    assert target.exists()


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_foreign_safetensors_file_is_refused(tmp_path, metadata):
    file = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.ones(2)}, file, metadata=metadata)
    with pytest.raises(UsageError, match="does not name an architecture"):
        read_model(file)


@pytest.mark.parametrize(
    "text", ["{", "", "[]", "3", "[" * 100_000, '{"x": NaN}', '{"x": 1e999}', '{"x": -Infinity}']
)
def test_metadata_that_is_no_json_mapping_is_refused(tmp_path, text):
    file = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.ones(2)}, file, metadata={KEY: text})
    for architecture in (None, DIGITS):
        with pytest.raises(UsageError, match=r"its metadata (cannot be read|is no mapping)"):
            read_model(file, architecture)


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("data", "digits"),
        ("objective", {"eps": 1}),
        ("pruner", []),
        ("evaluate", {"name": "clean"}),
        ("evaluate", ["clean"]),
        ("metrics", {"clean": "high"}),
        ("metrics", {"clean": True}),
        ("metrics", {"clean_interval": [0.1]}),
        ("alarms", True),
        ("density", "0.1"),
        ("turnover", {}),
        ("recipe", 3),
        ("seed", "0"),
        ("versions", ["torch"]),
        ("imported", "hydra"),
        ("weights", 3),
    ],
    ids=str,
)
def test_metadata_of_other_types_than_is_written_is_refused(tmp_path, key, wrong):
    network, path = saved(), tmp_path / "a.safetensors"
    network.metadata[key] = wrong
    for format in ("run", "dense", "packed"):
        if format == "run":
            saved_to(path, network)
        else:
            backends.create(format).write(network, path)
        with pytest.raises(UsageError, match=f"is damaged: in its metadata, {key}"):
            read_model(path)


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        {},
        {"model": {}},
        {"model": {"name": 5}},
        {"model": {"name": "cnn_digit"}},
        {"model": {"name": "hf-hub:someone/something"}},
        {"model": {**DIGITS, "checkpoint_path": "weights.pt"}},
        {"model": {**DIGITS, "colour": "red"}},
        {"model": {**DIGITS, "num_classes": "ten"}},
        {"model": {**DIGITS, "num_classes": -1}},
        {"model": {**DIGITS, "image_size": "8"}},
        {"model": {**DIGITS, "mean": 1}},
        {"model": {**DIGITS, "std": ["a"]}},
    ],
    ids=str,
)
def test_metadata_that_names_no_architecture_is_refused(tmp_path, metadata):
    file = tmp_path / "model.safetensors"
    if isinstance(metadata, dict):
        write_checksummed(file, {"weight": torch.ones(2)}, metadata)
    else:
        save_file({"weight": torch.ones(2)}, file, metadata={KEY: json.dumps(metadata)})
    with pytest.raises(UsageError):
        read_model(file)


FIRST = next(iter(pruned()[1]))


def another_precision(tensors):
    tensors[FIRST] = tensors[FIRST].double()


def wrong_shape(tensors):
    tensors[FIRST] = tensors[FIRST][:-1].clone()


def lost(tensors):
    del tensors[FIRST]


def added(tensors):
    tensors["more.weight"] = torch.ones(1)


def mask_of_another_shape(tensors):
    tensors[f"{FIRST}_mask"] = tensors[f"{FIRST}_mask"][:-1].clone()


def mask_of_numbers(tensors):
    tensors[f"{FIRST}_mask"] = tensors[f"{FIRST}_mask"].float()


def mask_of_nothing(tensors):
    tensors["more.weight_mask"] = torch.ones(1, dtype=torch.bool)


def weight_where_pruned(tensors):
    mask = tensors[f"{FIRST}_mask"]
    tensors[FIRST][tuple((~mask).nonzero()[0])] = 0.5


def mask_forgets_a_weight(tensors):
    mask = tensors[f"{FIRST}_mask"]
    mask[tuple(tensors[FIRST].nonzero()[0])] = False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (wrong_shape, f"{FIRST} has shape"),
        (lost, f"{FIRST} is missing"),
        (another_precision, f"{FIRST} is of type torch.float64, not torch.float32"),
        (added, "more.weight is not of this architecture"),
        (mask_of_another_shape, f"the mask of {FIRST} does not fit"),
        (mask_of_numbers, f"the mask of {FIRST} does not fit"),
        (mask_of_nothing, "the mask of more.weight does not fit"),
        (weight_where_pruned, f"{FIRST} has weights that its mask has pruned"),
        (mask_forgets_a_weight, f"{FIRST} has weights that its mask has pruned"),
    ],
)
def test_tensors_that_do_not_fit_are_named(path, change, message):
    rewritten(path, change)
    with pytest.raises(UsageError, match=f"is damaged: .*{message}"):
        read_model(path)


def test_only_the_first_problems_are_listed(path):
    rewritten(path, lambda tensors: tensors.update({f"x{i}": torch.ones(1) for i in range(20)}))
    with pytest.raises(UsageError, match="and 12 more"):
        read_model(path)
