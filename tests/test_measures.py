"""Numbers of whole networks: a contract for all measures, and each computed by hand."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robustprune.artifacts.backends.packed import Packed
from robustprune.artifacts.saved import SavedModel
from robustprune.errors import UsageError
from robustprune.measures import create, measure, names, table

SHAPE = (3, 8, 8)


def saved(*, masked: bool = True) -> SavedModel:
    """Two convolutions, one of them grouped, a norm and a linear layer; a tenth is kept of two."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 4, 1, groups=2, bias=False),
        nn.Flatten(),
        nn.Linear(64, 10),
    ).eval()
    masks = {}
    for name in ("0.weight", "5.weight") if masked else ():
        weight = model.get_parameter(name)
        mask = torch.zeros(weight.numel(), dtype=torch.bool)
        mask[::10] = True
        masks[name] = mask.view(weight.shape)
        weight.data *= masks[name]
    about = {"model": {"name": "none"}, "recipe": "a " * 1000}
    return SavedModel(model, masks, about)


KEPT = {"0": 22, "5": 64}  # of 216 and 640


def measured(name: str, network: SavedModel | None = None, **options: Any) -> dict[str, Any]:
    return measure(network or saved(), [create(name, **options)], shape=SHAPE)[name]


@pytest.mark.parametrize("name", names())
def test_values_are_finite_and_json_knows_them(name: str) -> None:
    values = measured(name)
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    numbers = [value for value in values.values() if isinstance(value, int | float)]
    assert numbers
    assert all(math.isfinite(number) and number >= 0 for number in numbers)


@pytest.mark.parametrize("name", names())
def test_the_network_is_left_as_found(name: str) -> None:
    network = saved()
    network.model.train()
    before = copy.deepcopy(network.model.state_dict())
    measured(name, network)
    assert network.model[0].training  # type: ignore[index,union-attr]
    assert not any(module._forward_hooks for module in network.model.modules())
    after = network.model.state_dict()
    assert all(torch.equal(before[key], value) for key, value in after.items())


def test_size_by_hand(tmp_path: Path) -> None:
    parameters = 216 + 8 + 16 + 16 + 640 + 10
    values = measured("size")
    assert values["parameters"] == parameters
    assert values["kept"] == parameters - (216 - 22) - (640 - 64)
    assert values["bytes_dense"] == 4 * (parameters + 16) + 8  # running statistics, and their count
    path = tmp_path / "net.safetensors"
    Packed().write(saved(), path)
    assert values["bytes_packed"] < path.stat().st_size < values["bytes_packed"] + 1000
    assert measured("size", saved(masked=False))["bytes_packed"] > 2 * values["bytes_packed"]


def test_the_packed_size_is_that_of_the_tensors_whatever_is_told_of_them() -> None:
    one = saved()
    other = SavedModel(one.model, one.masks, {})
    assert measured("size", one) == measured("size", other)


def test_flops_by_hand() -> None:
    """Outputs of 4 × 4 for both convolutions; the grouped one sees 4 of its 8 inputs."""
    layers = {
        "0": {"macs_dense": 16 * 216, "macs_sparse": 16 * 22},
        "3": {"macs_dense": 16 * 4 * 4, "macs_sparse": 16 * 4 * 4},
        "5": {"macs_dense": 640, "macs_sparse": 64},
    }
    total = {
        key: sum(layer[key] for layer in layers.values()) for key in ("macs_dense", "macs_sparse")
    }
    assert measured("flops") == {**total, "layers": layers}


def test_flops_of_a_layer_that_is_used_twice_and_of_products_without_weights() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8, bias=False)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            rows = self.layer(self.layer(images[:, 0]))
            return (rows @ rows.transpose(1, 2)).flatten(1)

    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:2] = True
    values = measured("flops", SavedModel(Twice().eval(), {"layer.weight": mask}, {}))
    twice = 2 * 8 * 64
    assert values["layers"] == {"layer": {"macs_dense": twice, "macs_sparse": twice // 4}}
    assert (values["macs_dense"], values["macs_sparse"]) == (twice + 8**3, twice // 4 + 8**3)


def test_latency_is_the_median_of_its_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0, 1, 10, 12, 20, 29])  # 1, 2 and 9 seconds
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    sizes: list[int] = []
    network = saved()
    network.model.register_forward_pre_hook(lambda model, args: sizes.append(len(args[0])))
    values = measured("latency", network, batch_size=4, repeats=3)
    assert values == {
        "milliseconds": 2000,
        "milliseconds_per_image": 500,
        "batch_size": 4,
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }
    assert sizes == [4] * 6


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"repeats": 0}, {"warmup": 1}])
def test_bad_options_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        create("latency", **options)


def test_a_table_has_a_row_for_each_network_and_a_column_for_each_number() -> None:
    parts = [create("size"), create("flops")]
    found = {name: measure(saved(), parts, shape=SHAPE) for name in ("a", "b")}
    found["b"].pop("flops")
    _, columns, rows = table(found)
    assert columns == ["network", "parameters", "kept", "bytes_dense", "bytes_packed", "macs_dense",
                       "macs_sparse"]  # fmt: skip
    assert rows[0][:3] == ["a", "906", "136"]
    assert rows[0][5:] == ["4,352", "672"]
    assert rows[1][5:] == ["–", "–"]
