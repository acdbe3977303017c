"""Broken promises are found; parts of ours, which keep theirs, are tested with their families."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch.nn import functional as F

from robustprune import datasets, pruners
from robustprune.datasets.source import TensorSource
from robustprune.evaluators import Evaluator
from robustprune.masking.allocations import Allocation
from robustprune.masking.selection import Structure
from robustprune.objectives import Loss, Objective
from robustprune.pruners import Method, Pruner, Stage
from robustprune.testing import (
    CONTRACTS,
    check_allocation,
    check_dataset,
    check_evaluator,
    check_objective,
    check_pruner,
    check_structure,
)
from robustprune.types import Threat

pytestmark = pytest.mark.slow


class Fair(Objective):
    def __call__(self, model, images, labels, progress):
        logits = model(images)
        return Loss(F.cross_entropy(logits, labels), logits, {})


class Partial(Fair):
    def __call__(self, model, images, labels, progress):
        return Loss(model[5].bias.square().mean(), model(images), {"size": 3})


class Greedy(Fair):
    def __call__(self, model, images, labels, progress):
        images.mul_(0.5)
        return super().__call__(model.eval(), images, labels, progress)


class Careless(Fair):
    def __call__(self, model, images, labels, progress):
        images = images + 0.1 * torch.rand(images.shape, generator=noise)
        loss = super().__call__(model, images, labels, progress)
        decay = sum(parameter.square().sum() for parameter in model.parameters())
        return loss._replace(total=loss.total + decay)


class Hasty(Objective):
    def attack(self, model, images, labels, progress):
        model(images).square().mean().backward()
        return images

    def loss(self, model, images, attacked, labels, progress):
        logits = model(attacked)
        return Loss(F.cross_entropy(logits, labels), logits, {})


noise = torch.Generator()


class Still(Pruner):
    """Keeps what its method says, and says that its masks stand still."""

    still: ClassVar[tuple[str, ...]] = ("finetune",)
    made: ClassVar[type[Method]] = Method

    def stages(self, density, recipe):
        return [Stage("finetune", self.section("finetune", recipe))]

    def method(self, context):
        return self.made(self, context)


class Drawing(Method):
    def begin(self, stage, masked):
        self.keep(masked, {name: torch.rand_like(w) for name, w in masked.weights.items()})


class Signed(Method):
    def begin(self, stage, masked):
        self.keep(masked, {name: w.detach() for name, w in masked.weights.items()})


class Misspelt(Method):
    def after_steps(self, stage, masked, optimizer, progress):
        pass


class Moving(Drawing):
    """Its masks go by a number of steps that it does not save."""

    steps = 0

    def after_step(self, stage, masked, optimizer, progress):
        self.steps += 1
        draw = torch.Generator().manual_seed(self.steps)
        scores = {n: torch.rand(w.shape, generator=draw) for n, w in masked.weights.items()}
        self.keep(masked, scores)


class Twice(Still):
    def stages(self, density, recipe):
        return 2 * super().stages(density, recipe)


class Median(Evaluator):
    def judge(self, model, images, labels, *, seed):
        return {self.metric: model(images).amax(1)}


class Generous(Evaluator):
    """An attack that finds nothing, renames nothing, and trains the network a little."""

    @property
    def refutes(self):
        return Threat("linf", 0.1)

    def judge(self, model, images, labels, *, seed):
        model[0].weight.data.add_(0.01)
        return {self.metric: torch.ones_like(labels, dtype=torch.bool), "other": labels}


class Remembering(Evaluator):
    def judge(self, model, images, labels, *, seed):
        seen.append(len(labels))
        return {self.metric: (labels + len(seen)) % 2 == 0}


seen: list[int] = []


class Bright(datasets.Dataset):
    """Images up to 255, and labels one too high."""

    num_classes: ClassVar[int] = 3
    channels: ClassVar[int] = 1
    image_size: ClassVar[int] = 4

    def open(self, *, train):
        images = torch.randint(1, 256, (40, 1, 4, 4), generator=torch.Generator().manual_seed(1))
        return TensorSource(images.float(), torch.arange(40) % 4)


class Askew(Structure):
    def reduce(self, importance):
        return importance.flatten(1).sum(1)

    def expand(self, entries, weight):
        rolled = entries.roll(1).view(-1, *[1] * (weight.ndim - 1))
        return rolled.expand_as(weight).contiguous()


class Empty(Allocation):
    def __call__(self, entries, density, shapes=None):
        next(iter(entries.values())).zero_()
        return dict.fromkeys(entries, 0)


def pruning(method: type[Method], pruner: type[Still] = Still) -> Pruner:
    class Made(pruner):
        made: ClassVar[type[Method]] = method

    return Made()


CASES: list[tuple[Any, Any, str]] = [
    (check_objective, Partial(), "gives_a_loss reaches_every_parameter"),
    (check_objective, Greedy(), "leaves_images_alone restores_modes"),
    (check_objective, Careless(), "draws_from_the_generator sees_no_pruned_weight"),
    (check_objective, Hasty(), "attacks_apart"),
    (
        check_pruner,
        pruning(Method),
        "keeps_the_density_from_the_start keeps_the_density_in_the_end",
    ),
    (check_pruner, pruning(Drawing), "draws_from_its_generator"),
    (check_pruner, pruning(Signed), "keeps_by_size"),
    (check_pruner, pruning(Misspelt), "misspells_no_hook"),
    (check_pruner, pruning(Moving), "stands_still_where_it_says goes_on_where_it_stopped"),
    (check_pruner, pruning(Drawing, Twice), "says_its_stages"),
    (check_evaluator, Median(), "gives_a_value_an_image summarises_in_numbers"),
    (
        check_evaluator,
        Generous(),
        "counts_no_misclassified_image is_renamed_by_its_label leaves_the_network_as_found",
    ),
    (check_evaluator, Remembering(), "follows_from_the_seed"),
    (check_dataset, Bright(), "gives_images_in_range"),
    (check_structure, Askew(), "keeps_whole_entries"),
    (check_allocation, Empty(), "comes_to_the_density keeps_everything_at_one takes_zeros"),
]


@pytest.mark.parametrize(("check", "liar", "promises"), CASES)
def test_a_broken_promise_is_named_with_what_was_seen(check: Any, liar: Any, promises: str) -> None:
    (contract,) = [c for base, c in CONTRACTS.items() if isinstance(liar, base)]
    with pytest.raises(AssertionError) as told:
        check(liar)
    for name in promises.split():
        (promise,) = [p for p in contract.promises if p.__name__ == name]
        assert f"{promise.__doc__.splitlines()[0].rstrip('.')}: " in str(told.value)
    assert type(liar).__name__ in str(told.value)


def test_fair_parts_keep_all() -> None:
    check_objective(Fair())
    check_pruner(pruners.create("magnitude"))
