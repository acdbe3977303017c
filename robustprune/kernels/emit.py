"""Small words for writing LLVM IR: loops, vectors, memory at byte offsets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
FLOAT, POINTER = ir.FloatType(), ir.PointerType()


class Emitter(ir.IRBuilder):
    """A builder at the start of a function ``void symbol(pointer, pointer, …)``.

    Attributes:
        width: floats of a vector.
        arguments: the function's.
    """

    def __init__(self, symbol: str, width: int, parameters: Sequence[Any] = (POINTER,) * 2) -> None:
        self.width = width
        self.vector = ir.VectorType(FLOAT, width)
        self.integers = ir.VectorType(I32, width)
        self._module = ir.Module(symbol)
        kind = ir.FunctionType(ir.VoidType(), parameters)
        function = ir.Function(self._module, kind, symbol)
        self.arguments = function.args
        super().__init__(function.append_basic_block("entry"))

    def text(self) -> str:
        """The module, with the function ended."""
        self.ret_void()
        return str(self._module)

    def number(self, value: int) -> Any:
        """A constant of 64 bits."""
        return ir.Constant(I64, value)

    @contextmanager
    def loop(self, start: Any, stop: Any, step: int = 1) -> Iterator[Any]:
        """Go through ``range(start, stop, step)``; the context is the body."""
        head, body, end = (self.function.append_basic_block() for _ in range(3))
        before = self.block
        self.branch(head)
        self.position_at_end(head)
        index = self.phi(I64)
        index.add_incoming(start, before)
        self.cbranch(self.icmp_signed("<", index, stop), body, end)
        self.position_at_end(body)
        yield index
        index.add_incoming(self.add(index, self.number(step)), self.block)
        self.branch(head)
        self.position_at_end(end)

    def at(self, pointer: Any, offset: Any) -> Any:
        """The address so many bytes behind a pointer."""
        offset = self.number(offset) if isinstance(offset, int) else offset
        return self.gep(pointer, [offset], source_etype=I8)

    def get(self, kind: Any, pointer: Any, offset: Any = 0) -> Any:
        """Load; vectors need no more alignment than their elements."""
        return self.load(
            self.at(pointer, offset), typ=kind, align=8 if kind in (I64, POINTER) else 4
        )

    def put(self, value: Any, pointer: Any, offset: Any = 0) -> None:
        """Store; see `get`."""
        self.store(value, self.at(pointer, offset), align=4)

    def index(self, pointer: Any, offset: Any = 0) -> Any:
        """Load 32 bits as 64."""
        return self.sext(self.get(I32, pointer, offset), I64)

    def offset(self, table: Any, place: Any, *, short: bool, unit: int) -> Any:
        """An entry of a table of 16 or 32 bits, times ``unit``."""
        kind = ir.IntType(16) if short else I32
        where = self.at(table, self.mul(place, self.number(2 if short else 4)))
        value = self.load(where, typ=kind, align=2)
        extended = self.zext(value, I64) if short else self.sext(value, I64)
        return self.mul(extended, self.number(unit))

    def fields(self, pointer: Any, names: str) -> dict[str, Any]:
        """Load eight bytes each: pointers, or integers where the name begins with a hash."""
        found = {}
        for place, name in enumerate(names.split()):
            kind = I64 if name[0] == "#" else POINTER
            found[name.lstrip("#")] = self.get(kind, pointer, 8 * place)
        return found

    def splat(self, value: Any) -> Any:
        """A vector of one value."""
        empty = ir.Constant(ir.VectorType(value.type, self.width), ir.Undefined)
        one = self.insert_element(empty, value, ir.Constant(I32, 0))
        return self.shuffle_vector(one, empty, ir.Constant(self.integers, [0] * self.width))

    def zeros(self) -> Any:
        """A vector of zeros."""
        return ir.Constant(self.vector, [0.0] * self.width)

    def call_intrinsic(self, name: str, kind: Any, *values: Any) -> Any:
        """Call an intrinsic of LLVM, declared when it is first met."""
        if name not in self._module.globals:
            ir.Function(self._module, ir.FunctionType(kind, [value.type for value in values]), name)
        return self.call(self._module.globals[name], values)

    def prefetch(self, pointer: Any, offset: int, *, write: bool = False) -> None:
        """Ask for a line of memory that will be read, or written, soon."""
        where = self.at(pointer, offset)
        kinds = [ir.Constant(I32, kind) for kind in (int(write), 3 if write else 2, 1)]
        self.call_intrinsic("llvm.prefetch.p0", ir.VoidType(), where, *kinds)

    def fused(self, a: Any, b: Any, c: Any) -> Any:
        """``a * b + c`` in one rounding."""
        return self.call_intrinsic(f"llvm.fma.v{self.width}f32", self.vector, a, b, c)

    def at_least(self, value: Any, floor: Any) -> Any:
        """The larger one; NaN stays NaN."""
        return self.select(self.fcmp_ordered("<", value, floor), floor, value)
