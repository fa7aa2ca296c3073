"""The matrix product: each output is one chain of fp32 additions over k = 0, 1, 2, ..., whatever the blocking.

bfloat16: c <- c + a b with an exact product, one rounding for each step. fp32: c <- c + (a b), two roundings for each
step. Vectors run over outputs only, so neither width, blocking nor threads change a bit.
"""

from dataclasses import dataclass, replace

import llvmlite.ir as ir
import numpy as np

from model.portable.compiler import Library, Processor
from model.portable.functions import add_exact_product
from model.portable.language import FORMATS, LANES, Kernel, Program
from model.portable.packing import WORDS, Words, pack_left, pack_right, rounded_up
from model.portable.values import F32, I16, I32, I64, Value, typed

DEPTH = 512
"""Steps of a chain between which its sum may lie in memory."""
CASES = 4096
"""On which VDPBF16PS is tried when it is first used."""
ROUNDED, WHOLE, CONTINUED = 0, 1, 2
"""What is written: the operands' format, fp32, or fp32 continued from what stands there."""


class BFloat(ir.types.Type):  # type: ignore[misc]
    """LLVM's own bfloat16, which only VDPBF16PS is given."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BFloat)

    def __hash__(self) -> int:
        return 16


@dataclass(frozen=True)
class Tile:
    """Sizes of a product on a processor."""

    processor: Processor
    words: Words

    @property
    def rows(self) -> int:
        """Rows of outputs in registers."""
        return self.processor.tile[0]

    @property
    def columns(self) -> int:
        """Columns of outputs in registers."""
        return self.processor.tile[1] * self.processor.width

    @property
    def block(self) -> int:
        """Rows of the left operand that are packed at a time."""
        return self.rows * (16 if self.processor.width > 4 else 8)


def tile_of(processor: Processor, form: str) -> Tile:
    """The tile for operands of a format."""
    return Tile(processor, Words(form, processor.pairs and form == "bf16", processor.width))


def step_pairs(k: Kernel, a: Value, b: Value, c: Value) -> Value:
    """Two steps by VDPBF16PS: two fused multiplications and additions, each rounded, the high half first.

    That is its definition (Intel's manual; equal on Zen 4 in millions of random cases), and `verified` tries it.
    """
    kind, pair = c.ir.type, typed(BFloat(), 2 * c.lanes)
    dot = k.program.intrinsic("llvm.x86.avx512bf16.dpbf16ps.512", kind, [kind, pair, pair])
    return Value(k, k.builder.call(dot, [c.ir, k.builder.bitcast(a.ir, pair), k.builder.bitcast(b.ir, pair)]))


def verified(processor: Processor) -> Processor:
    """The processor, without VDPBF16PS where that is not the chain on some thousands of cases."""
    if not processor.pairs:
        return processor
    program = Program()
    k = program.kernel("pairs", "ppppi")
    a, b, c, d, n = k.arguments

    def at(i: Value) -> None:
        left, right, start = (k.load(x, i, kind) for x, kind in ((a, I32), (b, I32), (c, F32)))
        k.store(c, i, step_pairs(k, left, right, start))
        high = add_exact_product(k, (left & -65536).bits(), (right & -65536).bits(), start)
        k.store(d, i, add_exact_product(k, (left << 16).bits(), (right << 16).bits(), high))

    k.loop(0, n, LANES, at)
    k.done()
    rng = np.random.default_rng(1)
    exponents = rng.integers(127 - 55, 127 + 20, (2, 2, CASES)).astype(np.uint32)
    halves = rng.integers(0, 2**16, (2, 2, CASES)).astype(np.uint32) & np.uint32(0x807F) | exponents << np.uint32(7)
    words = np.ascontiguousarray(halves[:, 0] << np.uint32(16) | halves[:, 1])
    starts = rng.normal(size=CASES) * 2.0 ** rng.uniform(-60, 30, CASES)
    results = [starts.astype(np.float32), np.empty(CASES, np.float32)]
    Library(program, processor)["pairs"](*(x.ctypes.data for x in (*words, *results)), CASES)
    equal = np.array_equal(results[0].view(np.uint32), results[1].view(np.uint32))
    return processor if equal else replace(processor, pairs=False)


def step(k: Kernel, words: Words, a: Value, b: Value, c: Value) -> Value:
    """c after the steps that a word of each operand holds."""
    if words.pairs:
        return step_pairs(k, a, b, c)
    if words.form == "bf16":
        return add_exact_product(k, a.bits(), b.bits(), c)
    return c + a.bits() * b.bits()


def tile_kernel(program: Program, tile: Tile) -> Kernel:
    """Outputs of one tile: chains from zero or from c, over `count` words; written as fp32 or as bfloat16."""
    k = program.kernel(f"tile_{tile.words.form}", "pipipiipii", internal=True)
    a, stride, b, count, c, c_stride, continued, out, out_stride, half = k.arguments
    width, columns = tile.processor.width, tile.columns
    places = [(i, j) for i in range(tile.rows) for j in range(0, columns, width)]
    before = k.builder.block
    load, begin = k.builder.append_basic_block(), k.builder.append_basic_block()
    k.builder.cbranch(continued.equals(1).ir, load, begin)
    k.builder.position_at_end(load)
    loaded = [k.load(c, c_stride * i + j, F32, width) for i, j in places]
    k.builder.branch(begin)
    k.builder.position_at_end(begin)
    sums = []
    for value in loaded:
        phi = k.builder.phi(value.ir.type)
        phi.add_incoming(k.zeros(F32, width).ir, before)
        phi.add_incoming(value.ir, load)
        sums.append(Value(k, phi))

    def steps(word: Value, *sums: Value) -> list[Value]:
        right = [k.load(b, word * columns + j, I32, width) for j in range(0, columns, width)]
        after, chains = [], iter(sums)
        for i in range(tile.rows):
            left = k.spread(k.load(a, stride * i + word, I32, 0), width)
            after += [step(k, tile.words, left, one, next(chains)) for one in right]
        return after

    sums = k.loop(0, count, 1, steps, *sums)

    def whole() -> None:
        for (i, j), value in zip(places, sums, strict=True):
            k.store(out, out_stride * i + j, value)

    def rounded() -> None:
        for (i, j), value in zip(places, sums, strict=True):
            k.store(out, out_stride * i + j, k.round_to_bf16(value))

    k.when(half.equals(1), rounded, whole)
    return k.done()


def edge_kernel(program: Program, tile: Tile, inner: Kernel) -> Kernel:
    """A tile of fewer rows or columns, by way of a whole one in `spare` memory."""
    k = program.kernel(f"edge_{tile.words.form}", "pipipiipiipii", internal=True)
    a, stride, b, count, c, c_stride, continued, out, out_stride, half, spare, rows, columns = k.arguments

    def bring(i: Value) -> None:
        k.each(columns, lambda j: k.store(spare, i * tile.columns + j, k.load(c, i * c_stride + j)))

    def take(i: Value) -> None:
        def rounded() -> None:
            k.each(columns, lambda j: k.write("bf16", out, i * out_stride + j, k.load(spare, i * tile.columns + j)))

        def whole() -> None:
            k.each(columns, lambda j: k.store(out, i * out_stride + j, k.load(spare, i * tile.columns + j)))

        k.when(half.equals(1), rounded, whole)

    k.when(continued.equals(1), lambda: k.loop(0, rows, 1, bring))
    k.call(inner, a, stride, b, count, spare, tile.columns, continued, spare, tile.columns, 0)
    k.loop(0, rows, 1, take)
    return k.done()


def product_kernel(program: Program, tile: Tile) -> Kernel:
    """out [M, N] = left [M, K] right [K, N].

    Arguments: M, N, K; address, distance of rows, and whether k lies side by side, of either operand; address and
    distance of the output, and what is written; scratch memory (`library.packing_memory`). The right operand is packed
    whole: the caller bounds N.
    """
    return _Product(program, tile).written()


class _Product:
    """The product as it is being written: stretches of steps, blocks of rows, panels of columns, tiles."""

    def __init__(self, program: Program, tile: Tile) -> None:
        form = tile.words.form
        self.left = {along: pack_left(program, tile.words, along) for along in (True, False)}
        self.right = {along: pack_right(program, tile.words, tile.columns, along) for along in (True, False)}
        self.inner = tile_kernel(program, tile)
        self.edge = edge_kernel(program, tile, self.inner)
        self.tile, self.element = tile, FORMATS[form]
        self.k = program.kernel(f"product_{form}", "iiipiipiipiippp")
        self.M, self.N, self.K, *rest = self.k.arguments
        self.a, self.a_distance, self.a_along, self.b, self.b_distance, self.b_along, *rest = rest
        self.out, self.distance, self.mode, self.pa, self.pb, self.pc = rest
        self.wide = rounded_up(self.N, tile.columns)
        self.rounded = self.mode.equals(ROUNDED if form == "bf16" else -1)
        self.spare = self.k.offset(self.pc, self.wide * tile.block, F32)

    def written(self) -> Kernel:
        """The kernel, done."""
        self.k.loop(0, self.K, DEPTH, self.bring)
        self.k.loop(0, self.M, self.tile.block, self.rows)
        return self.k.done()

    def depth(self, start: Value) -> tuple[Value, Value, Value]:
        """Steps of a stretch, their words, and the distance of packed rows."""
        depth = least(self.K - start, DEPTH)
        count = self.tile.words.count(depth)
        return depth, count, rounded_up(count, WORDS)

    def panels(self, start: Value) -> Value:
        """Where the packed panels of a stretch begin."""
        return self.k.offset(self.pb, start / self.tile.words.steps * self.wide, I32)

    def bring(self, start: Value) -> None:
        """Pack the right operand of a stretch."""
        k, (depth, _, stride) = self.k, self.depth(start)
        rest = self.b_distance, self.N, depth, stride
        side, across = (k.offset(self.b, at, self.element) for at in (start, start * self.b_distance))
        k.when(
            self.b_along.equals(1),
            lambda: k.call(self.right[True], self.panels(start), side, *rest),
            lambda: k.call(self.right[False], self.panels(start), across, *rest),
        )

    def rows(self, i0: Value) -> None:
        """All outputs of a block of rows."""
        height = least(self.M - i0, self.tile.block)
        self.k.loop(0, self.K, DEPTH, lambda start: self.stretch(i0, height, start))

    def stretch(self, i0: Value, height: Value, start: Value) -> None:
        """A stretch of the chains of a block of rows."""
        k, (depth, count, stride) = self.k, self.depth(start)
        rest = self.a_distance, height, depth, stride
        side = k.offset(self.a, i0 * self.a_distance + start, self.element)
        across = k.offset(self.a, start * self.a_distance + i0, self.element)
        k.when(
            self.a_along.equals(1),
            lambda: k.call(self.left[True], self.pa, side, *rest),
            lambda: k.call(self.left[False], self.pa, across, *rest),
        )
        # bfloat16 output of a chain in several stretches gathers in scratch memory, fp32 output where it is.
        half = (self.rounded & (start + DEPTH >= self.K)).cast(I64)
        continued = (self.mode.equals(CONTINUED) | (start > 0)).cast(I64)

        def across_columns(j: Value) -> None:
            panel = k.offset(self.panels(start), j * stride, I32)

            def down(i: Value) -> None:
                left = k.offset(self.pa, i * stride, I32)
                self.one_tile(i0, i, j, (left, stride, panel, count), height, continued, half)

            k.loop(0, height, self.tile.rows, down)

        k.loop(0, self.N, self.tile.columns, across_columns)

    def one_tile(
        self, i0: Value, i: Value, j: Value, packed: tuple[Value, ...], height: Value, continued: Value, half: Value
    ) -> None:
        """One tile: where its sums come from, and where they go."""
        k, place = self.k, (i0 + i) * self.distance + j
        sums = self.rounded.choose(k.offset(self.pc, i * self.wide + j, F32), k.offset(self.out, place, F32))
        sums_distance = self.rounded.choose(self.wide, self.distance)
        target = half.equals(1).choose(k.offset(self.out, place, I16), sums)
        target_distance = half.equals(1).choose(self.distance, sums_distance)
        rows, columns = least(height - i, self.tile.rows), least(self.N - j, self.tile.columns)
        arguments = *packed, sums, sums_distance, continued, target, target_distance, half
        k.when(
            rows.equals(self.tile.rows) & columns.equals(self.tile.columns),
            lambda: k.call(self.inner, *arguments),
            lambda: k.call(self.edge, *arguments, self.spare, rows, columns),
        )


def least(a: Value, b: int) -> Value:
    """The lesser of an integer and a constant."""
    return (a < b).choose(a, b)
