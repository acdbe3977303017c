"""Bounds whose verdicts, time and memory are written into the test."""

from collections import defaultdict

import torch
from torch import nn

from robustprune.errors import UsageError
from robustprune.evaluators import cascade
from robustprune.evaluators.cascade import METHODS

EASY, NEVER = 0, 9


class Constant(nn.Module):
    """Gives class 0 to every image."""

    def forward(self, images):
        return torch.tensor([1.0, 0.0]).expand(len(images), 2)


def images(*levels):
    """An image a level, all of class 0: the bounds from that number on verify it."""
    pixels = torch.tensor(levels, dtype=torch.float32) / 10
    return pixels.view(-1, 1, 1, 1).expand(-1, 1, 5, 5), torch.zeros(len(levels), dtype=torch.int64)


class Script:
    """What happens, and what has happened.

    Attributes:
        calls: sizes of the batches that each bound was asked about, in order.
        levels: of the images on which each bound has spoken.
        options: radius and iterations of each call.
        built: how many graphs were built.
        room: how many images a bound takes at once before it runs out of memory.
        lacking: bounds that the library does not have.
        cost: what a call takes, in seconds of the clock.
        now: the clock.
        error: what running out of memory raises.
    """

    def __init__(self):
        self.calls, self.levels = defaultdict(list), defaultdict(list)
        self.built, self.now, self.cost = 0, 100.0, 0.0
        self.room, self.lacking = {}, set()
        self.error = torch.OutOfMemoryError("out of memory")
        self.options = []


def play(monkeypatch):
    """Put scripted bounds and a scripted clock in place of the real ones."""
    script = Script()

    class Bounds:
        num_classes = 2

        def __init__(self, model, images):
            script.built += 1
            self.stuck = False

        def fits(self, images):
            return True

        def margins(self, model, images, labels, *, eps, method, iterations):
            assert not self.stuck, "a graph that failed half-way is used again"
            script.options.append((eps, iterations))
            script.calls[method].append(len(images))
            if method in script.lacking:
                raise UsageError(f"auto-LiRPA has no {method} here.")
            if len(images) > script.room.get(method, len(images)):
                self.stuck = True
                raise script.error
            script.now += script.cost
            levels = (10 * images[:, 0, 0, 0]).round()
            script.levels[method] += levels.int().tolist()
            return torch.where(METHODS.index(method) >= levels, 1.0, -1.0)[:, None]

    monkeypatch.setattr(cascade, "Bounds", Bounds)
    monkeypatch.setattr(cascade, "monotonic", lambda: script.now)
    return script
