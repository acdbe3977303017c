import io
import json
import pickle
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from robustprune.artifacts.container import KEY
from robustprune.artifacts.reading import load_model, read_metadata, read_model
from robustprune.errors import UsageError
from tests.artifacts.nets import DIGITS, header, pruned
from tests.artifacts.planted import Planted


def rewritten(path: Path, change) -> None:
    """The same file with other tensors."""
    saved = read_model(path)
    tensors = {k: v.clone() for k, v in saved.model.state_dict().items()}
    tensors |= {f"{name}_mask": mask.clone() for name, mask in saved.masks.items()}
    change(tensors)
    save_file(tensors, path, metadata={KEY: json.dumps(saved.metadata)})


@pytest.mark.parametrize("read", [read_model, load_model, read_metadata])
def test_a_missing_file_is_named(tmp_path, read):
    with pytest.raises(UsageError, match=r"there is no model file .*none\.safetensors"):
        read(tmp_path / "none.safetensors")
    with pytest.raises(UsageError, match="there is no model file"):
        read(tmp_path)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 100, -1])
def test_a_truncated_file_is_refused(path, length):
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UsageError, match="not a whole safetensors file"):
        read_model(path)


def test_a_file_with_something_behind_it_is_refused(path):
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(UsageError, match="not a whole safetensors file"):
        read_model(path)


def test_a_flipped_bit_in_the_header_is_refused_or_changes_no_weight(path):
    data, original = path.read_bytes(), read_model(path)
    end = 8 + len(header(path))
    refused = 0
    bits = random.Random(0).sample(range(end * 8), 150)
    for bit in bits:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            weights = read_model(path).model.state_dict()
        except UsageError:
            refused += 1
        else:  # it hit a remark such as the turnover
            for name, tensor in original.model.state_dict().items():
                assert torch.equal(weights[name], tensor)
    assert refused > 0.8 * len(bits)


TORCHS = (torch.save, lambda file: torch.load(io.BytesIO(file.read_bytes()), weights_only=False))
PYTHONS = (
    lambda value, file: file.write_bytes(pickle.dumps(value)),
    lambda file: pickle.loads(file.read_bytes()),
)


@pytest.mark.parametrize(("write", "open_it"), [TORCHS, PYTHONS], ids=["torch", "python"])
@pytest.mark.parametrize("read", [load_model, read_metadata])
def test_a_pickle_in_disguise_is_never_opened(tmp_path, write, open_it, read):
    file, target = tmp_path / "model.safetensors", tmp_path / "planted"
    write(Planted(target), file)
    with pytest.raises(UsageError, match="pickles can run code"):
        read(file)
    assert not target.exists()
    open_it(file)  # it would have worked
    assert target.exists()


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {KEY: "{"}, {KEY: ""}])
def test_a_foreign_safetensors_file_is_refused(tmp_path, metadata):
    file = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.ones(2)}, file, metadata=metadata)
    for read in (read_model, read_metadata):
        with pytest.raises(UsageError, match="not one of robustprune's"):
            read(file)


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        "cnn",
        {},
        {"model": None},
        {"model": "cnn_digits"},
        {"model": {}},
        {"model": {"name": 5}},
        {"model": {"name": "cnn_digit"}},
        {"model": {"name": "hf-hub:someone/something"}},
        {"model": {**DIGITS, "checkpoint_path": "weights.pt"}},
        {"model": {**DIGITS, "pretrained": True}},
        {"model": {**DIGITS, "colour": "red"}},
        {"model": {**DIGITS, "num_classes": "ten"}},
        {"model": {**DIGITS, "num_classes": -1}},
        {"model": {"name": "resnet18_cifar", "num_classes": -1}},
        {"model": {"name": "resnet18_cifar", "num_classes": "ten"}},
        {"model": {**DIGITS, "in_chans": "one"}},
        {"model": {**DIGITS, "image_size": "8"}},
        {"model": {**DIGITS, "mean": 1}},
        {"model": {**DIGITS, "std": ["a"]}},
    ],
    ids=str,
)
def test_metadata_that_names_no_architecture_is_refused(tmp_path, metadata):
    file = tmp_path / "model.safetensors"
    save_file({"weight": torch.ones(2)}, file, metadata={KEY: json.dumps(metadata)})
    with pytest.raises(UsageError):
        read_model(file)


FIRST = next(iter(pruned()[1]))


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
