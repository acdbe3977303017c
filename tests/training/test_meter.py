import pytest
import torch

from robustprune.objectives import Loss
from robustprune.shard import Shard
from robustprune.training.step import Meter
from tests.threads import each


def loss(total: float, logits: list[list[float]], **parts: float) -> Loss:
    tensors = {name: torch.tensor(value) for name, value in parts.items()}
    return Loss(torch.tensor(total), torch.tensor(logits), tensors)


def filled() -> Meter:
    meter = Meter()
    meter.add(loss(2.0, [[1, 0], [0, 1], [0, 1]], robust=5.0), torch.tensor([0, 1, 0]))
    meter.add(loss(6.0, [[0, 1]], robust=1.0), torch.tensor([1]))
    return meter


def test_means_are_over_images_and_not_over_batches():
    meter = filled()
    assert meter.means(Shard()) == {"loss": 3.0, "accuracy": 0.75, "robust": 4.0}
    assert (meter.loss, meter.accuracy) == (3.0, 0.75)


def test_a_new_meter_shows_zero():
    assert (Meter().loss, Meter().accuracy) == (0.0, 0.0)


def test_several_processes_weigh_their_images():
    def means(shard: Shard) -> dict[str, float]:
        meter = Meter.of([{"images": 1.0, "loss": 8.0, "accuracy": 1.0}])  # and no parts yet
        return (filled() if shard.is_main else meter).means(shard)

    expected = pytest.approx({"loss": 4.0, "accuracy": 0.8, "robust": 3.2})
    assert each(2, means) == [expected, expected]


def test_sums_are_put_together():
    first, second = filled(), Meter.of([{"images": 1.0, "loss": 8.0, "accuracy": 1.0}])
    both = Meter.of([first.sums, second.sums])
    assert both.sums == {"images": 5.0, "loss": 20.0, "accuracy": 4.0, "robust": 16.0}


def test_where_no_image_was_seen_there_are_no_means():
    assert Meter().means(Shard()) == {}
    assert each(2, lambda shard: Meter().means(shard)) == [{}, {}]
