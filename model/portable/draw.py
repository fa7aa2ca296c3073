"""Kernels that choose the next token from logits fp32 [rows, n]."""

import math
from collections.abc import Callable

from model.portable.attend import LOWEST
from model.portable.functions import exp, fold, maximum, total
from model.portable.language import LANES, Kernel, Program
from model.portable.values import F32, F64, Value

Read = Callable[[Value], Value]

STRETCH = 256
"""Tokens whose probabilities are added in lanes; the sums of such stretches are added in order."""


def likeliest(program: Program) -> Kernel:
    """The token with the largest logit, of equal ones the first: int64 [rows]; -2 where there is no distribution."""
    k = program.kernel("likeliest", "ppii")
    logits, tokens, rows, n = k.arguments

    def row(r: Value) -> None:
        x = k.offset(logits, r * n, F32)
        peak = _largest(k, x, n)

        def before(j: Value, token: Value) -> Value:
            place = n - 1 - j
            return k.load(x, place, F32, 0).equals(peak).choose(place, token)

        token = k.loop(0, n, 1, before, k.integer(0))
        everything = total(k, k.each(n, lambda j, s: s + k.present(exp(k, k.load(x, j) - peak), 0.0), k.zeros()))
        k.store(tokens, r, _finite(everything).choose(token, -2))

    k.rows(rows, row)
    return k.done()


def likelihoods(program: Program) -> Kernel:
    """e^(y - largest y) of each row, y = logit / temperature: fp32 [rows, n]."""
    k = program.kernel("likelihoods", "ppiif")
    logits, out, rows, n, temperature = k.arguments
    k.rows(rows, lambda r: _likelihoods(k, k.offset(logits, r * n, F32), k.offset(out, r * n, F32), n, temperature))
    return k.done()


def _likelihoods(k: Kernel, x: Value, out: Value, n: Value, temperature: Value) -> None:
    k.each(n, lambda j: k.store(out, j, k.load(x, j) / temperature))
    peak = _largest(k, out, n)
    k.each(n, lambda j: k.store(out, j, exp(k, k.load(out, j) - peak)))


def drawn(program: Program) -> Kernel:
    """The token that a number u in [0, 1) falls on, int64 [rows]; -1 where it lies outside the nucleus,
    -2 where the logits hold no distribution.

    e = e^(y - largest y) with y = logit / temperature, in fp32; their sums in fp64: stretches of 256 in lanes, then
    the stretches in order. The token is the first whose running sum exceeds u times the total: stretches first, then
    one after the other. It lies in the nucleus where the tokens before it (larger e; of equal ones, lower ids) have a
    sum of 0, or one below top_p times the total.
    """
    k = program.kernel("drawn", "ppppiifd")
    logits, uniform, tokens, work, rows, n, temperature, top_p = k.arguments

    def row(r: Value) -> None:
        x = k.offset(logits, r * n, F32)
        _likelihoods(k, x, work, n, temperature)
        everything = _sum(k, n, lambda j: k.load(work, j))
        level = k.load(uniform, r, F64, 0) * everything
        token = _fallen(k, work, n, level)
        mine = k.load(work, token, F32, 0)

        def earlier(j: Value) -> Value:
            e = k.load(work, j)
            ids = k.lane_numbers() + j
            return ((e > mine) | (e.equals(mine) & (ids < token))).choose(e, 0.0)

        mass = _sum(k, n, earlier)
        inside = (mass < everything * top_p) | mass.equals(0.0)
        k.store(tokens, r, _finite(everything).choose(inside.choose(token, -1), -2))

    k.loop(0, rows, 1, row)
    return k.done()


def _finite(everything: Value) -> Value:
    """Whether likelihoods of such a sum are a distribution: some logit is finite, and none is NaN or infinity."""
    return (everything > 0.0) & (everything < math.inf)


def _largest(k: Kernel, x: Value, n: Value) -> Value:
    top = k.each(n, lambda j, t: maximum(t, k.present(k.load(x, j), LOWEST)), k.zeros() + LOWEST)
    return fold(k, top, maximum)


def _stretch(k: Kernel, n: Value, start: Value, read: Read) -> Value:
    """Sum in fp64 of the numbers of one stretch."""
    left = n - start
    count = (left < STRETCH).choose(left, STRETCH)

    def lanes(j: Value, s: Value) -> Value:
        return s + k.present(read(start + j), 0.0).cast(F64)

    return total(k, k.each(count, lanes, k.zeros(F64, LANES)))


def _sum(k: Kernel, n: Value, read: Read) -> Value:
    total_: Value = k.loop(0, n, STRETCH, lambda start, s: s + _stretch(k, n, start, read), k.constant(0.0, F64))
    return total_


def _fallen(k: Kernel, x: Value, n: Value, level: Value) -> Value:
    """The first token whose running sum exceeds the level; the last one where rounding leaves none."""
    zero, none = k.constant(0.0, F64), k.integer(-1)

    def stretch(start: Value, run: Value, at: Value, before: Value) -> list[Value]:
        after = run + _stretch(k, n, start, lambda j: k.load(x, j))
        hit = (at < 0) & (level < after)
        return [after, hit.choose(start, at), hit.choose(run, before)]

    _, at, before = k.loop(0, n, STRETCH, stretch, zero, none, zero)
    begin = (at < 0).choose(n - 1, at)
    left = n - begin
    end = begin + (left < STRETCH).choose(left, STRETCH)

    def token(j: Value, run: Value, chosen: Value) -> list[Value]:
        after = run + k.load(x, j, F32, 0).cast(F64)
        return [after, ((chosen < 0) & (level < after)).choose(j, chosen)]

    _, chosen = k.loop(begin, end, 1, token, before, none)
    token_: Value = (chosen < 0).choose(end - 1, chosen)
    return token_


def draw_kernels(program: Program) -> None:
    """All of these."""
    likeliest(program)
    likelihoods(program)
    drawn(program)
