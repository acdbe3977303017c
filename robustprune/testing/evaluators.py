"""The contract of evaluators: one value an image, from batch, network and seed alone."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from robustprune.evaluators import Evaluator
from robustprune.evaluators.accuracy import PerImage, interval
from robustprune.testing.contract import Contract, changed, expect, joined
from robustprune.types import Batch

EVALUATORS = Contract("judge", "summarise")
_WRONG = 2


def network() -> nn.Sequential:
    """Six classes of images of 1×5×5, with everything that makes the mode matter."""
    torch.manual_seed(0)
    convolution = [nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5)]
    return nn.Sequential(*convolution, nn.Flatten(), nn.Linear(75, 6))


def data() -> list[Batch]:
    """Batches of seven and two images with the network's own labels; the first two are false."""
    images = 0.3 + 0.4 * torch.rand(9, 1, 5, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        labels = network().eval()(images).argmax(1)
    labels[:_WRONG] = (labels[:_WRONG] + 1) % 6
    pairs = zip(torch.split(images, [7, 2]), torch.split(labels, [7, 2]), strict=True)
    return [Batch(number, *pair) for number, pair in enumerate(pairs)]


def results(
    evaluator: Evaluator, model: nn.Module | None = None, *, seed: int = 0
) -> list[PerImage]:
    """The evaluator's results, batch by batch."""
    judged = network() if model is None else model
    return list(evaluator.evaluate(judged, data(), seed=seed, network="dense"))


@EVALUATORS.promise
def gives_a_value_an_image(evaluator: Evaluator) -> None:
    """Its judge gives the metric for each image, without a graph."""
    for found, (_, _, labels) in zip(results(evaluator), data(), strict=True):
        expect(evaluator.metric in found, f"no entry '{evaluator.metric}' in {joined(found)}")
        expect(found[evaluator.metric].dtype == torch.bool, "its metric is not boolean")
        for name, values in found.items():
            expect(len(values) == len(labels), f"'{name}' has {len(values)} for {len(labels)}")
            expect(not values.requires_grad, f"'{name}' wants a gradient: detach it")


@EVALUATORS.promise
def summarises_in_numbers(evaluator: Evaluator) -> None:
    """Its numbers are finite, and the accuracy is the share of True, with its interval."""
    first, second = results(evaluator)
    images: dict[str, Tensor] = {key: torch.cat([first[key], second[key]]) for key in first}
    metrics, name = evaluator.summarise(images), evaluator.metric
    json.dumps(metrics, allow_nan=False)
    right = int(images[name].sum())
    expect(metrics.get(name) == right / 9, f"'{name}' is {metrics.get(name)}, not {right}/9")
    expect(metrics.get(f"{name}_n") == 9, f"'{name}_n' is {metrics.get(f'{name}_n')}, not 9")
    expect(metrics.get(f"{name}_interval") == list(interval(right, 9)), f"no '{name}_interval'")


@EVALUATORS.promise
def names_one_ball(evaluator: Evaluator) -> None:
    """It refutes a ball, claims one, or neither; the ball has a norm and a radius."""
    balls = [ball for ball in (evaluator.refutes, evaluator.claims) if ball is not None]
    expect(len(balls) < 2, "it refutes and claims at once")
    for ball in balls:
        fits = ball.norm in ("linf", "l2") and ball.eps > 0
        expect(fits, f"{ball!r}: the norm is linf or l2, and eps above 0")


@EVALUATORS.promise
def counts_no_misclassified_image(evaluator: Evaluator) -> None:
    """An attack, or a certificate, never counts an image that is misclassified untouched."""
    if evaluator.refutes or evaluator.claims:
        counted = int(results(evaluator)[0][evaluator.metric][:_WRONG].sum())
        expect(not counted, f"it counts {counted} of {_WRONG}: judge the untouched images too")


@EVALUATORS.promise
def is_renamed_by_its_label(evaluator: Evaluator) -> None:
    """The label renames its metric, and everything that it gives."""
    found = results(changed(evaluator, label="mine"))[0]
    expect("mine" in found, f"no entry 'mine' in {joined(found)}: call it self.metric")
    others = [name for name in found if not name.startswith("mine")]
    expect(not others, f"names that do not begin with the label: {joined(others)}")


@EVALUATORS.promise
def leaves_the_network_as_found(evaluator: Evaluator) -> None:
    """Weights, statistics, modes and gradients of the network are left as they were."""
    model = network().train()
    model[1].eval()
    model[0].bias.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    results(evaluator, model)
    wrong = [
        key for key, value in model.state_dict().items() if not torch.equal(before[key], value)
    ]
    expect(not wrong, f"it changes {joined(wrong)}")
    modes = [module.training for module in model.modules()]
    expect(modes == [one is not model[1] for one in model.modules()], "modes differ")
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    expect(wanted == [True, False] + [True] * 4, "other weights want gradients")
    expect(all(p.grad is None for p in model.parameters()), "gradients are left on the weights")


@EVALUATORS.promise
def follows_from_the_seed(evaluator: Evaluator) -> None:
    """The same seed gives the same results, whatever was drawn, or judged, before."""
    first = results(evaluator)
    torch.manual_seed(12345)
    with torch.no_grad():
        second = results(evaluator)
    alone = list(evaluator.evaluate(network(), data()[1:], seed=0, network="dense"))
    for one, other in zip([*first, first[1]], [*second, *alone], strict=True):
        wrong = [key for key, values in one.items() if not torch.equal(values, other[key])]
        expect(not wrong, f"other values of {joined(wrong)}: keep nothing between batches")


@EVALUATORS.promise
def leaves_generators_alone(evaluator: Evaluator) -> None:
    """The global generators are left as they were."""
    states: list[Callable[[], object]] = [
        lambda: torch.get_rng_state().tolist(),
        lambda: str(np.random.get_state()),
        random.getstate,
    ]
    model, batches = network(), data()
    before = [state() for state in states]
    list(evaluator.evaluate(model, batches, seed=0, network="dense"))
    expect([state() for state in states] == before, "a global generator has moved")


@EVALUATORS.promise
def takes_channels_last(evaluator: Evaluator) -> None:
    """Networks may be channels-last."""
    results(evaluator, network().to(memory_format=torch.channels_last))
