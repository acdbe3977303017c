"""A step's gradients: those of the whole batch, whatever parts and scales it is taken in."""

import pytest
import torch
from torch.nn import functional as F

from robustprune import objectives
from robustprune.errors import UsageError
from robustprune.objectives import Loss, Objective
from robustprune.pruners import Method
from tests.training import toys
from tests.training.toys import Spy, prepared, same, state_file, trainer, weights

SHARP = {"sharpness": {"radius": 0.3}}


class Still(objectives.get("trades")):
    """TRADES on images moved far: its own start is so near that signs are those of rounding."""

    def attack(self, model, images, labels, progress):
        return (images + self.eps * (1000 * images).sin().sign()).clamp(0, 1)


OBJECTIVES = {
    "benign": objectives.create("benign"),
    "pgd": objectives.create("pgd", eps=0.2, steps=2, random_start=False),
    "trades": Still(eps=0.2),
}


def gradients(tmp_path, kind, objective, *, scales=False, pruner=None, **options):
    """Those of the first step on seven images, and the epoch's metrics."""
    spy, name = Spy(lr=1e-3), f"{scales}-{options}"
    options = {"optimizer": spy, "batch_size": 7, "epochs": 1, **options}
    _, setting = prepared(kind, norm=False, pruner=pruner, **options)
    data = toys.splits(validation=False)
    run = trainer(objective, data, max_steps=1, scales=scales)
    (entry,) = toys.train(run, setting, state_file(tmp_path, name))
    return spy._grads[0], entry


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
@pytest.mark.parametrize(
    ("kind", "pruner"),
    [("pretrain", None), *((k, p) for k in toys.KINDS[1:] for p in (None, SHARP))],
    ids=["dense", "prune", "S2AP", "finetune", "AWP", "dynamic", "dynamic sharp"],
)
def test_parts_and_scales_give_the_gradients_of_the_whole_batch(tmp_path, kind, pruner, objective):
    whole, entry = gradients(tmp_path, kind, objective, pruner=pruner)
    assert any(bool(gradient.any()) for gradient in whole)
    for changes in ({"accumulate": 4}, {"accumulate": 3, "scales": True}):
        found, its_entry = gradients(tmp_path, kind, objective, pruner=pruner, **changes)
        assert its_entry == pytest.approx(entry, rel=1e-4, abs=1e-6)
        for one, other in zip(whole, found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_sharpness_changes_the_gradients(tmp_path):
    """Or the test above would pass without it."""
    for kind in ("prune", "finetune"):
        found = [
            gradients(tmp_path / kind / str(pruner), kind, OBJECTIVES["benign"], pruner=pruner)[0]
            for pruner in (None, SHARP)
        ]
        assert not torch.allclose(found[0][0], found[1][0], rtol=1e-2)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_penalty_counts_once_a_step_and_is_a_curve(tmp_path, accumulate):
    class Penalised(Method):
        def penalty(self, stage, masked, progress):
            return 0.25 * sum(p.square().sum() for p in masked.weight_parameters())

    found = []
    for method in (Method(), Penalised()):
        spy = Spy(lr=1e-9)
        options = {"optimizer": spy, "batch_size": 7, "epochs": 1, "accumulate": accumulate}
        model, setting = prepared("pretrain", norm=False, **options)
        start = [p.detach().clone() for p in model.parameters()]
        setting = setting._replace(method=method)
        (entry,) = toys.train(
            trainer(OBJECTIVES["benign"], toys.splits(validation=False)),
            setting,
            state_file(tmp_path, type(method).__name__),
        )
        found.append((spy._grads[0], entry))
    (plain, without), (more, entry) = found
    for one, other, weight in zip(plain, more, start, strict=True):
        torch.testing.assert_close(other - one, 0.5 * weight, rtol=1e-4, atol=1e-6)
    assert "penalty" not in without
    expected = 0.25 * sum(float(weight.square().sum()) for weight in start)
    assert entry["penalty"] == pytest.approx(expected, rel=1e-4)
    assert entry["loss"] == pytest.approx(without["loss"], rel=1e-4)


class Counted(Objective):
    """Its attack and its loss both draw; it counts its attacks and keeps what it was given."""

    def attack(self, model, images, labels, progress):
        type(self).attacks += 1
        return images + 0.3 * torch.randn_like(images)

    def loss(self, model, images, attacked, labels, progress):
        noise = torch.randn_like(images)
        type(self).seen.append((attacked.clone(), noise.clone()))
        logits = model(attacked + 0.3 * noise)
        return Loss(F.cross_entropy(logits, labels), logits, {})


@pytest.fixture(autouse=True)
def counted():
    Counted.attacks, Counted.seen = 0, []


class Twice(Method):
    """Takes the gradients of a second call, at the same weights; notes those of both."""

    def step(self, stage, masked, closure, optimizer, progress):
        closure()
        first = {n: p.grad.clone() for n, p in masked.model.named_parameters()}
        state = weights(masked.model)
        loss = closure(again=True)
        assert same(weights(masked.model), state), "running statistics stay"
        assert same({n: p.grad for n, p in masked.model.named_parameters()}, first)
        optimizer.step()
        return loss


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_second_call_uses_attacks_and_draws_again_and_leaves_statistics(tmp_path, accumulate):
    """Also those of dropout; and what is drawn afterwards is what one call would have left."""
    found = []
    for method in (Method(), Twice()):
        counted = Counted.attacks
        model, setting = prepared("pretrain", accumulate=accumulate, epochs=2)
        run = trainer(Counted(), toys.splits(validation=False))
        name = type(method).__name__
        toys.train(run, setting._replace(method=method), state_file(tmp_path, name))
        found.append((weights(model), Counted.attacks - counted))
    (one, attacks), (two, its_attacks) = found
    assert attacks == its_attacks > 0
    assert same(one, two)
    seen = Counted.seen[attacks:]
    parts = attacks // (2 * toys.STEPS) if accumulate == 1 else accumulate
    for part in range(parts):  # of the first step
        for first, second in zip(seen[part], seen[parts + part], strict=True):
            assert torch.equal(first, second)


def test_a_first_call_attacks_anew_each_time(tmp_path):
    class Anew(Method):
        def step(self, stage, masked, closure, optimizer, progress):
            closure()
            return super().step(stage, masked, closure, optimizer, progress)

    _, setting = prepared("pretrain", epochs=1)
    run = trainer(Counted(), toys.splits(validation=False))
    toys.train(run, setting._replace(method=Anew()), state_file(tmp_path))
    assert Counted.attacks == 2 * toys.STEPS
    assert not torch.equal(Counted.seen[0][0], Counted.seen[1][0])


def test_a_second_call_needs_an_attack_that_stands_apart(tmp_path):
    """Before, it attacked anew without a word."""
    _, setting = prepared("pretrain", epochs=1)
    run = trainer(toys.Noisy(), toys.splits(validation=False))
    with pytest.raises(UsageError, match=r"re-uses the first one's attack: .*__call__ alone"):
        toys.train(run, setting._replace(method=Twice()), state_file(tmp_path))
