from collections.abc import Callable, Iterator

import pytest
import torch
from pydantic import PrivateAttr
from torch import nn
from torch.nn import functional as F

from robustprune import objectives, pruners
from robustprune.errors import UsageError
from robustprune.masking import attach
from robustprune.objectives import Loss, Objective
from robustprune.pruners import Stage
from robustprune.pruners.base import SCORING
from robustprune.types import Images
from tests.pruners.nets import at_work, context, linear, sections

BATCH = Images(torch.tensor([[[[1.0, 2.0]]], [[[3.0, 0.0]]]]), torch.tensor([0, 1]))


def with_norm() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(8, 2))


def images(count: int = 8) -> Images:
    generator = torch.Generator().manual_seed(3)
    shape = (count, 1, 4, 4)
    return Images(torch.rand(shape, generator=generator).double(), torch.arange(count) % 4)


def precise() -> nn.Module:
    """A network of three layers, without biases, in double precision."""
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(1, 3, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(3, 3, 2, stride=2, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12, 4, bias=False),
    )
    return nn.Sequential(*layers).double()


# -- snip ------------------------------------------------------------------------------------------


def test_snip_keeps_the_largest_products_of_gradient_and_weight():
    # logits of the first image are (1, 1), so its p is (1/2, 1/2); those of the second (3, -3), so
    # the gradient is a half of (-1/2, 1/2) ⊗ (1, 2) plus a half of (p, -p) ⊗ (3, 0), p nearly 1:
    # |g·w| is about (1.25, 0, 1.25, 0.5) but for what 1 - p leaves
    method, masked, (stage,) = at_work(
        "snip", linear([1.0, 0.0], [-1.0, 1.0]), 0.5, images=BATCH, fresh=False
    )
    method.begin(stage, masked)
    assert masked.masks["1.weight"].tolist() == [[True, False], [True, False]]


def test_snips_gradients_are_those_of_the_loss():
    model = linear([0.3, -0.2], [0.1, 0.4], [0.5, 0.2])
    method, masked, (stage,) = at_work("snip", model, 0.5, images=BATCH, fresh=False)
    weight = model[1].parametrizations.weight.original.detach().clone().requires_grad_()
    F.cross_entropy(BATCH.images.flatten(1) @ weight.T, BATCH.labels).backward()
    (score,) = method.importance(stage, masked).values()
    torch.testing.assert_close(score, (weight.grad * weight).abs())


@pytest.mark.parametrize("name", ["snip", "grasp", "synflow"])
def test_another_initialisation_than_the_one_it_scored_can_be_trained(name):
    fresh = {"1.weight": torch.tensor([[5.0, 6.0], [7.0, 8.0]])}
    method, masked, (stage,) = at_work(
        name,
        linear([1.0, 0.5], [-1.0, 1.0]),
        0.5,
        images=BATCH,
        checkpoints={"fresh": fresh},
        fresh=True,
    )
    assert method.pruner.needs() == ("init", "fresh")
    method.begin(stage, masked)
    mask = masked.masks["1.weight"]
    assert mask.sum() == 2
    assert torch.equal(masked.model[1].weight, torch.where(mask, fresh["1.weight"], 0.0))


def test_snip_alone_trains_another_one_unless_told():
    made = {name: pruners.create(name) for name in ("snip", "grasp", "synflow")}
    assert [name for name, pruner in made.items() if "fresh" in pruner.needs()] == ["snip"]


@pytest.mark.parametrize("name", ["snip", "grasp", "synflow", "taylor"])
def test_scoring_draws_from_the_methods_generator_only_and_leaves_modes_and_statistics(name):
    model, options = with_norm(), {"images": BATCH, "objective": "pgd"}
    method, masked, (stage,) = at_work(name, model, 0.5, **options)
    state, mean = torch.get_rng_state(), model[1].running_mean.clone()
    once = method.importance(stage, masked)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model[1].running_mean, mean)
    assert model[1].num_batches_tracked == 0
    assert model.training
    torch.manual_seed(5)
    again, masked, _ = at_work(name, with_norm(), 0.5, **options)
    assert torch.equal(again.importance(stage, masked)["3.weight"], once["3.weight"])


@pytest.mark.parametrize("name", ["snip", "grasp", "synflow"])
def test_they_train_as_pretrain_says_but_for_their_own_options(name):
    _, _, (stage,) = at_work(name, linear([1.0]), 1.0, fresh=False, train={"epochs": 9})
    assert (stage.name, stage.options.epochs, stage.options.optimizer.lr) == ("train", 9, 0.1)


# -- grasp -----------------------------------------------------------------------------------------


class Quadratic(Objective):
    """½·the mean square of the outputs' distance from the labels."""

    def loss(self, model, images, attacked, labels, progress) -> Loss:
        outputs = model(images)
        return Loss(0.5 * (outputs[:, 0] - labels).square().mean(), outputs, {})


def at_work_under(objective: Objective, name: str, model: nn.Module, batch: Images, **options):
    pruner = pruners.create(name, **options)
    given = context(
        pruner, 0.5, objective=objective, batches=lambda size, per_class=None: iter([batch])
    )
    return pruner.method(given), attach(model, structure=pruner.structure), Stage("train", None)


def test_grasps_product_is_that_of_a_quadratic():
    """L = ½·mean (w·x/T − y)², so H = mean x xᵀ/T² and g = mean (w·x/T − y)·x/T."""
    model, temperature = linear([0.5, -2.0]), 4.0
    method, masked, stage = at_work_under(
        Quadratic(), "grasp", model, BATCH, temperature=temperature
    )
    (found,) = method.hessian_products(stage, masked).values()
    x, w = BATCH.images.flatten(1) / temperature, torch.tensor([0.5, -2.0])
    hessian, gradient = x.T @ x / 2, x.T @ (x @ w - BATCH.labels) / 2
    torch.testing.assert_close(found, (hessian @ gradient)[None])


@pytest.mark.parametrize("name", objectives.names())
def test_hessians_products_are_differences_of_gradients(name):
    """H·g is how fast the gradient moves along itself, under all that says it can be had."""
    objective, batch = objectives.create(name), images()
    objective.bind({need: precise() for need in objective.needs})
    method, masked, stage = at_work_under(objective, "grasp", precise(), batch, temperature=2.0)
    assert objective.twice
    found = method.hessian_products(stage, masked)
    method.context.generator.manual_seed(0)
    with method.drawing():
        attacked = objective.fresh().attack(masked.model, *batch, SCORING)
        random = torch.get_rng_state()

    def gradients() -> list[torch.Tensor]:
        torch.set_rng_state(random)

        def tempered(x):
            return masked.model(x) / 2.0

        tempered_model = tempered
        if not objective.calls_only:  # bounds look into the network
            tempered_model = nn.Sequential(masked.model, Halved())
        loss = objective.fresh().loss(tempered_model, batch.images, attacked, batch.labels, SCORING)
        return list(torch.autograd.grad(loss.total, list(masked.weights.values())))

    with torch.random.fork_rng():
        first = gradients()
        step = 1e-5 / torch.cat([g.flatten() for g in first]).norm()
        moved = []
        for sign in (1, -1):
            with torch.no_grad():
                for weight, g in zip(masked.weights.values(), first, strict=True):
                    weight.add_(sign * step * g)
            moved.append(gradients())
            with torch.no_grad():
                for weight, g in zip(masked.weights.values(), first, strict=True):
                    weight.sub_(sign * step * g)
    for product, up, down in zip(found.values(), *moved, strict=True):
        assert product.any()
        torch.testing.assert_close(product, (up - down) / (2 * step), rtol=1e-5, atol=1e-9)


class Halved(nn.Module):
    def forward(self, x):
        return x / 2


def test_grasp_removes_the_largest_scores():
    """w·(Hg) is what is kept by, sign and all; the least of the network lies at 0."""
    method, masked, stage = at_work_under(objectives.create("benign"), "grasp", precise(), images())
    products = method.hessian_products(stage, masked)
    signed = torch.cat([(products[n] * w).flatten() for n, w in masked.weights.items()]).detach()
    assert signed.min() < 0 < signed.max()
    kept = signed >= signed.sort().values[len(signed) - round(len(signed) * 0.5)]
    method.begin(stage, masked)
    found = torch.cat([mask.flatten() for mask in masked.masks.values()])
    assert torch.equal(found, kept)


def test_filters_are_compared_by_the_signed_sums_of_their_scores():
    method, masked, stage = at_work_under(
        objectives.create("benign"), "grasp", precise(), images(), structure="filter"
    )
    products = method.hessian_products(stage, masked)
    sums = torch.cat(
        [(products[n] * w).detach().flatten(1).sum(1) for n, w in masked.weights.items()]
    )
    found = torch.cat([e.flatten(1).sum(1) for e in method.importance(stage, masked).values()])
    torch.testing.assert_close(found, sums - sums.min(), check_dtype=False)


def test_the_temperature_tells_in_the_score_and_the_attack_is_on_the_network_itself():
    seen = []

    class Watched(objectives.get("pgd")):
        def attack(self, model, *arguments):
            seen.append(model)
            return super().attack(model, *arguments)

    scores = []
    for temperature in (1.0, 200.0):
        method, masked, stage = at_work_under(
            Watched(), "grasp", precise(), images(), temperature=temperature
        )
        scores.append(method.hessian_products(stage, masked)["5.weight"])
        assert seen.pop() is masked.model
    ratio = scores[0].norm() / scores[1].norm()
    assert ratio > 200**2  # g falls with T, H with T², and both with how far p is from y


def test_an_attack_is_made_once():
    calls = []

    class Counted(objectives.get("pgd")):
        def attack(self, *arguments):
            calls.append("attack")
            return super().attack(*arguments)

        def loss(self, *arguments):
            calls.append("loss")
            return super().loss(*arguments)

    method, masked, stage = at_work_under(Counted(), "grasp", precise(), images())
    method.begin(stage, masked)
    assert calls == ["attack", "loss"]


def test_grasp_refuses_losses_that_it_cannot_have():
    class Once(Objective):
        twice = False

        def loss(self, model, images, attacked, labels, progress) -> Loss:
            raise AssertionError

    class CallOnly(Objective):
        def __call__(self, model, images, labels, progress) -> Loss:
            raise AssertionError

    def said(objective: Objective) -> list[str]:
        return list(pruners.create("grasp").problems(Stage("train", None), objective))

    (reason,) = said(Once())
    assert "cannot be: use pgd or trades" in reason
    (reason,) = said(CallOnly())
    assert "define attack() and loss() instead" in reason
    assert not said(objectives.create("trades"))


def test_grasp_takes_as_many_images_of_each_class_as_asked():
    asked = []

    def batches(size: int, per_class: int | None = None) -> Iterator[Images]:
        asked.append(per_class)
        return iter([BATCH] if per_class == 3 else [])

    for count in (3, 4):
        pruner = pruners.create("grasp", per_class=count)
        method = pruner.method(context(pruner, batches=batches))
        if count == 3:
            assert method.batch() is BATCH
        else:
            with pytest.raises(UsageError, match="fewer than 4 training images"):
                method.batch()
    assert asked == [3, 4]


# -- synflow ---------------------------------------------------------------------------------------


def synflow(model: nn.Module, batch: Images = BATCH, density: float = 0.5, **options):
    method, masked, (stage,) = at_work("synflow", model, density, images=batch, **options)
    return method, masked, stage


def single(count: int = 8) -> Images:
    return Images(images(count).images.float()[:1], images(count).labels[:1])


def test_every_layer_has_the_same_sum_of_scores():
    """The conservation law: what flows into a layer without biases flows out of it."""
    method, masked, _ = synflow(precise().float(), single())
    sums = [float(score.sum()) for score in method.flow(masked).values()]
    assert sums[0] > 0
    assert sums == pytest.approx([sums[0]] * 3, rel=1e-12)


def test_the_sum_is_that_of_the_outputs_for_ones_through_absolute_weights():
    model = linear([1.0, -2.0], [0.0, 4.0])
    method, masked, _ = synflow(model)
    (score,) = method.flow(masked).values()
    torch.testing.assert_close(score, torch.tensor([[1.0, 2.0], [0.0, 4.0]]).double())


def test_scores_are_of_what_the_rounds_before_have_left():
    """Two paths of 3·1 and 1·2, then two of a layer's weights are cut by hand."""
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False)
    )
    model[1].weight.data = torch.tensor([[-3.0, 1.0], [1.0, 1.0]])
    model[3].weight.data = torch.tensor([[1.0, -2.0]])
    method, masked, _ = synflow(model)
    assert method.flow(masked)["1.weight"].tolist() == [[3.0, 1.0], [2.0, 2.0]]
    assert method.flow(masked)["3.weight"].tolist() == [[4.0, 4.0]]
    masked.set({"1.weight": torch.tensor([[True, False], [False, True]])})
    assert method.flow(masked)["1.weight"].tolist() == [[3.0, 0.0], [0.0, 2.0]]
    assert method.flow(masked)["3.weight"].tolist() == [[3.0, 2.0]]


def test_what_is_left_is_ahead_of_what_is_pruned_even_where_no_path_goes_through_it():
    model = nn.Sequential(nn.Flatten(), *(nn.Linear(2, 2, bias=False) for _ in range(2)))
    method, masked, _ = synflow(model)
    first = torch.tensor([[False, True], [True, True]])  # its first unit leads nowhere any more
    masked.set({"1.weight": first, "2.weight": torch.tensor([[False, True], [False, True]])})
    score = method.flow(masked)["1.weight"]
    assert not score[0, 0]
    assert 0 < score[0, 1] < score[1].min()


def test_rounds_follow_a_geometric_schedule(monkeypatch):
    method, masked, stage = synflow(precise().float(), single(), 0.1, rounds=4)
    asked, keep = [], type(method).keep

    def watch(self, masked, importance, density=None):
        asked.append(density or self.context.density)
        return keep(self, masked, importance, density)

    monkeypatch.setattr(type(method), "keep", watch)
    method.begin(stage, masked)
    assert asked == pytest.approx([0.1**0.25, 0.1**0.5, 0.1**0.75, 0.1])
    assert masked.kept == round(0.1 * masked.prunable)
    assert masked.turnover == 0


def test_rounds_keep_layers_whose_single_weights_carry_little():
    """At once, the small layer's 64 weights are ahead of all 4096 of the large one."""
    batch = Images(torch.ones(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64))
    kept = {}
    for rounds in (1, 100):
        torch.manual_seed(0)
        layers = [nn.Linear(64, 64, bias=False), nn.Linear(64, 1, bias=False)]
        for layer in layers:
            nn.init.uniform_(layer.weight, 1, 1.2)
        model = nn.Sequential(nn.Flatten(), *layers)
        method, masked, stage = synflow(model, batch, 64 / 4160, rounds=rounds)
        method.begin(stage, masked)
        kept[rounds] = [int(mask.sum()) for mask in masked.masks.values()]
    assert kept[1] == [1, 63]
    assert min(kept[100]) >= 8


def test_no_weight_moves_not_even_its_zeros_sign():
    model = with_norm()
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = -0.0
    before = {n: t.clone() for n, t in model.state_dict().items()}
    method, masked, stage = synflow(model)
    method.begin(stage, masked)
    after = {
        name.replace(".parametrizations.weight.original", ".weight"): tensor
        for name, tensor in model.state_dict().items()
    }
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert torch.signbit(after["0.weight"][0, 0, 0, 0])
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_products_over_many_layers_stay_finite():
    layers = [nn.Linear(64, 64, bias=False) for _ in range(30)]
    for layer in layers:
        nn.init.uniform_(layer.weight, -1, 1)
    model = nn.Sequential(nn.Flatten(), *layers)
    batch = Images(torch.ones(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64))
    method, masked, _ = synflow(model, batch)
    score = method.flow(masked)["30.weight"]
    assert score.max() > torch.finfo(torch.float32).max
    assert score.isfinite().all()


def test_synflow_looks_at_no_image():
    scores = [
        synflow(precise().float(), Images(fill * single().images, single().labels))
        for fill in (0.0, 1.0)
    ]
    one, other = (method.flow(masked) for method, masked, _ in scores)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_its_rounds_have_no_densities_of_n_m():
    stage, objective = Stage("train", None), objectives.create("benign")
    shape = {"allocation": "uniform", "structure": "n_m"}
    (reason,) = pruners.create("synflow", **shape).problems(stage, objective)
    assert "set rounds: 1" in reason
    assert not list(pruners.create("synflow", rounds=1, **shape).problems(stage, objective))


# -- taylor ----------------------------------------------------------------------------------------


def taylor(given_batches: list[Images], *, objective: str = "benign", **options):
    pruner = pruners.create("taylor", **options)
    given = context(
        pruner,
        0.5,
        objective=objectives.create(objective),
        batches=lambda size, per_class=None: iter(given_batches),
    )
    return pruner.method(given), attach(precise(), structure=pruner.structure)


def moved_loss(masked, batch: Images) -> Callable[[str, int, float], float]:
    """The loss where one weight has grown by a share of itself."""

    @torch.no_grad()
    def loss(name: str, index: int, share: float) -> float:
        weight = masked.weights[name].view(-1)
        before = float(weight[index])
        weight[index] = before * (1 + share)
        value = float(F.cross_entropy(masked.model(batch.images), batch.labels))
        weight[index] = before
        return value

    return loss


def test_the_score_is_what_the_loss_changes_by_to_first_order():
    batch, share = images(), 1e-5
    method, masked = taylor([batch])
    scores = method.importance(Stage("finetune", None), masked)
    loss = moved_loss(masked, batch)
    for name, score in scores.items():
        for index, found in enumerate(score.flatten().tolist()):
            change = (loss(name, index, share) - loss(name, index, -share)) / (2 * share)
            assert found == pytest.approx(abs(change), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("squared", [False, True])
def test_batches_count_as_the_mean_of_their_scores(squared):
    parts = [Images(*(half[i::2] for half in images())) for i in (0, 1)]
    stage = Stage("finetune", None)
    each = [
        method.importance(stage, masked)["5.weight"]
        for method, masked in (taylor([part]) for part in parts)
    ]
    method, masked = taylor(parts, squared=squared)
    found = method.importance(stage, masked)["5.weight"]
    expected = sum(score ** (1 + squared) for score in each) / 2
    torch.testing.assert_close(found, expected)
    method, masked = taylor(parts, batches=1)
    torch.testing.assert_close(method.importance(stage, masked)["5.weight"], each[0])


def test_taylor_scores_under_attack():
    stage, found = Stage("finetune", None), []
    for objective in ("benign", "pgd"):
        method, masked = taylor([images()], objective=objective)
        found.append(method.importance(stage, masked)["5.weight"])
    assert not torch.allclose(*found, rtol=0.01)


def test_filters_have_the_sum_of_their_weights_scores():
    method, masked = taylor([images()], structure="filter", allocation="uniform")
    stage = Stage("finetune", None)
    sums = {n: s.flatten(1).sum(1) for n, s in method.importance(stage, masked).items()}
    method.begin(stage, masked)
    for name, mask in masked.masks.items():
        kept = mask.flatten(1).all(1)
        assert kept.sum() == 2
        assert sums[name][kept].min() > sums[name][~kept].max()


def test_taylor_finetunes_a_trained_network():
    pruner = pruners.create("taylor")
    assert pruner.needs() == ("dense",)
    assert [stage.name for stage in pruner.stages(0.1, {})] == ["finetune"]


# -- all of them -----------------------------------------------------------------------------------


class Counting(Objective):
    """Its loss grows with the calls of one instance."""

    registered_name = "mine"
    factor: float = 1.0
    _calls: int = PrivateAttr(0)

    def loss(self, model, images, attacked, labels, progress):
        self._calls += 1
        logits = model(images)
        return Loss(self.factor * self._calls * F.cross_entropy(logits, labels), logits, {})


def counted(objective: Objective) -> Stage:
    return Stage("train", sections()["finetune"].model_copy(update={"objective": objective}))


@pytest.mark.parametrize("name", ["snip", "grasp", "taylor", "mad"])
def test_scoring_moves_no_state_of_the_objectives_that_are_trained_by(name):
    recipes, own = Counting(), Counting()
    method, masked, _ = at_work_under(recipes, name, linear([0.5, -1.0], [2.0, 0.3]), BATCH)
    method.pruner = method.pruner.model_copy(update={"fresh": False})
    method.begin(counted(own), masked)
    assert (recipes._calls, own._calls) == (0, 0)
    assert masked.kept == 2


@pytest.mark.parametrize("name", ["snip", "taylor"])
def test_the_objective_is_the_stages_own_as_it_is_before_any_step(name):
    method, masked, stage = at_work_under(Counting(), name, linear([0.5, -1.0], [2.0, 0.3]), BATCH)
    once, again = (method.importance(stage, masked)["1.weight"] for _ in range(2))
    torch.testing.assert_close(once, again)
    doubled = method.importance(counted(Counting(factor=2.0)), masked)["1.weight"]
    torch.testing.assert_close(doubled, 2 * once)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("snip", {"fresh": False}),
        ("grasp", {"per_class": 1}),
        ("synflow", {"rounds": 3}),
        ("taylor", {}),
    ],
)
def test_a_layer_that_is_never_called_scores_least(name, options):
    class Spare(nn.Sequential):
        def forward(self, given):
            return self[0](given.flatten(1))

    torch.manual_seed(0)
    model = Spare(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    method, masked, stages = at_work(name, model, 0.5, images=BATCH, **options)
    method.begin(stages[0], masked)
    kept = {n: int(mask.sum()) for n, mask in masked.masks.items()}
    assert sum(kept.values()) == 4
    if name != "grasp":  # whose scores have two signs, and 0 is not the least
        assert kept == {"0.weight": 3, "1.weight": 1}  # every layer keeps one
