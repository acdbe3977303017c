import gc
import weakref
from itertools import pairwise

import pytest
import torch
from torch import nn

from robustprune.errors import UsageError
from robustprune.evaluators import create
from robustprune.evaluators.cascade import METHODS
from robustprune.types import Batch, Threat

from .scripted import EASY, NEVER, Constant, images, play
from .toys import evaluated, linear, pooled, relu, spread


def least_margins(model, pixels, labels, eps, *, cut):
    """The exact least margin of a linear network over the ball, cut to [0, 1] or not."""
    weight, bias = model[1].weight.detach(), model[1].bias.detach()
    low, high = pixels.flatten(1) - eps, pixels.flatten(1) + eps
    if cut:
        low, high = low.clamp(0, 1), high.clamp(0, 1)
    slopes = weight[labels][:, None] - weight[None]
    worst = torch.where(slopes > 0, low[:, None], high[:, None])
    margins = (slopes * worst).sum(2) + bias[labels][:, None] - bias
    margins[torch.arange(len(labels)), labels] = torch.inf
    return margins.amin(1)


@pytest.mark.parametrize("name", METHODS)
def test_agrees_with_the_closed_form_on_linear_networks(name):
    """Cut to [0, 1], too: without that, fewer images are robust."""
    model, eps = linear(3), 0.1
    generator = torch.Generator().manual_seed(2)
    pixels = (1.5 * torch.rand(200, 1, 5, 5, generator=generator) - 0.25).clamp(0, 1)
    with torch.no_grad():
        labels = model(pixels).argmax(1)
    exact, uncut = (least_margins(model, pixels, labels, eps, cut=cut) for cut in (True, False))
    assert exact.abs().min() > 1e-4
    labels[:5] = (labels[:5] + 1) % 3
    expected = (exact > 0) & (torch.arange(200) >= 5)
    found = create(name, eps=eps).judge(model, pixels, labels, seed=0)[name]
    assert torch.equal(found, expected)
    assert 20 < expected.sum() < 180
    assert not torch.equal(exact > 0, uncut > 0)


def test_the_dearer_bound_verifies_more():
    model = relu(1)
    pixels, labels = spread(model)
    sets = [create(name, eps=0.012).judge(model, pixels, labels, seed=0)[name] for name in METHODS]
    counts = [int(found.sum()) for found in sets]
    assert counts == sorted(counts)
    assert counts[0] < counts[1] < counts[2]
    for loose, tight in pairwise(sets):
        assert not (loose & ~tight).any()


def test_alpha_crown_climbs_further_with_more_iterations():
    model = relu(3)
    pixels, labels = spread(model)
    few, many = (
        create("alpha_crown", eps=0.03, iterations=n).judge(model, pixels, labels, seed=0)
        for n in (3, 10)
    )
    assert few["alpha_crown"].sum() < many["alpha_crown"].sum()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*METHODS, "verified"])
def test_the_batch_size_does_not_matter(name):
    model = relu(1)
    pixels, labels = spread(model, 12)
    quick = {"iterations": 3} if name in ("alpha_crown", "verified") else {}
    evaluator = create(name, eps=0.004, **quick)
    first = evaluated(evaluator, model, pixels, labels, 12)
    for size in (5, 1):
        other = evaluated(evaluator, model, pixels, labels, size)
        assert all(torch.equal(first[key], other[key]) for key in first)
    assert 0 < first[name].sum() < 9


@pytest.mark.parametrize("name", [*METHODS, "verified"])
def test_only_what_is_classified_rightly_is_bounded(name, monkeypatch):
    script = play(monkeypatch)
    pixels, labels = images(NEVER, EASY, NEVER, EASY)
    labels[:2] = 1
    found = create(name).judge(Constant(), pixels, labels, seed=0)
    assert found[name].tolist() == [False, False, False, True]
    assert all(levels in ([NEVER, EASY], [NEVER]) for levels in script.levels.values())
    built = script.built
    create(name).judge(Constant(), pixels[:2], labels[:2], seed=0)
    assert script.built == built  # not even a graph


def test_a_network_of_nan_verifies_nothing():
    class Nan(nn.Module):
        def forward(self, images):
            return torch.full((len(images), 3), torch.nan)

    labels = torch.zeros(4, dtype=torch.int64)
    assert not create("ibp").judge(Nan(), torch.rand(4, 1, 5, 5), labels, seed=0)["ibp"].any()


@pytest.mark.parametrize("name", [*METHODS, "verified"])
def test_it_claims_the_ball(name):
    assert create(name, eps="2/255").claims == Threat("linf", 2 / 255)
    assert create(name).refutes is None


def test_options_reach_the_bound(monkeypatch):
    script = play(monkeypatch)
    create("alpha_crown", eps=0.3, iterations=7).judge(Constant(), *images(NEVER), seed=0)
    create("verified", eps=0.2, iterations=8).judge(Constant(), *images(NEVER), seed=0)
    assert script.options == [(0.3, 7)] + [(0.2, 8)] * 4


def test_the_graph_is_built_once_an_evaluation(monkeypatch):
    script, evaluator = play(monkeypatch), create("crown")
    for _ in range(2):
        evaluated(evaluator, Constant(), *images(*[EASY] * 9), 3)
    assert script.calls["crown"] == [3] * 6
    assert script.built == 2


def test_another_network_is_never_bounded_by_the_graph_at_hand():
    one, other = linear(3, seed=1), relu(1)
    pixels, labels = spread(one)
    evaluator = create("crown", eps=0.02)
    expected = create("crown", eps=0.02).judge(other, *spread(other), seed=0)["crown"]
    running = evaluator.evaluate(
        one, [Batch(n, pixels, labels) for n in range(2)], seed=0, network="dense"
    )
    first = next(running)["crown"]
    assert torch.equal(evaluator.judge(other, *spread(other), seed=0)["crown"], expected)
    assert torch.equal(next(running)["crown"], first)


def test_images_of_another_shape_need_another_graph():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(4, 3)).eval()
    batches = []
    for number, side in enumerate((5, 6, 5)):
        pixels = torch.rand(4, 1, side, side)
        batches.append(Batch(number, pixels, model(pixels).argmax(1)))
    evaluator = create("crown", eps=1e-4)
    found = list(evaluator.evaluate(model, batches, seed=0, network="dense"))
    assert all(part["crown"].all() for part in found)


def test_nothing_is_kept_beyond_an_evaluation():
    model = relu()
    alive, evaluator = weakref.ref(model), create("ibp")
    evaluated(evaluator, model, *spread(model), 20)
    del model
    gc.collect()
    assert alive() is None
    assert evaluator == create("ibp")


def test_weights_may_change_between_batches():
    model = relu(1)
    pixels, labels = spread(model, 20)
    evaluator = create("crown", eps=0.02)
    running = evaluator.evaluate(
        model, [Batch(n, pixels, labels) for n in range(2)], seed=0, network="dense"
    )
    before = next(running)["crown"]
    with torch.no_grad():
        model[0].weight *= 0.1
        model[5].weight.neg_()
    now = next(running)["crown"]
    assert torch.equal(now, create("crown", eps=0.02).judge(model, pixels, labels, seed=0)["crown"])
    assert not torch.equal(now, before)


ERRORS = [torch.OutOfMemoryError("full"), MemoryError(), RuntimeError("cannot allocate memory")]


@pytest.mark.parametrize("error", ERRORS)
def test_batches_are_halved_until_they_fit(error, monkeypatch):
    script = play(monkeypatch)
    script.room, script.error = {"crown": 3}, error
    levels = [EASY, NEVER] * 5
    found = evaluated(create("crown"), Constant(), *images(*levels), 10)["crown"]
    assert found.tolist() == [level == EASY for level in levels]
    assert script.calls["crown"] == [10, 5, 2, 2, 2, 2, 2]
    assert script.levels["crown"] == levels


def test_an_image_that_does_not_fit_alone_stays_undecided(monkeypatch):
    script = play(monkeypatch)
    script.room = {"crown": 0}
    with pytest.warns(
        UserWarning, match="'crown' left .* 'hydra-0.1'.*for 3 images.*alone"
    ) as said:
        found = evaluated(create("crown"), Constant(), *images(*[EASY] * 3), 2, "hydra-0.1")
    assert found["crown"].tolist() == [False] * 3
    assert len(said) == 1


def test_other_errors_are_not_swallowed(monkeypatch):
    script = play(monkeypatch)
    script.room, script.error = {"crown": 1}, RuntimeError("shapes do not match")
    with pytest.raises(RuntimeError, match="shapes"):
        create("crown").judge(Constant(), *images(EASY, EASY), seed=0)


def test_a_layer_without_a_bound_is_named():
    model = pooled()
    pixels, labels = spread(model)
    assert create("ibp", eps=1e-3).judge(model, pixels, labels, seed=0)["ibp"].any()
    with pytest.raises(UsageError, match=r"no CROWN bound for layer '2 \(MaxPool2d\)'"):
        create("crown").judge(model, pixels, labels, seed=0)


def test_only_the_accuracy_is_reported():
    model = linear(3)
    found = create("ibp", label="vra-t").judge(model, *spread(model), seed=0)
    metrics = create("ibp", label="vra-t").summarise(found)
    assert metrics.keys() == {"vra-t", "vra-t_n", "vra-t_interval"}


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("ibp", {"eps": 0}, "eps"),
        ("crown", {"eps": -0.1}, "eps"),
        ("alpha_crown", {"iterations": 0}, "iterations"),
        ("crown", {"iterations": 5}, "unknown key 'iterations'"),
    ],
)
def test_bad_options_are_refused(name, options, match):
    with pytest.raises(UsageError, match=match):
        create(name, **options)
