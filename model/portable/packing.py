"""Copies the operands of a matrix product into the order in which its tiles read them.

Operands become 32-bit words: an fp32 number, a bfloat16 as fp32, or a pair of bfloat16 of two steps of a chain. The
left operand becomes rows [M, stride] of words, the right one panels [N / columns, stride, columns].

A bfloat16 below 2^-55 becomes 0 on the way. Then every product is a multiple of 2^-124, hence so is every partial sum,
and no number on the way is subnormal: processors that flush those agree with those that do not, and as products of
bfloat16 are exact in fp32, so do fused and separate multiplications and additions.

Where a pair lacks its second step, that step is -0 times 0: adding their product, -0, changes no sum, not even -0.
"""

from dataclasses import dataclass

from model.portable.language import Kernel, Program
from model.portable.values import F32, I16, I32, Value

SMALLEST = 127 - 55
"""Exponent field of 2^-55."""
WORDS = 16
"""Strides are multiples of so many words."""


@dataclass(frozen=True)
class Words:
    """How an operand becomes words: `fp32`, or `bf16` with one or two steps of a chain in each."""

    form: str
    pairs: bool
    width: int
    """Words of a vector register."""

    @property
    def steps(self) -> int:
        """Steps of a chain in a word."""
        return 2 if self.pairs else 1

    def count(self, depth: Value) -> Value:
        """Words of so many steps."""
        return (depth + 1) >> 1 if self.pairs else depth

    def along(self, k: Kernel, row: Value, step: Value) -> Value:
        """A register of words from a row whose steps lie side by side, from `step` on."""
        lanes = self.width
        if self.form == "fp32":
            return k.load(row, step, F32, lanes).bits()
        if not self.pairs:
            return flushed(k.load(row, step, I16, lanes).cast(I32)) << 16
        both = Value(k, k.builder.bitcast(k.load(row, step, I16, 2 * lanes).ir, k.zeros(I32, lanes).ir.type))
        return (flushed(both & 0xFFFF) << 16) | flushed(both >> 16)

    def across(self, k: Kernel, source: Value, stride: Value, word: Value, at: Value, depth: Value) -> Value:
        """A register of one word each of outputs that lie side by side, from `at` on; steps are `stride` apart."""
        lanes = self.width
        if self.form == "fp32":
            return k.load(source, word * stride + at, F32, lanes).bits()
        if not self.pairs:
            return flushed(k.load(source, word * stride + at, I16, lanes).cast(I32)) << 16
        first, last = word * 2, depth - 1
        second = (first < last).choose(first + 1, first)
        high, low = (flushed(k.load(source, step * stride + at, I16, lanes).cast(I32)) for step in (first, second))
        return (high << 16) | (first < last).choose(low, k.zeros(I32, lanes))


def flushed(half: Value) -> Value:
    """Words with a bfloat16 in their low half; 0 for one below 2^-55."""
    return ((half & 0x7FFF) < (SMALLEST << 7)).choose(0, half)


def rounded_up(x: Value, unit: int) -> Value:
    """The least multiple of a unit that is not below x."""
    return (x + (unit - 1)) / unit * unit


def transposed(k: Kernel, rows: list[Value]) -> list[Value]:
    """A square of words, columns for rows: each round swaps the off-diagonal squares of half the size."""
    count = len(rows)
    half = count // 2
    while half:
        low = [i + (half if i & half else 0) - (half if i & half else 0) for i in range(count)]
        swapped = list(rows)
        for i in (i for i in range(count) if not i & half):
            a, b = rows[i], rows[i + half]
            upper = [j if not j & half else count + j - half for j in low]
            lower = [j + half if not j & half else count + j for j in low]
            swapped[i], swapped[i + half] = k.shuffle(a, upper, b), k.shuffle(a, lower, b)
        rows, half = swapped, half // 2
    return rows


def pack_left(program: Program, words: Words, along: bool) -> Kernel:
    """Rows [count, stride] of words, from steps side by side (`along`) or rows side by side; count up to a register."""
    k = program.kernel(f"left_{'along' if along else 'across'}_{words.form}", "ppiiii", internal=True)
    target, source, distance, count, depth, stride = k.arguments

    def copy(row: Value) -> None:
        start, out = k.offset(source, row * distance, _element(words)), k.offset(target, row * stride, I32)
        lanes = words.width * words.steps
        k.each(depth, lambda step: _store(k, out, step / words.steps, words.along(k, start, step)), lanes=lanes)

    def turn(row: Value) -> None:
        last = words.count(depth) - 1

        def square(word: Value) -> None:
            numbers = [(word + i < last).choose(word + i, last) for i in range(words.width)]
            columns = [words.across(k, source, distance, number, row, depth) for number in numbers]
            for i, values in enumerate(transposed(k, columns)):
                _store(k, target, (row + i) * stride + word, values)

        k.loop(0, last + 1, words.width, square)

    def complete(row: Value) -> None:
        last = row * stride + (words.count(depth) - 1)
        k.store(target, last, k.load(target, last, I32, 0) | ((depth & 1) << 15).cast(I32))

    if along:
        k.loop(0, count, 1, copy)
    else:
        k.each(count, turn, lanes=words.width)
    if words.pairs:
        k.loop(0, count, 1, complete)
    return k.done()


def pack_right(program: Program, words: Words, columns: int, along: bool) -> Kernel:
    """Panels [count / columns, stride, columns] of words."""
    k = program.kernel(f"right_{'along' if along else 'across'}_{words.form}", "ppiiii", internal=True)
    target, source, distance, count, depth, stride = k.arguments

    def copied(start: Value) -> None:
        out, left = k.offset(target, start * stride, I32), count - start

        def row(word: Value) -> None:
            def some(at: Value) -> None:
                values = words.across(k, source, distance, word, start + at, depth)
                _store(k, out, word * columns + at, values)

            k.each((left < columns).choose(left, columns), some, lanes=words.width)

        k.loop(0, words.count(depth), 1, row)

    def turned(start: Value) -> None:
        out, last = k.offset(target, start * stride, I32), count - 1

        def strip(at: Value) -> None:
            numbers = [start + at + i for i in range(words.width)]
            rows = [k.offset(source, (n < last).choose(n, last) * distance, _element(words)) for n in numbers]

            def square(step: Value) -> None:
                for i, values in enumerate(transposed(k, [words.along(k, row, step) for row in rows])):
                    _store(k, out, (step / words.steps + i) * columns + at, values)

            k.each(depth, square, lanes=words.width * words.steps)

        k.loop(0, columns, words.width, strip)

    k.loop(0, count, columns, turned if along else copied)
    return k.done()


def _element(words: Words) -> object:
    return F32 if words.form == "fp32" else I16


def _store(k: Kernel, target: Value, index: Value, words: Value) -> None:
    """Whole registers, also in tails: the target has room for them, and nobody reads what was not there."""
    mask, k.mask = k.mask, None
    k.store(target, index, words)
    k.mask = mask
