"""Programs: networks that are ready to compute."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakSet

import numpy as np

from . import jit
from .images import ImagesPlan, Sums
from .lower import Map, Unsupported, lowered
from .operations import Array, Operation
from .pixels import PixelsPlan
from .plan import Arena, Plan, aligned

FEW = 4
"""Images that go one by one rather than as a group, unless something else is asked for."""


TRIES = 4
"""Items that threads share, and that they do not, until it is known which is faster."""

Start = Callable[[int, int], tuple[Arena, Array]]
End = Callable[[int, Arena, Array], None]


class Tape:
    """The memory of a batch that went forward: what the way back needs.

    Attributes:
        count: images.
        arenas: the memory of each group of images.
    """

    def __init__(self, count: int, give_back: Callable[[Arena], None]) -> None:
        self.count, self.arenas = count, dict[int, Arena]()
        self._give_back = give_back

    def __del__(self) -> None:
        for arena in self.arenas.values():
            self._give_back(arena)


class Program:
    """A network that is ready to compute. It may be called by several threads, one at a time.

    What an image gets does not depend on the number of threads, but, in its last bits, on whether
    it goes alone or in a group.

    Args:
        operations: the network.
        shape: of one image, ``(C, H, W)`` or ``(F,)``.
        threads: that compute together.
        few: batches, and what is left over of a batch, of at most so many images go one by one;
            more go in groups of as many as a vector of this CPU has floats.
        weights: let `backward` give the gradients of kept weights, too.

    Raises:
        Unavailable: this machine has no kernels.
        Unsupported: there are no kernels for an operation, or a size.
    """

    def __init__(
        self, operations: Sequence[Operation], shape: tuple[int, ...], *, threads: int = 1,
        few: int = FEW, weights: bool = False,
    ) -> None:  # fmt: skip
        if reason := jit.available():
            raise jit.Unavailable(reason)
        self.shape, self.threads, self.few = tuple(shape), threads, few
        self.network = lowered(operations, self.shape)
        channels, height, width = self.network.shapes[self.network.output]
        self.output_shape = (
            (channels * height * width,) if self.network.vector else (channels, height, width)
        )
        self._weights, self._width = weights, jit.vector_width()
        self._plans: dict[tuple[str, int], Plan] = {}
        self._free: dict[Plan, list[Arena]] = {}
        self._seconds: dict[str, dict[bool, list[float]]] = {}
        self._begin()
        _programs.add(self)
        if few:
            try:
                self._plan("pixels", 1)
            except Unsupported:
                self.few = 0

    def _begin(self) -> None:
        """Make what a process has for itself."""
        self._lock = threading.RLock()
        self._pool = ThreadPoolExecutor(self.threads - 1) if self.threads > 1 else None

    def __call__(self, images: Array) -> Array:
        """The outputs, ``(N, *output_shape)``, of images ``(N, *shape)``."""
        images = self._checked(images)
        output = self._memory(len(images), self.output_shape)
        rest = len(images) % self._width
        together = len(images) - rest if rest <= self.few else len(images)
        with self._lock:
            if together:
                self._by_group("images", images[:together], output[:together])
            if together < len(images):
                self._one_by_one(images[together:], output[together:])
        return output

    def forward(self, images: Array) -> tuple[Array, Tape]:
        """The outputs, and what `backward` needs."""
        images = self._checked(images)
        output = self._memory(len(images), self.output_shape)
        tape = Tape(len(images), self._give_back)
        with self._lock:
            self._by_group("gradients", images, output, tape)
        return output, tape

    def backward(self, tape: Tape, gradient: Array) -> Array:
        """The gradient of the images from that of the outputs; a tape may be used again."""
        if gradient.shape != (tape.count, *self.output_shape):
            raise ValueError(f"a gradient of {gradient.shape} for {tape.count} outputs")
        found = self._memory(tape.count, self.shape)
        with self._lock:
            for arena in tape.arenas.values():
                for (kind, _), memory in arena.buffers.items():
                    if kind == "sums":
                        memory[:] = 0
            gradient = np.ascontiguousarray(gradient, np.float32)
            self._by_group("gradients", gradient, found, tape, back=True)
        return found

    def weight_gradients(self, tape: Tape) -> dict[int, Array]:
        """The gradients of kept weights, after `backward`.

        Returns:
            For each operation that has weights and that the output needs, by its number, an array
            of their shape, zero where they are pruned; of an affine operation that of its scale.
        """
        found = {}
        for node in self.network.nodes:
            if not isinstance(node, Map) or (operation := node.weights.operation) is None:
                continue
            plan = tape.arenas[0].plan if tape.arenas else self._plan("gradients", 1)
            assert isinstance(plan, ImagesPlan)
            order = plan.orders[operation]
            total = np.zeros(len(order), np.float32)
            for group in sorted(tape.arenas):
                total += tape.arenas[group].buffers["sums", Sums(operation, len(order))]
            values: Array = np.empty_like(total)
            values[order] = total
            if node.weights.where is not None:
                spread = np.zeros(node.weights.shape, np.float32)
                spread.reshape(-1)[node.weights.where] = values
                values = spread
            found[operation] = values
        return found

    def set_arrays(self, arrays: Sequence[Mapping[str, Array]]) -> None:
        """Take over new values, a mapping for each operation; what was zero at first stays zero."""
        with self._lock:
            for node in self.network.nodes:
                if not isinstance(node, Map) or node.weights.operation is None:
                    continue
                weights, new = node.weights, arrays[node.weights.operation]
                if weights.where is None:
                    weights.values[:], weights.bias[:] = new["scale"], new["shift"]
                else:
                    weights.values[:] = new["weight"].reshape(-1)[weights.where]
                    weights.bias[:] = new["bias"]
            for plan in self._plans.values():
                for table in plan.tables:
                    table.refresh()

    def _checked(self, images: Array) -> Array:
        if images.shape[1:] != self.shape:
            raise ValueError(f"images of {images.shape[1:]}; the network takes {self.shape}")
        return np.ascontiguousarray(images, np.float32)

    def _memory(self, count: int, shape: tuple[int, ...]) -> Array:
        return aligned(count * int(np.prod(shape))).reshape(count, *shape)

    def _plan(self, kind: str, team: int) -> Plan:
        if (kind, team) not in self._plans:
            self._plans[kind, team] = (
                PixelsPlan(self.network, team)
                if kind == "pixels"
                else ImagesPlan(
                    self.network, team, backward=kind == "gradients", weights=self._weights
                )
            )
        return self._plans[kind, team]

    def _take(self, kind: str, team: int) -> Arena:
        plan = self._plan(kind, team)
        try:
            return self._free.setdefault(plan, []).pop()
        except IndexError:
            return Arena(plan)

    def _give_back(self, arena: Arena) -> None:
        self._free[arena.plan].append(arena)

    def _by_group(
        self, kind: str, x: Array, y: Array, tape: Tape | None = None, *, back: bool = False
    ) -> None:
        """Compute ``y`` from ``x``, a vector of images at a time."""
        width = self._width

        def start(group: int, team: int) -> tuple[Arena, Array]:
            arena = tape.arenas[group] if tape and back else self._take(kind, team)
            if tape:
                tape.arenas[group] = arena
            part, target = (array[group * width : (group + 1) * width] for array in (x, y))
            if (count := len(part)) < width:  # the rest is zero, and is forgotten
                whole = self._memory(width, x.shape[1:])
                whole[:count] = part
                part, target = whole, self._memory(width, y.shape[1:])
            arena = arena.back if back else arena
            arena.aim(part, target)
            return arena, target

        def end(group: int, arena: Arena, target: Array) -> None:
            place = y[group * width : (group + 1) * width]
            if len(place) < width:
                place[:] = target[: len(place)]
            if tape is None:
                self._give_back(arena)

        as_before = [one.plan.team > 1 for _, one in sorted(tape.arenas.items())] if tape else []
        self._spread(kind, -(-len(x) // width), start, end, as_before if back else None)

    def _one_by_one(self, x: Array, y: Array) -> None:
        """Compute ``y`` from ``x``, a vector of pixels at a time."""

        def start(number: int, team: int) -> tuple[Arena, Array]:
            arena = self._take("pixels", team)
            arena.aim()
            view = arena.view(0)
            view[:] = x[number].reshape(view.shape)
            return arena, y[number]

        def end(number: int, arena: Arena, target: Array) -> None:
            target[:] = arena.view(self.network.output).reshape(target.shape)
            self._give_back(arena)

        self._spread("pixels", len(x), start, end)

    def _spread(
        self, kind: str, count: int, start: Start, end: End, shared: list[bool] | None = None
    ) -> None:
        """Compute all items: as many as there are threads at a time, then what is left.

        Threads share an item that is left only if that was seen to be faster: they pass much of it
        to one another, and wait for one that has other work. What is computed is the same.

        Args:
            kind: of plan.
            count: of items.
            start: takes an item and the number of threads; gives memory that is ready, and where
                what comes of it goes.
            end: takes the item and both when it is done.
            shared: whether threads share each item, where its memory was made for that or not.
        """
        pool, threads, whole = self._pool, self.threads, count // self.threads
        self._plan(kind, 1)

        def several(items: range) -> None:
            for item in items:
                arena, target = start(item, 1)
                arena.run()
                end(item, arena, target)

        if whole:
            parts = [range(whole * thread, whole * (thread + 1)) for thread in range(threads)]
            others = [pool.submit(several, part) for part in parts[1:]] if pool else []
            several(parts[0])
            for other in others:
                other.result()
        for item in range(whole * threads, count):
            together = self._faster_shared(kind) if shared is None else shared[item]
            begun = time.perf_counter()
            if together:
                self._share(item, start, end)
            else:
                several(range(item, item + 1))
            if shared is None and len(self._seconds[kind][together]) < TRIES:
                self._seconds[kind][together].append(time.perf_counter() - begun)

    def _faster_shared(self, kind: str) -> bool:
        """True if an item is to be shared: that is faster, or is to be found out now."""
        seconds = self._seconds.setdefault(kind, {True: [], False: []})

        def rank(way: bool) -> tuple[bool, float]:
            return len(seconds[way]) >= TRIES, min(seconds[way], default=0.0)

        return min(seconds, key=rank)

    def _share(self, item: int, start: Start, end: End) -> None:
        """Compute one item with all threads."""
        assert self._pool is not None  # one thread leaves nothing
        arena, target = start(item, self.threads)
        try:
            members = [self._pool.submit(arena.run, thread) for thread in range(1, self.threads)]
            arena.run()
        except BaseException:  # no more threads can be had, or the user interrupts
            arena.let_go()
            raise
        for member in members:
            member.result()
        end(item, arena, target)


_programs: WeakSet[Program] = WeakSet()


def _forked() -> None:
    """A fork leaves threads behind, and locks as they were."""
    for program in _programs:
        program._begin()


os.register_at_fork(after_in_child=_forked)
