"""Attention: for each query the keys from the first that it sees up to its own position, which are one stretch.

Scores are chains over the head's channels; softmax runs over the stretch as a row of its own, so neither blocks of
queries nor what lies outside the stretch changes a bit; outputs and gradients are chains over keys and over queries.
"""

from dataclasses import dataclass

from model.portable.functions import add_exact_product, exp, fold, maximum, total
from model.portable.language import FORMATS, LANES, Kernel, Program
from model.portable.packing import flushed
from model.portable.product import CONTINUED, ROUNDED, WHOLE, least
from model.portable.values import F32, I32, I64, Value

BLOCK = 128
"""Queries that are taken at a time."""
LOWEST = -3.0e38


def softmax_row(k: Kernel, scores: Value, count: Value) -> Value:
    """Scores fp32 [count] become e^(score - largest); returns 1 / their sum."""
    peak = fold(
        k,
        k.each(count, lambda j, top: maximum(top, k.present(k.load(scores, j), LOWEST)), k.zeros() + LOWEST),
        maximum,
    )

    def second(j: Value, z: Value) -> Value:
        e = exp(k, k.load(scores, j) - peak)
        k.store(scores, j, e)
        return z + k.present(e, 0.0)

    return 1.0 / total(k, k.each(count, second, k.zeros()))


def softmax_forward(program: Program, form: str) -> Kernel:
    """Weights [rows, n] of scores fp32 [rows, n] (overwritten); zero outside each row's stretch.

    Row r is query q + r, columns are keys from `key` on; first: int64 [rows], the first key that each query sees.
    """
    k = program.kernel(f"softmax_forward_{form}", "pppiiii", internal=True)
    scores, weights, first, rows, n, query, key = k.arguments

    def row(r: Value) -> None:
        begin = k.load(first, r, I64, 0) - key
        count = query + r + 1 - key - begin
        row_of = k.offset(scores, r * n + begin, F32)
        whole = k.offset(weights, r * n, FORMATS[form])
        by = softmax_row(k, row_of, count)
        target = k.offset(whole, begin, FORMATS[form])
        zeros(k, form, whole, begin)
        zeros(k, form, k.offset(target, count, FORMATS[form]), n - begin - count)
        k.each(count, lambda j: k.write(form, target, j, k.load(row_of, j) * by))

    k.loop(0, rows, 1, row)
    return k.done()


def softmax_backward(program: Program, form: str) -> Kernel:
    """Gradients of scores [rows, n]: p (g - sum(p g)) inside each row's stretch, zero outside; as `softmax_forward`."""
    k = program.kernel(f"softmax_backward_{form}", "ppppiiii", internal=True)
    slopes, weights, out, first, rows, n, query, key = k.arguments

    def row(r: Value) -> None:
        begin = k.load(first, r, I64, 0) - key
        count = query + r + 1 - key - begin
        g, p = k.offset(slopes, r * n + begin, F32), k.offset(weights, r * n + begin, FORMATS[form])
        whole = k.offset(out, r * n, FORMATS[form])
        target = k.offset(whole, begin, FORMATS[form])
        along = total(k, k.each(count, lambda j, s: s + k.read(form, p, j) * k.load(g, j), k.zeros()))
        zeros(k, form, whole, begin)
        zeros(k, form, k.offset(target, count, FORMATS[form]), n - begin - count)
        k.each(count, lambda j: k.write(form, target, j, k.read(form, p, j) * (k.load(g, j) - along)))

    k.loop(0, rows, 1, row)
    return k.done()


def zeros(k: Kernel, form: str, target: Value, count: Value) -> None:
    """Write so many zeros."""
    k.each(count, lambda j: k.store(target, j, k.zeros(FORMATS[form])))


@dataclass(frozen=True)
class Shapes:
    """What the attention kernels know of their tensors: T positions, H query and K key heads of D channels."""

    T: Value
    H: Value
    K: Value
    D: Value

    @property
    def C(self) -> Value:
        """Channels of a row of queries, keys and values."""
        return (self.H + self.K * 2) * self.D


def forward_kernel(program: Program, form: str, product: Kernel) -> Kernel:
    """out [B, T, H D] of turned heads [B, T, (H + 2 K) D], for the heads b H + h from `begin` to `end`.

    first: int64 [B, T]; places: int64 [B, blocks + 1], where the weights of each block of queries begin in a head's;
    bases: int64 [B], where those of a row's heads begin. Weights are kept for the backward pass.
    """
    softmax = softmax_forward(program, form)
    k = program.kernel(f"attention_forward_{form}", "ppppppiiiiiipppp")
    x, first, places, bases, weights, out, begin, end, T, H, K, D, scores, pa, pb, pc = k.arguments
    s, element = Shapes(T, H, K, D), FORMATS[form]
    blocks = (T + (BLOCK - 1)) / BLOCK

    def head(i: Value) -> None:
        b, h = i / H, i % H
        group = h / (H / K)
        base = k.offset(x, b * T * s.C, element)
        queries, keys, values = (k.offset(base, part * D, element) for part in (h, H + group, H + K + group))
        row_first, row_places = k.offset(first, b * T, I64), k.offset(places, b * (blocks + 1), I64)
        mine = k.load(bases, b, I64, 0) + h * k.load(row_places, blocks, I64, 0)
        target = k.offset(out, b * T * H * D + h * D, element)

        def block(q: Value) -> None:
            m = least(T - q, BLOCK)
            key = k.load(row_first, q, I64, 0)
            n = q + m - key
            p = k.offset(weights, mine + k.load(row_places, q / BLOCK, I64, 0), element)
            query_rows, key_rows = k.offset(queries, q * s.C, element), k.offset(keys, key * s.C, element)
            k.call(product, m, n, D, query_rows, s.C, 1, key_rows, s.C, 1, scores, n, WHOLE, pa, pb, pc)
            k.call(softmax, scores, p, k.offset(row_first, q, I64), m, n, q, key)
            rows, to = k.offset(values, key * s.C, element), k.offset(target, q * H * D, element)
            k.call(product, m, D, n, p, n, 1, rows, s.C, 0, to, H * D, ROUNDED, pa, pb, pc)

        k.loop(0, T, BLOCK, block)

    k.loop(begin, end, 1, head)
    return k.done()


def backward_kernel(program: Program, form: str, product: Kernel) -> Kernel:
    """Gradients fp32 [B, T, (H + 2 K) D] of turned heads, for the key heads b K + g from `begin` to `end`.

    Those of queries are written, those of keys and values continued from zeros: chains over the heads that share them,
    in order, and over their queries.
    """
    softmax = softmax_backward(program, form)
    k = program.kernel(f"attention_backward_{form}", "pppppppiiiiiippppp")
    x, g, first, places, bases, weights, out, begin, end, T, H, K, D, scores, slopes, pa, pb, pc = k.arguments
    s, element = Shapes(T, H, K, D), FORMATS[form]
    blocks, shared, wide = (T + (BLOCK - 1)) / BLOCK, H / K, H * D

    def group(i: Value) -> None:
        b, kv = i / K, i % K
        place = b * T * s.C
        row_first, row_places = k.offset(first, b * T, I64), k.offset(places, b * (blocks + 1), I64)
        key_at, value_at = place + (H + kv) * D, place + (H + K + kv) * D

        def head(h: Value) -> None:
            mine = k.load(bases, b, I64, 0) + h * k.load(row_places, blocks, I64, 0)
            incoming = k.offset(g, b * T * wide + h * D, element)

            def block(q: Value) -> None:
                m = least(T - q, BLOCK)
                key = k.load(row_first, q, I64, 0)
                n = q + m - key
                p = k.offset(weights, mine + k.load(row_places, q / BLOCK, I64, 0), element)
                slope, keys_from, query = k.offset(incoming, q * wide, element), key * s.C, place + h * D + q * s.C
                queries = k.offset(x, query, element)
                keys, values = (k.offset(x, at + keys_from, element) for at in (key_at, value_at))
                dk, dv = (k.offset(out, at + keys_from, F32) for at in (key_at, value_at))
                k.call(product, n, D, m, p, n, 0, slope, wide, 0, dv, s.C, CONTINUED, pa, pb, pc)
                k.call(product, m, n, D, slope, wide, 1, values, s.C, 1, scores, n, WHOLE, pa, pb, pc)
                k.call(softmax, scores, p, slopes, k.offset(row_first, q, I64), m, n, q, key)
                dq = k.offset(out, query, F32)
                k.call(product, m, D, n, slopes, n, 1, keys, s.C, 0, dq, s.C, WHOLE, pa, pb, pc)
                k.call(product, n, D, m, slopes, n, 0, queries, s.C, 0, dk, s.C, CONTINUED, pa, pb, pc)

            k.loop(0, T, BLOCK, block)

        k.loop(kv * shared, (kv + 1) * shared, 1, head)

    k.loop(begin, end, 1, group)
    return k.done()


def remember_kernel(program: Program, form: str) -> Kernel:
    """Keys and values of turned heads [B, T, (H + 2 K) D] into a cache, at positions int64 [B or 1, T] (`period` rows).

    Keys lie as [B, K, D, capacity], values as [B, K, capacity, D].
    """
    k = program.kernel(f"remember_{form}", "ppppiiiiiii")
    x, keys, values, positions, rows, period, T, H, K, D, capacity = k.arguments
    s, element = Shapes(T, H, K, D), FORMATS[form]

    def row(r: Value) -> None:
        b = r / T
        position = k.load(positions, r % period, I64, 0)

        def head(h: Value) -> None:
            source = k.offset(x, r * s.C + (H + h) * D, element)
            slot = b * K + h
            column = k.offset(keys, slot * D * capacity + position, element)
            k.loop(0, D, 1, lambda d: k.store(column, d * capacity, k.load(source, d, element, 0)))
            line = k.offset(values, (slot * capacity + position) * D, element)
            k.each(D, lambda d: k.store(line, d, k.load(source, K * D + d, element)))

        k.loop(0, K, 1, head)

    k.loop(0, rows, 1, row)
    return k.done()


def recall_kernel(program: Program, form: str) -> Kernel:
    """out [rows, H D]: attention of single queries to a cache, as `forward_kernel` defines it; rows as in `remember`.

    window: keys that a query sees, its own included.
    """
    k = program.kernel(f"recall_{form}", "pppppiiiiiiiiip")
    x, keys, values, positions, out, begin, end, period, T, H, K, D, capacity, window, scores = k.arguments
    s, element = Shapes(T, H, K, D), FORMATS[form]

    def row(r: Value) -> None:
        b = r / T
        last = k.load(positions, r % period, I64, 0)
        first = maximum(last - window + 1, k.integer(0))
        count = last + 1 - first

        def head(h: Value) -> None:
            slot = b * K + h / (H / K)
            query = k.offset(x, r * s.C + h * D, element)
            seen = k.offset(keys, slot * D * capacity + first, element)

            def score(j: Value) -> None:
                def channel(d: Value, chain: Value) -> Value:
                    q = k.spread(operand(k, form, query, d, 0))
                    return chained(k, form, q, operand(k, form, seen, d * capacity + j, LANES), chain)

                k.store(scores, j, k.loop(0, D, 1, channel, k.zeros()))

            k.each(count, score)
            by = softmax_row(k, scores, count)
            k.each(count, lambda j: k.store(scores, j, weight(k, form, k.load(scores, j) * by)))
            line = k.offset(values, (slot * capacity + first) * D, element)
            target = k.offset(out, (r * H + h) * D, element)

            def value(d: Value) -> None:
                def key(j: Value, chain: Value) -> Value:
                    p = k.spread(k.load(scores, j, F32, 0))
                    return chained(k, form, p, operand(k, form, line, j * D + d, LANES), chain)

                k.write(form, target, d, k.loop(0, count, 1, key, k.zeros()))

            k.each(D, value)

        k.loop(0, H, 1, head)

    k.loop(begin, end, 1, row)
    return k.done()


def operand(k: Kernel, form: str, pointer: Value, index: Value, lanes: int) -> Value:
    """An operand of a product, as packing makes it."""
    if form == "fp32":
        return k.load(pointer, index, F32, lanes)
    return (flushed(k.load(pointer, index, FORMATS[form], lanes).cast(I32)) << 16).bits()


def weight(k: Kernel, form: str, x: Value) -> Value:
    """x rounded to the format and taken as an operand."""
    return x if form == "fp32" else (flushed(k.round_to_bf16(x).cast(I32)) << 16).bits()


def chained(k: Kernel, form: str, a: Value, b: Value, c: Value) -> Value:
    """The next step of a chain."""
    return c + a * b if form == "fp32" else add_exact_product(k, a, b, c)
