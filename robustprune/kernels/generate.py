"""LLVM IR of the kernels, as text. `plan.py` says with what they are called.

Every kernel is ``void kernel(job, share)``: pointers to fields of eight bytes. A job is one piece
of a network's work, and a share what one thread does of it. A vector holds one pixel of as many
images as it has floats, or as many pixels of one image.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from .emit import FLOAT, I32, I64, POINTER, Emitter
from .tiles import TileKind

SYMBOL, DRIVER = "kernel", "run"
SHARE = "#first_tile #last_tile #first #last scratch"
MAP_JOB = "x y residual mask lanes weights offsets rows bias tiles"
MAP_JOB += " #blocks #outputs #floor #stride #inputs #ahead"
"""A map's job: see `map_kernel`. Tiles are triples: bytes into x, into y, and into lanes or to the
next tile of x."""
POOL_JOB = "x y lanes tiles #stride_x #stride_y"
UNPOOL_JOB = "x y gradient_y gradient_x tiles #stride_x #stride_y #pixels #keep #masked"
ROWS_JOB = "x y residual weights offsets rows bias #floor"
SPLIT_JOB = "x y lanes #rows #vectors #stride_x #stride_y #row_x #row_y"
BATCH_JOB = "x y #pixels #image #stride"
CALL = "function job shares #meet"
"""A call; ``meet`` counts the meetings up to and with the one behind it, 0 if there is none."""


def map_kernel(
    kind: TileKind,
    *,
    width: int,
    unit: int,
    unroll: int,
    short: bool,
    residual: bool,
    mask: bool,
    lanes: bool,
    ahead: tuple[int, ...] = (),
) -> str:
    """A sparse linear map: ``y = max(W x + bias + residual, floor)``, a tile at a time.

    The weights are sorted by block of input channels, output channel and tap; ``rows`` has the
    number of the first of each. To each belongs an offset: the pixels from a tile's first to where
    it reads. Sums of all blocks but the last stay in ``scratch``.

    Args:
        kind: the outputs of a tile, and what its taps reach.
        width: floats of a vector.
        unit: bytes of a pixel.
        unroll: weights at a time, for tiles of few outputs.
        short: offsets have 16 bits, not 32.
        residual: add a map that is laid out as y is.
        mask: write zero where the map ``mask``, laid out as y is, is not above zero.
        lanes: ``lanes`` has bits to keep: zero where a lane of y is padding.
        ahead: pixels of the next tile to be asked for, so that they are near when it is its turn.
    """
    b = Emitter(SYMBOL, width)
    job, share = b.fields(b.arguments[0], MAP_JOB), b.fields(b.arguments[1], SHARE)
    count, size = len(kind.reads), 4 * width
    sums = [[b.alloca(b.vector) for _ in kind.reads] for _ in range(unroll)]

    def multiply(k: Any, active: tuple[int, ...], into: list[Any]) -> None:
        weight = b.splat(b.get(FLOAT, job["weights"], b.mul(k, b.number(4))))
        pixel = b.at(x, b.offset(job["offsets"], k, short=short, unit=unit))
        for i in active:
            value = b.get(b.vector, pixel, unit * kind.reads[i])
            b.store(b.fused(weight, value, b.load(into[i], typ=b.vector)), into[i])

    with b.loop(share["first_tile"], share["last_tile"]) as tile:
        place = b.at(job["tiles"], b.mul(tile, b.number(24)))
        x, y = b.at(job["x"], b.get(I64, place)), b.get(I64, place, 8)
        with b.loop(b.number(0), job["blocks"]) as block:
            is_first = b.icmp_signed("==", block, b.number(0))
            is_last = b.icmp_signed("==", b.add(block, b.number(1)), job["blocks"])
            with b.loop(share["first"], share["last"]) as output:
                channel = b.add(y, b.mul(output, job["stride"]))
                kept = b.at(share["scratch"], b.mul(output, b.number(count * size)))
                with b.if_else(is_first) as (at_first, later):
                    with at_first:
                        start = b.splat(b.get(FLOAT, job["bias"], b.mul(output, b.number(4))))
                        for i, total in enumerate(sums[0]):
                            value = start
                            if residual:
                                there = b.at(job["residual"], channel)
                                value = b.fadd(start, b.get(b.vector, there, unit * kind.writes[i]))
                            b.store(value, total)
                    with later:
                        for i, total in enumerate(sums[0]):
                            b.store(b.get(b.vector, kept, i * size), total)
                for more in sums[1:]:
                    for total in more:
                        b.store(b.zeros(), total)
                if ahead:
                    there = b.icmp_signed("<", output, job["inputs"])
                    with b.if_then(b.and_(is_first, there)):
                        next_tile = b.at(job["x"], b.get(I64, place, 16))
                        channel_of_it = b.at(next_tile, b.mul(output, job["ahead"]))
                        for pixel in ahead:
                            b.prefetch(channel_of_it, unit * pixel)
                    with b.if_then(is_last):
                        for write in kind.writes if not kind.pools else ():
                            b.prefetch(b.at(job["y"], channel), unit * write, write=True)
                    if residual:
                        later_one = b.at(job["residual"], b.add(channel, job["stride"]))
                        with b.if_then(is_first):
                            for write in kind.writes:
                                b.prefetch(later_one, unit * write)
                row = b.add(b.mul(block, job["outputs"]), output)
                rows = b.at(job["rows"], b.mul(row, b.number(4 * kind.segments)))
                for start_segment, end_segment, active in kind.runs:
                    k, end = b.index(rows, 4 * start_segment), b.index(rows, 4 * end_segment)
                    if unroll > 1:
                        whole = b.add(k, b.and_(b.sub(end, k), b.number(-unroll)))
                        with b.loop(k, whole, unroll) as at:
                            for u in range(unroll):
                                multiply(b.add(at, b.number(u)), active, sums[u])
                        k = whole
                    with b.loop(k, end) as at:
                        multiply(at, active, sums[0])
                found = []
                for i in range(count):
                    value = b.load(sums[0][i], typ=b.vector)
                    for more in sums[1:]:
                        value = b.fadd(value, b.load(more[i], typ=b.vector))
                    found.append(value)
                with b.if_else(is_last) as (at_last, sooner):
                    with at_last:
                        floor = b.splat(b.bitcast(b.trunc(job["floor"], I32), FLOAT))
                        final = [b.at_least(value, floor) for value in found]
                        if mask:
                            there = b.at(job["mask"], channel)
                            for i, value in enumerate(final):
                                shown = b.get(b.vector, there, unit * kind.writes[i])
                                alive = b.fcmp_ordered(">", shown, b.zeros())
                                final[i] = b.select(alive, value, b.zeros())
                        if lanes:
                            bits = b.at(job["lanes"], b.get(I64, place, 16))
                            for i, value in enumerate(final):
                                keep = b.get(b.integers, bits, unit * kind.writes[i])
                                both = b.and_(b.bitcast(value, b.integers), keep)
                                final[i] = b.bitcast(both, b.vector)
                        to = b.at(job["y"], channel)
                        for group, offset in kind.pools:
                            value = final[group[0]]
                            for other in group[1:]:
                                value = _larger(b, value, final[other])
                            b.put(value, to, unit * offset)
                        if not kind.pools:
                            for i, value in enumerate(final):
                                b.put(value, to, unit * kind.writes[i])
                    with sooner:
                        for i, value in enumerate(found):
                            b.put(value, kept, i * size)
    return b.text()


def pool_kernel(
    kind: TileKind, taps: tuple[int, ...], *, width: int, unit: int, lanes: bool
) -> str:
    """Max pooling; ``taps`` are the pixels from a tile's first to where each reads."""
    b = Emitter(SYMBOL, width)
    job, share = b.fields(b.arguments[0], POOL_JOB), b.fields(b.arguments[1], SHARE)
    lowest = b.splat(ir.Constant(FLOAT, float("-inf")))
    with b.loop(share["first_tile"], share["last_tile"]) as tile:
        place = b.at(job["tiles"], b.mul(tile, b.number(24)))
        with b.loop(share["first"], share["last"]) as channel:
            x = b.at(job["x"], b.add(b.get(I64, place), b.mul(channel, job["stride_x"])))
            y = b.at(job["y"], b.add(b.get(I64, place, 8), b.mul(channel, job["stride_y"])))
            for i, (read, write) in enumerate(zip(kind.reads, kind.writes, strict=True)):
                value = lowest
                for first, last, active in kind.runs:
                    for tap in range(first, last) if i in active else ():
                        value = _larger(b, value, b.get(b.vector, x, unit * (read + taps[tap])))
                if lanes:
                    bits = b.at(job["lanes"], b.get(I64, place, 16))
                    keep = b.get(b.integers, bits, unit * write)
                    value = b.bitcast(b.and_(b.bitcast(value, b.integers), keep), b.vector)
                b.put(value, y, unit * write)
    return b.text()


def unpool_kernel(
    kinds: tuple[tuple[TileKind, int, int], ...], taps: tuple[int, ...], *, width: int
) -> str:
    """The way back of max pooling: a pixel's gradient goes to the first of its largest inputs.

    Args:
        kinds: tiles of one output, with the numbers of their first and last place in ``tiles``.
        taps: as in `pool_kernel`.
        width: floats of a vector, one pixel.
    """
    b, unit = Emitter(SYMBOL, width), 4 * width
    job, share = b.fields(b.arguments[0], UNPOOL_JOB), b.fields(b.arguments[1], SHARE)
    with b.loop(share["first"], share["last"]) as channel:
        x, to = (b.at(job[name], b.mul(channel, job["stride_x"])) for name in ("x", "gradient_x"))
        y, given = (
            b.at(job[name], b.mul(channel, job["stride_y"])) for name in ("y", "gradient_y")
        )
        clear = b.select(b.icmp_signed("==", job["keep"], b.number(0)), job["pixels"], b.number(0))
        with b.loop(b.number(0), clear) as pixel:
            b.put(b.zeros(), to, b.mul(pixel, b.number(unit)))
        # where values at or below zero get no gradient, nothing equals infinity
        masked = b.icmp_signed("!=", job["masked"], b.number(0))
        least = b.splat(b.select(masked, *(ir.Constant(FLOAT, n) for n in (0.0, float("-inf")))))
        for kind, first_place, last_place in kinds:
            with b.loop(b.number(first_place), b.number(last_place)) as tile:
                place = b.at(job["tiles"], b.mul(tile, b.number(24)))
                from_x, from_y = b.get(I64, place), b.get(I64, place, 8)
                left = b.get(b.vector, b.at(given, from_y))
                largest = b.get(b.vector, b.at(y, from_y))
                for first, last, active in kind.runs:
                    for tap in range(first, last) if active else ():
                        offset = b.add(from_x, b.number(unit * taps[tap]))
                        value = b.get(b.vector, b.at(x, offset))
                        same = b.fcmp_ordered("==", value, largest)
                        alive = b.and_(same, b.fcmp_ordered(">", value, least))
                        before = b.get(b.vector, b.at(to, offset))
                        share_of_it = b.select(alive, left, b.zeros())
                        b.put(b.fadd(before, share_of_it), b.at(to, offset))
                        left = b.select(same, b.zeros(), left)
    return b.text()


def rows_kernel(*, width: int, residual: bool) -> str:
    """A sparse matrix times one image's values, which stand wherever the pairs say.

    Rows are filled up to whole vectors with weights of zero.
    """
    b = Emitter(SYMBOL, width)
    job, share = b.fields(b.arguments[0], ROWS_JOB), b.fields(b.arguments[1], SHARE)
    total = b.alloca(b.vector)
    pointers = ir.VectorType(POINTER, width)
    bits = ir.VectorType(ir.IntType(1), width)
    gather = f"llvm.masked.gather.v{width}f32.v{width}p0"
    with b.loop(share["first"], share["last"]) as output:
        rows = b.at(job["rows"], b.mul(output, b.number(4)))
        b.store(b.zeros(), total)
        with b.loop(b.index(rows), b.index(rows, 4), width) as k:
            here = b.mul(k, b.number(4))
            offsets = b.sext(b.get(b.integers, job["offsets"], here), ir.VectorType(I64, width))
            weights = b.get(b.vector, job["weights"], here)
            where = _gep_vector(b, job["x"], offsets, pointers)
            every = ir.Constant(bits, [1] * width)
            values = b.call_intrinsic(
                gather, b.vector, where, ir.Constant(I32, 4), every, b.zeros()
            )
            b.store(b.fused(weights, values, b.load(total, typ=b.vector)), total)
        at = b.mul(output, b.number(4))
        value = b.get(FLOAT, job["bias"], at)
        if residual:
            value = b.fadd(value, b.get(FLOAT, job["residual"], at))
        lanes = b.load(total, typ=b.vector)
        span = width
        while span > 1:  # halves are added until one is left
            span //= 2
            order = [(i + span) % width for i in range(width)]
            lanes = b.fadd(lanes, b.shuffle_vector(lanes, lanes, ir.Constant(b.integers, order)))
        value = b.fadd(value, b.extract_element(lanes, ir.Constant(I32, 0)))
        floor = b.bitcast(b.trunc(job["floor"], I32), FLOAT)
        b.put(b.at_least(value, floor), job["y"], at)
    return b.text()


def split_kernel(*, width: int, step: int) -> str:
    """Every so-manieth row and column of a map as maps of their own, so that strides become one."""
    b = Emitter(SYMBOL, width)
    job, share = b.fields(b.arguments[0], SPLIT_JOB), b.fields(b.arguments[1], SHARE)
    apart = [ir.Constant(b.integers, [(i * step + p) for i in range(width)]) for p in range(step)]
    with b.loop(share["first"], share["last"]) as channel:
        x = b.at(job["x"], b.mul(channel, job["stride_x"]))
        y = b.at(job["y"], b.mul(channel, b.mul(job["stride_y"], b.number(step * step))))
        with b.loop(b.number(0), job["rows"]) as row:
            for a in range(step):
                line = b.at(x, b.mul(b.add(b.mul(row, b.number(step)), b.number(a)), job["row_x"]))
                for p in range(step):
                    part = b.at(y, b.mul(job["stride_y"], b.number(a * step + p)))
                    part = b.at(part, b.mul(row, job["row_y"]))
                    with b.loop(b.number(0), job["vectors"]) as v:
                        to = b.mul(v, b.number(4 * width))
                        there = b.at(line, b.mul(to, b.number(step)))
                        if step == 2:
                            pair = [b.get(b.vector, there, 4 * width * n) for n in (0, 1)]
                            value = b.shuffle_vector(pair[0], pair[1], apart[p])
                        else:
                            value = b.zeros()
                            for i in range(width):
                                one = b.get(FLOAT, there, 4 * (i * step + p))
                                value = b.insert_element(value, one, ir.Constant(I32, i))
                        keep = b.get(
                            b.integers,
                            b.at(
                                job["lanes"],
                                b.mul(b.number(p), b.mul(job["vectors"], b.number(4 * width))),
                            ),
                            to,
                        )
                        value = b.bitcast(b.and_(b.bitcast(value, b.integers), keep), b.vector)
                        b.put(value, b.at(part, to))
    return b.text()


def batch_kernel(*, width: int, gather: bool) -> str:
    """Images, one after the other, to vectors of one pixel of each (``gather``), or back.

    Vectors of so many pixels are transposed at a time; what is left over goes one by one.
    """
    b = Emitter(SYMBOL, width)
    job, share = b.fields(b.arguments[0], BATCH_JOB), b.fields(b.arguments[1], SHARE)
    whole = b.and_(job["pixels"], b.number(-width))
    with b.loop(share["first"], share["last"]) as channel:
        near = b.mul(channel, b.mul(job["pixels"], b.number(4)))
        far = b.mul(channel, job["stride"])
        x, y = (job["x"], job["y"]) if gather else (job["y"], job["x"])
        planes = [b.at(x, b.add(near, b.mul(job["image"], b.number(i)))) for i in range(width)]
        vectors = b.at(y, far)
        with b.loop(b.number(0), whole, width) as pixel:
            at = b.mul(pixel, b.number(4))
            to = b.at(vectors, b.mul(at, b.number(width)))
            if gather:
                for i, value in enumerate(_transposed(b, [b.get(b.vector, p, at) for p in planes])):
                    b.put(value, to, 4 * width * i)
            else:
                square = [b.get(b.vector, to, 4 * width * i) for i in range(width)]
                for plane, value in zip(planes, _transposed(b, square), strict=True):
                    b.put(value, plane, at)
        with b.loop(whole, job["pixels"]) as pixel:
            at = b.mul(pixel, b.number(4))
            to = b.at(vectors, b.mul(at, b.number(width)))
            for i, plane in enumerate(planes):
                if gather:
                    b.put(b.get(FLOAT, plane, at), to, 4 * i)
                else:
                    b.put(b.get(FLOAT, to, 4 * i), plane, at)
    return b.text()


def weight_gradient_kernel(kind: TileKind, *, width: int, unit: int, short: bool) -> str:
    """Gradients of kept weights: for each, the sum over pixels and images of input times gradient.

    The job is a map's, with the output's gradient as y and the sums as ``bias``.
    """
    b = Emitter(SYMBOL, width)
    job, share = b.fields(b.arguments[0], MAP_JOB), b.fields(b.arguments[1], SHARE)
    with b.loop(share["first_tile"], share["last_tile"]) as tile:
        place = b.at(job["tiles"], b.mul(tile, b.number(24)))
        x, y = b.at(job["x"], b.get(I64, place)), b.at(job["y"], b.get(I64, place, 8))
        with b.loop(share["first"], share["last"]) as output:
            given = b.at(y, b.mul(output, job["stride"]))
            values = [b.get(b.vector, given, unit * write) for write in kind.writes]
            rows = b.at(job["rows"], b.mul(output, b.number(4 * kind.segments)))
            for first, last, active in kind.runs:
                with b.loop(b.index(rows, 4 * first), b.index(rows, 4 * last)) as k:
                    pixel = b.at(x, b.offset(job["offsets"], k, short=short, unit=unit))
                    sums = [b.zeros() for _ in range(min(4, len(active)))]
                    for number, i in enumerate(active):
                        value = b.get(b.vector, pixel, unit * kind.reads[i])
                        lane = number % len(sums)
                        sums[lane] = b.fused(values[i], value, sums[lane])
                    total = sums[0]
                    for more in sums[1:]:
                        total = b.fadd(total, more)
                    span = width
                    while span > 1:
                        span //= 2
                        order = [(i + span) % width for i in range(width)]
                        total = b.fadd(
                            total, b.shuffle_vector(total, total, ir.Constant(b.integers, order))
                        )
                    to = b.at(job["bias"], b.mul(k, b.number(4)))
                    one = b.extract_element(total, ir.Constant(I32, 0))
                    b.put(b.fadd(b.get(FLOAT, to), one), to)
    return b.text()


def driver() -> str:
    """``run(calls, count, thread, threads, barrier, yield)``: one thread's part of all calls.

    Threads meet after a call that says so: they count themselves in, and wait until all have. Those
    that wait let others run (``yield``, of the C library) after a while.
    """
    b = Emitter(DRIVER, 4, (POINTER, I64, I64, I64, POINTER, POINTER))
    calls, count, thread, threads, barrier, let_others = b.arguments
    signature = ir.FunctionType(ir.VoidType(), [POINTER, POINTER])
    others = b.icmp_signed(">", threads, b.number(1))
    with b.loop(b.number(0), count) as number:
        call = b.fields(b.at(calls, b.mul(number, b.number(32))), CALL)
        share = b.at(call["shares"], b.mul(thread, b.number(40)))
        b.call(_Function(call["function"], signature), [call["job"], share])
        meets = b.icmp_signed(">", call["meet"], b.number(0))
        with b.if_then(b.and_(others, meets)):
            b.atomic_rmw("add", barrier, b.number(1), "seq_cst")
            goal = b.mul(call["meet"], threads)
            wait, slow, done = (b.function.append_basic_block() for _ in range(3))
            before = b.block
            b.branch(wait)
            b.position_at_end(wait)
            turns = b.phi(I64)
            turns.add_incoming(b.number(0), before)
            seen = b.load_atomic(barrier, "seq_cst", 8, typ=I64)
            b.cbranch(b.icmp_signed("<", seen, goal), slow, done)
            b.position_at_end(slow)
            more = b.add(turns, b.number(1))
            with b.if_then(b.icmp_signed(">", more, b.number(2000))):
                b.call(_Function(let_others, ir.FunctionType(I32, [])), [])
            turns.add_incoming(more, b.block)
            b.branch(wait)
            b.position_at_end(done)
    return b.text()


class _Function:
    """A pointer that a builder calls: llvmlite knows no types of what is behind pointers."""

    def __init__(self, pointer: Any, kind: ir.FunctionType) -> None:
        self.type, self.function_type = pointer.type, kind
        self.get_reference = pointer.get_reference


def _gep_vector(b: Emitter, base: Any, offsets: Any, kind: Any) -> Any:
    found = b.gep(base, [offsets], source_etype=ir.IntType(8))
    found.type = kind
    return found


def _larger(b: Emitter, one: Any, other: Any) -> Any:
    """The larger of two vectors; NaN where one is NaN."""
    return b.select(
        b.fcmp_unordered("<", one, other),
        b.select(b.fcmp_unordered("uno", one, one), one, other),
        one,
    )


def _transposed(b: Emitter, rows: list[Any]) -> list[Any]:
    """A square of vectors, mirrored: halves are exchanged at each distance."""
    width, step = b.width, 1
    while step < width:
        low = [i if not i & step else width + i - step for i in range(width)]
        high = [i + step if not i & step else width + i for i in range(width)]
        for i in range(width):
            if not i & step:
                one, other = rows[i], rows[i + step]
                rows[i] = b.shuffle_vector(one, other, ir.Constant(b.integers, low))
                rows[i + step] = b.shuffle_vector(one, other, ir.Constant(b.integers, high))
        step *= 2
    return rows
