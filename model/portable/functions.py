"""Functions of kernels from IEEE's basic operations alone: nothing of libm, of a vector library, or of a vendor's."""

import math
from collections.abc import Callable

from model.portable.language import Kernel
from model.portable.values import F32, F64, Value

_LN2_HIGH, _LN2_LOW = float.fromhex("0x1.62e42fefa0000p-1"), float.fromhex("0x1.cf79abc9e3b39p-40")
_HALF_PI_HIGH, _HALF_PI_LOW = float.fromhex("0x1.921fb54000000p+0"), float.fromhex("0x1.10b4611a62633p-30")


def sqrt(k: Kernel, x: Value) -> Value:
    """Square root, rounded to the nearest as IEEE 754 asks for."""
    name = f"llvm.sqrt.{f'v{x.lanes}' if x.lanes else ''}{'f32' if x.element == F32 else 'f64'}"
    return Value(k, k.builder.call(k.program.intrinsic(name, x.ir.type, [x.ir.type]), [x.ir]))


def add_exact_product(k: Kernel, a: Value, b: Value, c: Value) -> Value:
    """a b + c where a b is exact: fused where that is fast, for both are the same then."""
    name = f"llvm.fmuladd.v{c.lanes}f32" if c.lanes else "llvm.fmuladd.f32"
    return Value(k, k.builder.call(k.program.intrinsic(name, c.ir.type, [c.ir.type] * 3), [a.ir, b.ir, c.ir]))


def maximum(a: Value, b: Value) -> Value:
    """b where a < b, else a."""
    return (a < b).choose(b, a)


def fold(k: Kernel, x: Value, combine: Callable[[Value, Value], Value]) -> Value:
    """The lanes of x by a tree: lane l with l + 8, then l + 4, l + 2, l + 1. A single number."""
    lanes = x.lanes
    while lanes > 1:
        lanes //= 2
        low, high = (k.shuffle(x, range(start, start + lanes)) for start in (0, lanes))
        x = combine(low, high)
    return k.lane(x, 0)


def total(k: Kernel, x: Value) -> Value:
    """Sum of the lanes by the tree."""
    return fold(k, x, lambda a, b: a + b)


def exp(k: Kernel, x: Value) -> Value:
    """e^x in fp32, 0 below -87 and e^88 above 88, NaN of NaN; within 1.3 units in the last place.

    n = round(x / ln 2); r = x - n ln 2 in two steps (Cody and Waite, 1980); Taylor's polynomial of degree 7 by Horner;
    2^n by adding to the exponent.
    """
    low = x < -87.0
    y = low.choose(-87.0, (x < 88.0).choose(x, 88.0))
    shifted = y * 1.4426950408889634 + 12582912.0  # 1.5 2^23: the integer stands in the low bits
    n = shifted - 12582912.0
    r = y - n * 0.693359375 - n * -2.12194440e-4
    p = k.constant(1 / 5040, F32, x.lanes)
    for coefficient in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0):
        p = p * r + coefficient
    power = (shifted.bits() - 0x4B400000) << 23
    return x.equals(x).choose(low.choose(0.0, (power + p.bits()).bits()), x)


def log(k: Kernel, x: Value) -> Value:
    """Natural logarithm in fp64 of a normal number above 0 and below infinity; any other comes back as it is.

    x = m 2^e with m from 0.707 to 1.414; ln m = 2 atanh(s), s = (m - 1) / (m + 1), by its series to s^21.
    """
    word = x.bits()
    e = (word - 0x3FE6A09E00000000).arithmetic_shift(52)
    m = (word - (e << 52)).bits()
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    y = k.constant(1 / 21, F64, x.lanes)
    for odd in range(19, 0, -2):
        y = y * z + 1 / odd
    count = e.cast(F64)
    value = y * s * 2.0 + count * _LN2_HIGH + count * _LN2_LOW
    return ((x > 0.0) & (x < math.inf)).choose(value, x)


def exp64(k: Kernel, x: Value) -> Value:
    """e^x in fp64 for |x| up to 700: as `exp`, with Taylor's polynomial of degree 13."""
    shifted = x * 1.4426950408889634 + 6755399441055744.0  # 1.5 2^52
    n = shifted - 6755399441055744.0
    r = x - n * _LN2_HIGH - n * _LN2_LOW
    p = k.constant(1 / math.factorial(13), F64, x.lanes)
    for i in range(12, -1, -1):
        p = p * r + 1 / math.factorial(i)
    power = (shifted.bits() - 0x4338000000000000) << 52
    return (power + p.bits()).bits()


def sine_and_cosine(k: Kernel, x: Value) -> tuple[Value, Value]:
    """sin x and cos x in fp64 for 0 <= x < 2^27.

    The nearest multiple of pi / 2 is taken off in two steps; then Taylor's series to r^17 and r^16.
    """
    shifted = x * (2 / math.pi) + 6755399441055744.0
    n = shifted - 6755399441055744.0
    r = x - n * _HALF_PI_HIGH - n * _HALF_PI_LOW
    z = r * r
    s, c = (k.constant(0.0, F64, x.lanes) for _ in range(2))
    for i in range(8, -1, -1):
        s = s * z + (-1) ** i / math.factorial(2 * i + 1)
        c = c * z + (-1) ** i / math.factorial(2 * i)
    s = s * r
    quarter = shifted.bits() & 3
    odd = (quarter & 1).equals(1)
    first, second = odd.choose(c, s), odd.choose(s, c)
    minus = (quarter & 2).equals(2)
    turned = ((quarter + 1) & 2).equals(2)
    return minus.choose(0.0 - first, first), turned.choose(0.0 - second, second)
