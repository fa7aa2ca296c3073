"""Numbers in a kernel that is being written: a single one, or one in each lane."""

import struct
from typing import TYPE_CHECKING, Any

import llvmlite.ir as ir

if TYPE_CHECKING:
    from model.portable.language import Kernel

I1, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 16, 32, 64))
F32, F64 = ir.FloatType(), ir.DoubleType()
BYTES = {I16: 2, I32: 4, I64: 8, F32: 4, F64: 8}

Number = int | float


def to_fp32(x: float) -> float:
    """The nearest fp32 number."""
    return float(struct.unpack("<f", struct.pack("<f", x))[0])


class Value:
    """A number, or one in each lane; constants and single numbers spread over lanes."""

    def __init__(self, kernel: "Kernel", value: Any) -> None:
        self.kernel, self.ir = kernel, value

    @property
    def lanes(self) -> int:
        """0 for a single number."""
        return self.ir.type.count if isinstance(self.ir.type, ir.VectorType) else 0

    @property
    def element(self) -> Any:
        """Type of a lane."""
        return self.ir.type.element if self.lanes else self.ir.type

    def _pair(self, other: "Value | Number") -> tuple[Any, Any]:
        if not isinstance(other, Value):
            return self.ir, self.kernel.constant(other, self.element, self.lanes).ir
        if self.lanes == other.lanes:
            return self.ir, other.ir
        if other.lanes:
            return self.kernel.spread(self, other.lanes).ir, other.ir
        return self.ir, self.kernel.spread(other, self.lanes).ir

    def _apply(self, floating: str, integer: str, other: "Value | Number", swapped: bool = False) -> "Value":
        a, b = self._pair(other)
        name = floating if self.element in (F32, F64) else integer
        return Value(self.kernel, getattr(self.kernel.builder, name)(*((b, a) if swapped else (a, b))))

    def __add__(self, other: "Value | Number") -> "Value":
        return self._apply("fadd", "add", other)

    def __radd__(self, other: Number) -> "Value":
        return self._apply("fadd", "add", other, swapped=True)

    def __sub__(self, other: "Value | Number") -> "Value":
        return self._apply("fsub", "sub", other)

    def __rsub__(self, other: Number) -> "Value":
        return self._apply("fsub", "sub", other, swapped=True)

    def __mul__(self, other: "Value | Number") -> "Value":
        return self._apply("fmul", "mul", other)

    def __rmul__(self, other: Number) -> "Value":
        return self._apply("fmul", "mul", other, swapped=True)

    def __truediv__(self, other: "Value | Number") -> "Value":
        return self._apply("fdiv", "sdiv", other)

    def __rtruediv__(self, other: Number) -> "Value":
        return self._apply("fdiv", "sdiv", other, swapped=True)

    def __mod__(self, other: "Value | Number") -> "Value":
        return self._apply("frem", "srem", other)

    def __and__(self, other: "Value | Number") -> "Value":
        return self._apply("and_", "and_", other)

    def __or__(self, other: "Value | Number") -> "Value":
        return self._apply("or_", "or_", other)

    def __lshift__(self, other: "Value | Number") -> "Value":
        return self._apply("shl", "shl", other)

    def __rshift__(self, other: "Value | Number") -> "Value":
        """Zeros come in from the left."""
        return self._apply("lshr", "lshr", other)

    def arithmetic_shift(self, places: int) -> "Value":
        """Shifted to the right; the sign comes in from the left."""
        return self._apply("ashr", "ashr", places)

    def _compare(self, sign: str, other: "Value | Number") -> "Value":
        a, b = self._pair(other)
        builder = self.kernel.builder
        compare = builder.fcmp_ordered if self.element in (F32, F64) else builder.icmp_signed
        return Value(self.kernel, compare(sign, a, b))

    def __lt__(self, other: "Value | Number") -> "Value":
        return self._compare("<", other)

    def __le__(self, other: "Value | Number") -> "Value":
        return self._compare("<=", other)

    def __gt__(self, other: "Value | Number") -> "Value":
        return self._compare(">", other)

    def equals(self, other: "Value | Number") -> "Value":
        """Whether equal."""
        return self._compare("==", other)

    def choose(self, yes: "Value | Number", no: "Value | Number") -> "Value":
        """`yes` where this condition holds, else `no`; one of them at least is a value."""
        like = yes if isinstance(yes, Value) else no
        assert isinstance(like, Value)
        kernel, lanes = self.kernel, max(self.lanes, like.lanes)
        a, b = (v if isinstance(v, Value) else kernel.constant(v, like.element, lanes) for v in (yes, no))
        a, b = (kernel.spread(v, lanes) if v.lanes < lanes else v for v in (a, b))
        return Value(kernel, kernel.builder.select(self.ir, a.ir, b.ir))

    def bits(self) -> "Value":
        """The same bits as an integer, or as a number."""
        other = {F32: I32, I32: F32, F64: I64, I64: F64}[self.element]
        return Value(self.kernel, self.kernel.builder.bitcast(self.ir, typed(other, self.lanes)))

    def cast(self, target: Any) -> "Value":
        """As another type: exact where it is wider, rounded to the nearest where a number is narrower."""
        builder, source = self.kernel.builder, self.element
        wide = typed(target, self.lanes)
        if source in (F32, F64) and target in (F32, F64):
            step = builder.fpext if BYTES[target] > BYTES[source] else builder.fptrunc
        elif source in (F32, F64):
            step = builder.fptosi
        elif target in (F32, F64):
            step = builder.sitofp
        else:
            step = builder.zext if target.width > source.width else builder.trunc
        return self if source == target else Value(self.kernel, step(self.ir, wide))


def typed(element: Any, lanes: int) -> Any:
    """The type of a single number (0 lanes) or of one in each lane."""
    return ir.VectorType(element, lanes) if lanes else element
