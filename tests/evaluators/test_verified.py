import warnings

import pytest
import torch

from robustprune.errors import UsageError
from robustprune.evaluators import cascade, create
from robustprune.evaluators.cascade import METHODS

from .scripted import EASY, NEVER, Constant, images, play
from .toys import evaluated, pooled, relu, spread

IBP, CROWN_IBP, CROWN, ALPHA = range(4)


def judged(*levels, size=None, **options):
    evaluator = create("verified", **options)
    return evaluated(evaluator, Constant(), *images(*levels), size or len(levels))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "eps", "codes"), [(1, 0.01, {-3, -1, 0, 1, 2}), (1, 0.02, {-3, -1, 1, 2, 3})]
)
def test_it_settles_what_each_bound_settles_alone(seed, eps, codes):
    model = relu(seed)
    pixels, labels = spread(model)
    alone = [create(name, eps=eps).judge(model, pixels, labels, seed=0)[name] for name in METHODS]
    expected = torch.full_like(labels, -1)
    expected[:3] = -3
    for number in reversed(range(4)):
        expected[alone[number]] = number
    found = create("verified", eps=eps).judge(model, pixels, labels, seed=0)
    assert found["verified_by"].tolist() == expected.tolist()
    assert torch.equal(found["verified"], expected >= 0)
    assert set(expected.tolist()) == codes


def test_dear_bounds_see_only_what_cheap_ones_leave(monkeypatch):
    script = play(monkeypatch)
    found = judged(CROWN, IBP, NEVER, ALPHA, IBP, CROWN_IBP)
    assert found["verified_by"].tolist() == [2, 0, -1, 3, 0, 1]
    assert script.levels == {
        "ibp": [CROWN, IBP, NEVER, ALPHA, IBP, CROWN_IBP],
        "crown_ibp": [CROWN, NEVER, ALPHA, CROWN_IBP],
        "crown": [CROWN, NEVER, ALPHA],
        "alpha_crown": [NEVER, ALPHA],
    }


def test_numbers_of_bounds_do_not_depend_on_which_are_tried(monkeypatch):
    play(monkeypatch)
    found = judged(IBP, CROWN, ALPHA, NEVER, bounds=["crown", "alpha_crown"])
    assert found["verified_by"].tolist() == [2, 2, 3, -1]


def test_cheap_bounds_come_first_however_they_are_written(monkeypatch):
    script = play(monkeypatch)
    assert create("verified", bounds=["crown", "ibp"]).bounds == ["ibp", "crown"]
    judged(IBP, NEVER, bounds=["crown", "ibp"])
    assert script.calls == {"ibp": [2], "crown": [1]}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"bounds": []}, "should have at least 1 item"),
        ({"bounds": ["ibp", "crown", "ibp"]}, "a bound stands twice; got ibp, crown, ibp"),
        ({"bounds": ["ibp", "crwn"]}, r"bounds.1: should be 'ibp', .*got 'crwn'"),
        ({"bounds": "crown"}, "in brackets"),
        ({"seconds": 0}, "seconds"),
        ({"memory": 0}, "memory"),
        ({"eps": 0}, "eps"),
        ({"iterations": 0}, "iterations"),
    ],
)
def test_bad_options_are_refused(options, match):
    with pytest.raises(UsageError, match=match):
        create("verified", **options)


def test_after_the_time_is_up_only_the_first_bound_runs(monkeypatch):
    """Two calls of a second each a batch; the limit of three falls before the fourth."""
    script = play(monkeypatch)
    script.cost = 1.0
    options = {"bounds": ["crown_ibp", "crown"], "seconds": 2.5, "size": 2}
    with pytest.warns(UserWarning, match=r"'crown' for 3 images \(the 2.5 seconds") as said:
        found = judged(CROWN, CROWN_IBP, NEVER, CROWN, CROWN, IBP, **options)
    assert found["verified_by"].tolist() == [2, 1, -2, -2, -2, 1]
    assert script.calls == {"crown_ibp": [2, 2, 2], "crown": [1]}
    assert len(said) == 1


def test_the_time_counts_anew_for_each_network(monkeypatch):
    script = play(monkeypatch)
    script.cost = 1.0
    evaluator = create("verified", bounds=["ibp", "crown"], seconds=2.5)
    for _ in range(2):
        found = evaluated(evaluator, Constant(), *images(CROWN, NEVER), 2)
        assert found["verified_by"].tolist() == [2, -1]
        script.now += 1000
    assert script.calls == {"ibp": [2, 2], "crown": [2, 2]}


def test_time_is_checked_between_the_parts_of_a_batch(monkeypatch):
    script = play(monkeypatch)
    script.cost, script.room = 1.0, {"crown": 1}
    with pytest.warns(UserWarning, match=r"'crown' for 2 images"):
        found = judged(CROWN, CROWN, CROWN, CROWN, bounds=["ibp", "crown"], seconds=3)
    assert found["verified_by"].tolist() == [2, 2, -2, -2]


def needs(monkeypatch, **gib):
    """Set what the bounds are estimated to take for an image, in GiB."""
    estimate = {name: int(gib.get(name, 2**-20) * 2**30) for name in METHODS}
    monkeypatch.setattr(cascade, "bytes_per_image", lambda *args, **options: estimate)


def test_so_many_images_are_bounded_at_once_as_fit(monkeypatch):
    script = play(monkeypatch)
    needs(monkeypatch, crown_ibp=0.25, crown=0.4, alpha_crown=1)
    found = judged(*[NEVER] * 5, EASY, memory=1)
    assert found["verified_by"].tolist() == [-1] * 5 + [0]
    assert script.calls == {
        "ibp": [6],
        "crown_ibp": [4, 1],
        "crown": [2, 2, 1],
        "alpha_crown": [1] * 5,
    }


def test_a_bound_too_large_for_one_image_is_left_out_unless_it_is_the_first(monkeypatch):
    script = play(monkeypatch)
    needs(monkeypatch, crown_ibp=3, crown=0.4, alpha_crown=2.5)
    bounds = ["crown_ibp", "crown", "alpha_crown"]
    with pytest.warns(UserWarning, match=r"'alpha_crown' for 1 image \(it takes about 2.5 GiB"):
        found = judged(CROWN, CROWN_IBP, ALPHA, memory=2, bounds=bounds)
    assert found["verified_by"].tolist() == [2, 1, -2]
    assert script.calls == {"crown_ibp": [1, 1, 1], "crown": [2]}


def test_the_real_estimate_grows_with_the_bound():
    model = relu()
    pixels, labels = spread(model)
    with pytest.warns(
        UserWarning, match=r"'crown' for \d+ images \(it takes about .* limit is 5e-0"
    ):
        found = evaluated(create("verified", eps=0.03, memory=5e-5), model, pixels, labels, 40)
    assert {-2, 1} <= set(found["verified_by"].tolist())
    assert 2 not in found["verified_by"]


def test_memory_that_runs_out_makes_parts_smaller_and_changes_nothing_else(monkeypatch):
    script = play(monkeypatch)
    levels = [CROWN, NEVER, IBP, ALPHA, CROWN] * 2
    expected = judged(*levels)
    script.room = {"crown": 3, "alpha_crown": 1}
    script.calls.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = judged(*levels)
    assert torch.equal(found["verified_by"], expected["verified_by"])
    assert script.calls["crown"] == [8, 4, 2, 2, 2, 2]
    assert script.calls["alpha_crown"] == [4, 2, 1, 1, 1, 1]


def test_the_smaller_size_holds_for_later_batches(monkeypatch):
    script = play(monkeypatch)
    script.room = {"crown": 2}
    judged(*[NEVER] * 8, size=4, bounds=["crown"])
    assert script.calls["crown"] == [4, 2, 2, 2, 2]


def test_an_image_that_does_not_fit_alone_is_tried_by_the_next_bound(monkeypatch):
    script = play(monkeypatch)
    script.room = {"crown": 0}
    with pytest.warns(UserWarning, match=r"'crown' for 3 images \(the memory was too small"):
        found = judged(CROWN, ALPHA, NEVER, CROWN_IBP)
    assert found["verified_by"].tolist() == [3, 3, -2, 1]


def test_a_bound_that_the_network_cannot_have_is_left_out(monkeypatch):
    script = play(monkeypatch)
    script.lacking = {"ibp", "crown"}
    with pytest.warns(UserWarning, match="no crown here") as said:
        found = judged(CROWN, IBP, NEVER, ALPHA, NEVER, size=2)
    assert found["verified_by"].tolist() == [3, 1, -2, 3, -2]
    assert len(said) == 1
    assert "'ibp' for 5 images (auto-LiRPA has no ibp here)" in str(said[0].message)
    assert "'crown' for 4 images" in str(said[0].message)
    assert script.calls["crown"] == [1]


def test_if_no_bound_is_to_be_had_the_error_stands(monkeypatch):
    script = play(monkeypatch)
    script.lacking = {"ibp", "crown"}
    with pytest.raises(UsageError, match="auto-LiRPA has no crown"):
        judged(CROWN, bounds=["ibp", "crown"])


def test_the_first_bound_that_there_is_takes_the_place_of_the_first(monkeypatch):
    script = play(monkeypatch)
    script.lacking, script.cost = {"ibp"}, 5.0
    options = {"bounds": ["ibp", "crown_ibp", "crown"], "seconds": 1, "size": 1}
    with pytest.warns(UserWarning, match="'crown' for 1 image"):
        found = judged(CROWN_IBP, CROWN_IBP, CROWN, **options)
    assert found["verified_by"].tolist() == [1, 1, -2]


def test_crown_is_left_out_where_a_pooling_has_no_crown():
    model = pooled()
    pixels, labels = spread(model)
    evaluator = create("verified", eps=0.02, bounds=["ibp", "crown"])
    with pytest.warns(UserWarning, match=r"'crown' for .* layer '2 .MaxPool2d.'"):
        found = evaluated(evaluator, model, pixels, labels, 20)
    assert set(found["verified_by"].tolist()) == {-3, -2, 0}


def test_what_is_undecided_by_all_is_no_reason_to_warn(monkeypatch):
    play(monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        judged(NEVER, IBP, seconds=1, memory=1)


def test_the_summary_tells_what_each_bound_adds():
    by = torch.tensor([0, 0, 2, 3, -1, -3, 1, 0])
    evaluator = create("verified", label="v")
    metrics = evaluator.summarise({"v": by >= 0, "v_by": by})
    shares = {name: value for name, value in metrics.items() if isinstance(value, float)}
    assert shares == {"v": 6 / 8, "v_ibp": 3 / 8, "v_crown_ibp": 4 / 8, "v_crown": 5 / 8}
    for name in shares:
        assert metrics[f"{name}_n"] == 8
        low, high = metrics[f"{name}_interval"]
        assert low < metrics[name] < high
    assert len(metrics) == 3 * len(shares)


def test_the_summary_tells_if_bounds_were_left_out():
    by = torch.tensor([2, -2, -2, -1])
    evaluator = create("verified", bounds=["ibp", "crown"])
    metrics = evaluator.summarise({"verified": by >= 0, "verified_by": by})
    assert metrics["verified_left_out"] == 0.5
    assert (metrics["verified_ibp"], metrics["verified"]) == (0, 0.25)
    assert "verified_crown" not in metrics


def test_easy_images_cost_one_call(monkeypatch):
    script = play(monkeypatch)
    judged(EASY, EASY)
    assert script.calls == {"ibp": [2]}
