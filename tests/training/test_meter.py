import pytest
import torch

from robustprune.objectives import Loss
from robustprune.shard import Shard
from robustprune.training.meter import Meter
from tests.threads import each


def loss(logits: list[list[float]], **parts: float) -> Loss:
    tensors = {name: torch.tensor(value) for name, value in parts.items()}
    return Loss(torch.tensor(0.0), torch.tensor(logits), tensors)


def filled() -> Meter:
    meter = Meter()
    meter.add(2.0, loss([[1, 0], [0, 1], [0, 1]], robust=5.0), torch.tensor([0, 1, 0]))
    meter.add(6.0, loss([[0, 1]], robust=1.0), torch.tensor([1]))
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


@pytest.mark.parametrize("world", [1, 2, 3])
def test_a_resumed_job_goes_on_from_all_sums(world):
    first, second = filled(), Meter.of([{"images": 1.0, "loss": 8.0, "accuracy": 1.0}])
    meters = [Meter.resumed([first.sums, second.sums], rank=r, world=world) for r in range(world)]
    assert sum(meter.sums["loss"] for meter in meters) == 20.0
    if world == 2:
        assert [meter.sums for meter in meters] == [first.sums, second.sums]
