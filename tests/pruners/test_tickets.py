import json

import pytest
import torch

from robustprune import pruners
from robustprune.errors import UsageError
from robustprune.masking import attach
from robustprune.objectives import create as objective
from robustprune.pruners import Stage
from robustprune.pruners.tickets import RobustBirdMethod
from tests.pipeline import tiny
from tests.pruners.nets import at_work, begun, context, linear, network, progress, sections

START = {"1.weight": torch.tensor([[10.0, 20.0, 30.0, 40.0]])}


def test_a_round_keeps_the_largest_of_what_is_left_and_rewinds():
    method, masked, stages = at_work(
        "lottery", linear([4.0, 3.0, 2.0, 1.0]), 0.25, rate=0.5, checkpoints={"init": START}
    )
    first, second = stages
    method.begin(first, masked)
    assert masked.masks["1.weight"].tolist() == [[True, True, False, False]]
    assert masked.model[1].weight.tolist() == [[10.0, 20.0, 0.0, 0.0]]
    # trained anew: what was pruned does not come back, however large it has become
    masked.weights["1.weight"].data = torch.tensor([[1.0, 5.0, 99.0, 99.0]])
    method.begin(second, masked)
    assert masked.masks["1.weight"].tolist() == [[False, True, False, False]]
    assert masked.model[1].weight.tolist() == [[0.0, 20.0, 0.0, 0.0]]


def test_the_number_of_rounds_and_their_densities():
    lottery = pruners.create("lottery")
    assert len(lottery.rounds(0.1)) == 11
    assert lottery.rounds(0.8) == [0.8]
    assert lottery.rounds(0.64) == [pytest.approx(0.8), 0.64]
    assert lottery.rounds(0.5) == [
        pytest.approx(0.8),
        pytest.approx(0.64),
        pytest.approx(0.512),
        0.5,
    ]
    assert lottery.rounds(1.0) == [1.0]


def test_rounds_train_from_the_rewound_epoch_to_the_end():
    lottery = pruners.create("lottery", rate=0.5, rewind=1)
    assert lottery.needs() == ("dense", "pretrain@1")
    stages = lottery.stages(0.25, sections())
    assert [(s.name, s.options.epochs, s.start) for s in stages] == [
        ("train-1", 5, 1),
        ("train-2", 5, 1),
    ]
    assert pruners.create("lottery").needs() == ("dense", "init")


def test_rewinding_past_the_end_is_refused():
    with pytest.raises(UsageError, match="rewind is 5, and a round trains to epoch 5"):
        pruners.create("lottery", rewind=5).stages(0.5, sections())


def test_rounds_of_a_structure_that_has_one_density():
    stage, benign = Stage("train-1", None), objective("benign")
    shape = {"allocation": "uniform", "structure": {"name": "n_m", "n": 2, "m": 3}}
    (reason,) = pruners.create("lottery", **shape).problems(stage, benign)
    assert "rate is 0.2: set rate: 0.3334 or more" in reason
    assert not list(pruners.create("lottery", rate=0.3334, **shape).problems(stage, benign))


# -- robust bird -----------------------------------------------------------------------------------

CORNERS = [4.0, 3.0, 2.0, 1.0]


def searching(density: float = 0.5, **options):
    """Robust bird's search of a network whose weights are set by hand, epoch by epoch."""
    method, masked, (search, train) = at_work("robust_bird", linear(CORNERS), density, **options)
    method.begin(search, masked)
    return method, masked, search, train


def epoch(method, masked, stage, weights: list[float]) -> dict[str, float]:
    masked.weights["1.weight"].data = torch.tensor([weights], dtype=torch.float32)
    return method.after_epoch(stage, masked, None, progress(0), {})


def test_what_can_differ_is_counted_by_the_pruned_where_they_are_fewer():
    method, masked, search, _ = searching(0.75, relative=True)
    epoch(method, masked, search, [4.0, 3.0, 2.0, 1.0])
    shown = epoch(method, masked, search, [1.0, 2.0, 3.0, 4.0])  # one of four is pruned, another
    assert shown == {"mask_distance": 1.0}


def test_a_search_ends_with_the_weights_whose_mask_stood_still_whatever_is_selected():
    method, masked, search, train = searching()
    assert not method.eligible(search, masked)
    assert method.eligible(train, masked)


def test_the_search_ends_once_the_newest_mask_is_near_to_each_of_those_before_it():
    method, masked, search, _ = searching(masks=3, distance=0.4)
    drawn = torch.Generator().manual_seed(3)
    seen: list[torch.Tensor] = []
    ended = []
    for _ in range(60):
        weights = torch.rand(4, generator=drawn)
        shown = epoch(method, masked, search, weights.tolist())
        seen.append(weights >= weights.sort().values[2])
        brute = [float((seen[-1] != other).float().mean()) for other in seen[-3:-1]]
        assert shown == ({"mask_distance": max(brute)} if brute else {})
        expected = len(seen) >= 3 and all(distance <= 0.4 for distance in brute)
        assert method.finished(search, masked) is expected
        ended.append(expected)
    assert any(ended)
    assert not all(ended[2:])
    assert masked.kept == 4  # the network that searches is dense


def test_it_is_asked_again_on_resume_and_says_the_same():
    method, masked, search, train = searching(masks=2, distance=0.0)
    epoch(method, masked, search, [4, 3, 2, 1])
    other, *_ = searching(masks=2, distance=0.0)
    other.load_state_dict(method.state_dict())
    assert not other.finished(search, masked)
    epoch(other, masked, search, [8, 9, 2, 1])
    assert other.finished(search, masked)
    third, *_ = searching(masks=2, distance=0.0)
    third.load_state_dict(other.state_dict())
    assert third.finished(search, masked)
    assert not third.finished(train, masked)
    epoch(third, masked, search, [1, 9, 2, 8])
    assert not third.finished(search, masked)


def test_the_distance_counts_all_entries_or_those_that_can_differ():
    for relative, expected in ((False, 2 / 4), (True, 2 / 2)):
        method, masked, search, _ = searching(0.25, masks=2, relative=relative)
        epoch(method, masked, search, [4, 3, 2, 1])
        assert epoch(method, masked, search, [4, 3, 2, 9]) == {"mask_distance": expected}
    method, masked, search, _ = searching(1.0, masks=2, relative=True, distance=0)
    for _ in range(2):
        epoch(method, masked, search, CORNERS)
    assert method.finished(search, masked)


@pytest.mark.parametrize("relative", [False, True])
def test_at_a_low_density_any_five_masks_are_near_but_by_the_count_of_what_can_differ(relative):
    method, masked, (search, _) = at_work(
        "robust_bird", linear([0.0] * 100), 0.04, relative=relative
    )
    drawn = torch.Generator().manual_seed(0)
    ended = []
    for _ in range(5):
        epoch(method, masked, search, torch.rand(100, generator=drawn).tolist())
        ended.append(method.finished(search, masked))
    assert ended == [False] * 4 + [not relative]


def test_the_weights_stay_and_the_largest_are_kept_when_the_search_is_over():
    method, masked, search, train = searching()
    epoch(method, masked, search, [1, -7, 2, 6])
    method.begin(train, masked)
    assert masked.masks["1.weight"].tolist() == [[False, True, False, True]]
    assert masked.weights["1.weight"].tolist() == [[1.0, -7.0, 2.0, 6.0]]
    assert method.state_dict() == {"last": []}
    assert method.after_epoch(train, masked, None, progress(0), {}) == {}


def test_the_search_is_standard_training_unless_told_otherwise():
    recipe = sections()
    named = recipe["pretrain"].model_copy(update={"objective": objective("pgd")})

    def names(given, **options):
        stages = pruners.create("robust_bird", **options).stages(0.1, {"pretrain": given})
        assert [stage.name for stage in stages] == ["search", "train"]
        return [s.options.objective and s.options.objective.registered_name for s in stages]

    assert names(recipe["pretrain"]) == ["benign", None]
    assert names(named) == ["benign", "pgd"]
    assert names(recipe["pretrain"], search={"epochs": 2}) == ["benign", None]
    assert names(recipe["pretrain"], search={"objective": "fgsm"}) == ["fgsm", None]
    assert names(recipe["pretrain"], standard=False) == [None, None]
    assert names(named, standard=False) == ["pgd", "pgd"]


@pytest.mark.slow
def test_the_loop_ends_the_search_at_the_epoch_that_brute_force_says(tmp_path, monkeypatch):
    after, weights = RobustBirdMethod.after_epoch, []

    def watching(self, stage, masked, *rest):
        if stage.name == "search":
            weights.append(torch.cat([w.detach().flatten() for w in masked.weights.values()]))
        return after(self, stage, masked, *rest)

    monkeypatch.setattr(RobustBirdMethod, "after_epoch", watching)
    search = {"epochs": 10, "batch_size": 32, "optimizer": {"name": "sgd", "lr": 0.3}}
    bird = {"name": "robust_bird", "masks": 3, "distance": 0.05, "search": search}
    bird["train"] = {"epochs": 1, "objective": "benign"}
    changes = {"prune": {"methods": [bird], "densities": [0.3]}, "evaluate": []}
    tiny.go(tmp_path / "run", changes)
    history = json.loads((tmp_path / "run/robust_bird-0.3/history.json").read_text())
    shown = [e["metrics"].get("mask_distance") for e in history if e["stage"] == "search"]
    masks = [w.abs() >= w.abs().topk(round(0.3 * len(w))).values[-1] for w in weights]
    brute = [
        max(float((mask != other).float().mean()) for other in masks[max(number - 2, 0) : number])
        for number, mask in enumerate(masks)
        if number
    ]
    assert shown[0] is None
    assert shown[1:] == pytest.approx(brute)
    ends = [number for number, far in enumerate(brute, 2) if number >= 3 and far <= 0.05]
    assert len(shown) == ends[0]
    assert 3 < len(shown) < 10, "or the test says little"


# -- boosting tickets ------------------------------------------------------------------------------


def test_it_searches_briefly_at_a_constant_rate_and_trains_as_pretrain_says():
    search, train = pruners.create("boosting", stop=0.4).stages(0.1, sections())
    assert (search.name, search.options.epochs) == ("search", 2)
    assert search.options.schedule.registered_name == "constant"
    assert train.options == sections()["pretrain"]
    search, _ = pruners.create(
        "boosting", search={"epochs": 4, "schedule": "step"}, train={"epochs": 9}
    ).stages(0.1, sections())
    assert (search.options.epochs, search.options.schedule.registered_name) == (4, "step")
    assert pruners.create("boosting", stop=0.01).stages(0.1, sections())[0].options.epochs == 1


def test_the_whole_state_is_rewound_and_the_mask_is_that_of_the_trained_weights():
    pruner = pruners.create("boosting", by_mean=False)
    masked = attach(network())
    method = pruner.method(context(pruner, 0.1))
    search, train = pruner.stages(0.1, sections())
    method.begin(search, masked)
    assert masked.kept == masked.prunable
    trained = {}
    with torch.no_grad():
        for name, tensor in masked.model.named_parameters():
            tensor.copy_(torch.rand(tensor.shape))
            trained[name] = tensor.clone()
        masked.model[1].running_mean.fill_(7)
    sizes = torch.cat([weight.detach().flatten() for weight in masked.weights.values()])
    method.begin(train, masked)
    kept = torch.cat([mask.flatten() for mask in masked.masks.values()])
    assert kept.nonzero().flatten().tolist() == sizes.topk(25).indices.sort().values.tolist()
    start = network().state_dict()
    assert all(torch.equal(w, start[name]) for name, w in masked.weights.items())
    assert torch.equal(masked.model[1].running_mean, start["1.running_mean"])
    assert torch.equal(masked.model[3].bias, start["3.bias"])


def test_weights_count_in_units_of_their_layers_mean():
    # of layers of unlike scale, one threshold for |w| takes all of one; for |w| / mean it does not
    plain, by_mean = (
        begun(pruners.create("boosting", by_mean=value))[0] for value in (False, True)
    )
    assert [report.kept for report in plain.report()] == [1, 24]
    importance = {}
    for name, weight in attach(network()).weights.items():
        importance[name] = weight.detach().abs().flatten() / weight.detach().abs().mean()
    scores = torch.cat(list(importance.values()))
    bound = scores.sort(descending=True).values[24]
    for name, score in importance.items():
        assert torch.equal(by_mean.masks[name].flatten(), score >= bound)


def test_a_round_keeps_the_largest_of_the_network_whichever_layer_they_are_in():
    model = network()
    torch.nn.init.uniform_(model[3].weight, -0.1, 0.1)  # far below 1
    method, masked, stages = at_work(
        "lottery", model, 0.3, rate=0.4, checkpoints={"init": model.state_dict()}
    )
    left = torch.cat([w.detach().abs().flatten() for w in masked.weights.values()])
    for stage, kept in zip(stages, (151, 91, 76), strict=True):
        method.begin(stage, masked)
        mask = torch.cat([m.flatten() for m in masked.masks.values()])
        assert masked.kept == kept
        assert left[mask].min() > left[~mask].max()
        left[~mask] = -1.0
