import pytest
import torch
from torch import nn

from robustprune.adapters.smoothing import ABSTAIN, Smoothed
from robustprune.errors import UsageError
from robustprune.evaluators import create

from .toys import batch, linear, numbered

FEW = {"sigma": 0.1, "n0": 50, "n": 400, "alpha": 0.01}


def judged(evaluator, sizes, seed=0, network="dense", model=None):
    model = model or linear(3)
    images, labels = batch(model, sum(sizes), wrong=3)
    batches = numbered(images, labels, sizes)
    parts = list(evaluator.evaluate(model, batches, seed=seed, network=network))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def test_the_entries_are_what_the_certificates_say():
    model = linear(3)
    images, labels = batch(model, 40, wrong=4)
    found = Smoothed(model, 3, 0.1, seed=7).certify(images, n0=50, n=400, alpha=0.01)
    evaluator = create("smoothing", **FEW, radius=0.03, radii=[0, 0.06], noise_seed=7)
    entries = evaluator.judge(model, images, labels, seed=123)
    right = found.prediction == labels
    assert torch.equal(entries["smoothing"], right & (found.radius >= 0.03))
    assert torch.equal(entries["smoothing_0"], right)
    assert torch.equal(entries["smoothing_0.06"], right & (found.radius >= 0.06))
    assert torch.equal(entries["smoothing_abstained"], found.prediction == ABSTAIN)
    assert torch.equal(entries["smoothing_radius"], torch.where(right, found.radius, 0.0))
    assert torch.equal(entries["smoothing_prediction"], found.prediction)
    assert entries["smoothing_samples"].tolist() == [450] * 40
    assert 0 < entries["smoothing_0.06"].sum() < entries["smoothing"].sum() < right.sum()
    assert not entries["smoothing"][:4].any()


@pytest.mark.parametrize("sequential", [False, True])
def test_neither_batches_nor_seeds_nor_names_matter(sequential):
    evaluator = create("smoothing", **FEW, radius=0.03, sequential=sequential)
    first = judged(evaluator, (20,))
    for other in (
        judged(evaluator, (7, 7, 6)),
        judged(evaluator, (1,) * 20),
        judged(evaluator, (20,), seed=5, network="hydra-0.1"),
    ):
        assert first.keys() == other.keys()
        assert all(torch.equal(first[name], other[name]) for name in first)


def test_the_noise_seed_matters():
    one, two = (judged(create("smoothing", **FEW, noise_seed=s), (20,)) for s in (0, 1))
    assert not torch.equal(one["smoothing_radius"], two["smoothing_radius"])


def test_sequential_needs_fewer_samples_for_the_same_accuracy():
    fixed, quick = (
        judged(create("smoothing", sigma=0.1, n=5000, radius=0.03, sequential=s), (30,))
        for s in (False, True)
    )
    assert (fixed["smoothing"] != quick["smoothing"]).sum() <= 1
    assert quick["smoothing"].any()
    assert quick["smoothing_samples"].double().mean() < 2500
    assert quick.keys() == {"smoothing", "smoothing_prediction", "smoothing_samples"}


def test_the_summary_has_the_average_radius_over_all_images():
    entries = {
        "mine": torch.tensor([True, False, False, True]),
        "mine_abstained": torch.tensor([False, True, False, False]),
        "mine_radius": torch.tensor([0.6, 0.0, 0.0, 1.0], dtype=torch.float64),
        "mine_prediction": torch.tensor([1, -1, 2, 0]),
        "mine_samples": torch.tensor([200, 200, 200, 400]),
    }
    metrics = create("smoothing", label="mine").summarise(entries)
    assert metrics["mine"] == 0.5
    assert metrics["mine_abstained"] == 0.25
    assert metrics["mine_acr"] == pytest.approx(0.4)
    assert metrics["mine_acr_n"] == 4
    assert (metrics["mine_samples"], metrics["mine_samples_n"]) == (250, 4)
    assert "mine_radius" not in metrics
    assert "mine_prediction" not in metrics


def test_the_sequential_summary_has_no_average_radius():
    evaluator = create("smoothing", **FEW, sequential=True)
    metrics = evaluator.summarise(judged(evaluator, (9,)))
    assert metrics.keys() == {
        *("smoothing", "smoothing_n", "smoothing_interval"),
        *("smoothing_samples", "smoothing_samples_n"),
    }


def test_it_claims_nothing_of_the_network_itself():
    assert create("smoothing").claims is None


def test_a_network_of_nan_scores_nothing():
    class Nan(nn.Module):
        def forward(self, images):
            return torch.full((len(images), 3), torch.nan)

    for sequential in (False, True):
        evaluator = create("smoothing", **FEW, radius=0, sequential=sequential)
        images = torch.rand(4, 1, 5, 5)
        entries = evaluator.judge(Nan(), images, torch.zeros(4, dtype=torch.int64), seed=0)
        assert not entries["smoothing"].any()
        assert (entries["smoothing_prediction"] == ABSTAIN).all()


def test_the_radius_of_the_paper_is_the_default():
    assert create("smoothing").radius == pytest.approx(110 / 255)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"sigma": 0}, "sigma"),
        ({"alpha": 1}, "alpha"),
        ({"radius": -0.1}, "radius"),
        ({"radii": [0.25, -1]}, "radii"),
        ({"radii": [0.25, 0.25]}, "radii must differ"),
        ({"radii": [0.25], "sequential": True}, "sequential settles one radius"),
        ({"n": 0}, "n"),
        ({"noise_seed": -1}, "noise_seed"),
    ],
)
def test_bad_options_are_refused(options, match):
    with pytest.raises(UsageError, match=match):
        create("smoothing", **options)


def test_radii_may_be_written_as_arithmetic():
    assert create("smoothing", radii=["110/255", 0.5]).radii == [110 / 255, 0.5]
