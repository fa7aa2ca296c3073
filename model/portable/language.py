"""A small language for loops over rows of 16 lanes: what is written is what is computed, on every processor.

A kernel is written in Python and becomes LLVM's intermediate code. No fast-math flag is ever set, so the compiler may
neither reorder nor contract. Sixteen lanes are a meaning, not a width of registers: a processor with narrower ones
takes several instructions for the same values.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import llvmlite.ir as ir

from model.portable.values import BYTES, F32, F64, I1, I16, I32, I64, Number, Value, to_fp32, typed

POINTER, VOID = ir.PointerType(), ir.VoidType()
LANES = 16
ARGUMENTS = {"p": POINTER, "i": I64, "f": F32, "d": F64}
"""Letters of a signature: a pointer, an int64, a float, a double."""
FORMATS = {"bf16": I16, "fp32": F32}
"""How the numbers of a tensor lie in memory."""


class Program:
    """Kernels that are compiled together; `gpu` makes each thread take one row where a processor loops over rows."""

    def __init__(self, *, gpu: bool = False) -> None:
        self.module, self.gpu = ir.Module("portable"), gpu
        self.entries: dict[str, str] = {}
        """Signature of each kernel that can be called from outside."""

    def kernel(self, name: str, signature: str, *, internal: bool = False) -> "Kernel":
        """A new kernel, to be written."""
        kind = ir.FunctionType(VOID, [ARGUMENTS[letter] for letter in signature])
        function = ir.Function(self.module, kind, name)
        if internal:
            function.linkage = "internal"
            function.attributes.add("noinline")
        else:
            self.entries[name] = signature
        return Kernel(self, function)

    def intrinsic(self, name: str, result: Any, arguments: Sequence[Any]) -> ir.Function:
        """One of LLVM's own functions."""
        if name not in self.module.globals:
            return ir.Function(self.module, ir.FunctionType(result, list(arguments)), name)
        return self.module.globals[name]


class Kernel:
    """One function as it is being written."""

    def __init__(self, program: Program, function: ir.Function) -> None:
        self.program, self.function = program, function
        self.builder = ir.IRBuilder(function.append_basic_block())
        self.mask: Value | None = None
        """In the tail of a row: the lanes that exist."""

    @property
    def arguments(self) -> tuple[Value, ...]:
        """What the kernel is called with."""
        return tuple(Value(self, argument) for argument in self.function.args)

    def constant(self, x: Number, element: Any, lanes: int = 0) -> Value:
        """A constant, rounded to the type's numbers."""
        if element == F32:
            x = to_fp32(x)
        return Value(self, ir.Constant(typed(element, lanes), [x] * lanes if lanes else x))

    def integer(self, x: "Value | int") -> Value:
        """An int64."""
        return x if isinstance(x, Value) else self.constant(x, I64)

    def zeros(self, element: Any = F32, lanes: int = LANES) -> Value:
        """Zero in each lane."""
        return self.constant(0, element, lanes)

    def spread(self, x: Value, lanes: int = LANES) -> Value:
        """A single number in each lane."""
        empty = ir.Constant(typed(x.element, lanes), ir.Undefined)
        first = self.builder.insert_element(empty, x.ir, ir.Constant(I32, 0))
        return self.shuffle(Value(self, first), [0] * lanes)

    def shuffle(self, x: Value, order: Sequence[int], other: Value | None = None) -> Value:
        """Lanes of x, and of another value after them, in a new order."""
        second = other.ir if other else ir.Constant(x.ir.type, ir.Undefined)
        places = ir.Constant(ir.VectorType(I32, len(order)), list(order))
        return Value(self, self.builder.shuffle_vector(x.ir, second, places))

    def lane(self, x: Value, index: int) -> Value:
        """One lane as a single number."""
        return Value(self, self.builder.extract_element(x.ir, ir.Constant(I32, index)))

    # Memory. Lanes beyond the end of a row are neither read nor written; they read as zero.

    def offset(self, pointer: Value, index: "Value | int", element: Any) -> Value:
        """The address of an element."""
        place = self.builder.gep(pointer.ir, [self.integer(index).ir], source_etype=element)
        return Value(self, place)

    def load(self, pointer: Value, index: "Value | int", element: Any = F32, lanes: int = LANES) -> Value:
        """A number (0 lanes), or as many as there are lanes."""
        address, wide = self.offset(pointer, index, element).ir, typed(element, lanes)
        if self.mask is not None and lanes == self.mask.lanes:
            name = f"llvm.masked.load.v{lanes}{_short(element)}.p0"
            read = self.program.intrinsic(name, wide, [POINTER, I32, typed(I1, lanes), wide])
            align, empty = ir.Constant(I32, BYTES[element]), self.zeros(element, lanes).ir
            return Value(self, self.builder.call(read, [address, align, self.mask.ir, empty]))
        return Value(self, self.builder.load(address, align=BYTES[element], typ=wide))

    def store(self, pointer: Value, index: "Value | int", x: Value) -> None:
        """Write a number, or one for each lane."""
        address = self.offset(pointer, index, x.element).ir
        if self.mask is not None and x.lanes == self.mask.lanes:
            name = f"llvm.masked.store.v{x.lanes}{_short(x.element)}.p0"
            write = self.program.intrinsic(name, VOID, [x.ir.type, POINTER, I32, typed(I1, x.lanes)])
            self.builder.call(write, [x.ir, address, ir.Constant(I32, BYTES[x.element]), self.mask.ir])
            return
        self.builder.store(x.ir, address, align=BYTES[x.element])

    def read(self, form: str, pointer: Value, index: "Value | int", lanes: int = LANES) -> Value:
        """Elements of a tensor, as fp32."""
        x = self.load(pointer, index, FORMATS[form], lanes)
        return (x.cast(I32) << 16).bits() if form == "bf16" else x

    def write(self, form: str, pointer: Value, index: "Value | int", x: Value) -> None:
        """Elements of a tensor from fp32."""
        self.store(pointer, index, self.round_to_bf16(x) if form == "bf16" else x)

    def round_to_bf16(self, x: Value) -> Value:
        """The nearest bfloat16, ties to even, as 16 bits."""
        word = x.bits()
        rounded = (word + ((word >> 16) & 1) + 0x7FFF) >> 16
        nan = Value(self, self.builder.fcmp_unordered("uno", x.ir, x.ir))
        return nan.choose(0x7FC0, rounded).cast(I16)

    # Control.

    def loop(
        self, start: "Value | int", stop: "Value | int", step: int, body: Callable[..., Any], *carried: Value
    ) -> Any:
        """body(index, *carried) for start, start + step, ... below stop; it answers the carried values of the next."""
        builder, before = self.builder, self.builder.block
        head, inside, after = (builder.append_basic_block() for _ in range(3))
        first, last = self.integer(start).ir, self.integer(stop).ir
        builder.branch(head)
        builder.position_at_end(head)
        index = builder.phi(I64)
        index.add_incoming(first, before)
        values = [builder.phi(x.ir.type) for x in carried]
        for value, x in zip(values, carried, strict=True):
            value.add_incoming(x.ir, before)
        builder.cbranch(builder.icmp_signed("<", index, last), inside, after)
        builder.position_at_end(inside)
        following = _several(body(Value(self, index), *(Value(self, value) for value in values)))
        index.add_incoming(builder.add(index, ir.Constant(I64, step)), builder.block)
        for value, x in zip(values, following, strict=True):
            value.add_incoming(x.ir, builder.block)
        builder.branch(head)
        builder.position_at_end(after)
        return _single([Value(self, value) for value in values])

    def when(self, condition: Value, then: Callable[[], None], other: Callable[[], None] | None = None) -> None:
        """Do one thing or the other."""
        if other is None:
            with self.builder.if_then(condition.ir):
                then()
            return
        with self.builder.if_else(condition.ir) as (yes, no):
            with yes:
                then()
            with no:
                other()

    def each(self, count: Value, body: Callable[..., Any], *carried: Value, lanes: int = LANES) -> Any:
        """body(index, *carried) for 16 elements of a row at a time; in the tail fewer lanes exist."""
        whole = count & -lanes
        values = _several(self.loop(0, whole, lanes, body, *carried))
        before = self.builder.block
        tail, after = self.builder.append_basic_block(), self.builder.append_basic_block()
        self.builder.cbranch((whole < count).ir, tail, after)
        self.builder.position_at_end(tail)
        with self.existing(count - whole, lanes):
            new = _several(body(whole, *values))
        end = self.builder.block
        self.builder.branch(after)
        self.builder.position_at_end(after)
        merged = []
        for value, other in zip(values, new, strict=True):
            phi = self.builder.phi(value.ir.type)
            phi.add_incoming(value.ir, before)
            phi.add_incoming(other.ir, end)
            merged.append(Value(self, phi))
        return _single(merged)

    @contextlib.contextmanager
    def existing(self, count: Value, lanes: int) -> Iterator[None]:
        """Inside, only the first `count` of so many lanes exist."""
        self.mask = self.lane_numbers(lanes, I32) < self.spread(count.cast(I32), lanes)
        yield
        self.mask = None

    def rows(self, count: Value, body: Callable[[Value], None]) -> None:
        """body(row) for every row; rows may be computed in any order, also at once."""
        if not self.program.gpu:
            self.loop(0, count, 1, body)
            return
        ids = [
            self.program.intrinsic(f"llvm.nvvm.read.ptx.sreg.{name}.x", I32, []) for name in ("ctaid", "ntid", "tid")
        ]
        block, size, thread = (Value(self, self.builder.call(one, [])).cast(I64) for one in ids)
        row = block * size + thread
        self.when(row < count, lambda: body(row))

    def lane_numbers(self, lanes: int = LANES, element: Any = I64) -> Value:
        """0, 1, ... in the lanes."""
        return Value(self, ir.Constant(ir.VectorType(element, lanes), list(range(lanes))))

    def present(self, x: Value, otherwise: float) -> Value:
        """x, in the tail of a row with another value in the lanes that do not exist."""
        return x if self.mask is None else self.mask.choose(x, otherwise)

    def call(self, other: "Kernel", *arguments: "Value | int") -> None:
        """Run another kernel of the same program."""
        self.builder.call(other.function, [self.integer(a).ir if isinstance(a, int) else a.ir for a in arguments])

    def done(self) -> "Kernel":
        """End the kernel."""
        self.builder.ret_void()
        return self


def _several(values: Any) -> list[Value]:
    return list(values) if isinstance(values, tuple | list) else [] if values is None else [values]


def _single(values: list[Value]) -> Any:
    return values[0] if len(values) == 1 else values


def _short(element: Any) -> str:
    return {I16: "i16", I32: "i32", I64: "i64", F32: "f32", F64: "f64"}[element]
