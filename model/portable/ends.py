"""Kernels for the two ends of the model: cross-entropy, and the gradient of the lookup of tokens."""

from model.portable.attend import LOWEST
from model.portable.functions import exp, fold, log, maximum, total
from model.portable.language import FORMATS, Kernel, Program
from model.portable.values import F32, F64, I64, Value


def entropy(program: Program, form: str) -> Kernel:
    """Losses fp64 [rows] of logits fp32 [rows, n] (overwritten) for targets int64 [rows], and their slopes [rows, n].

    loss = ln(sum of e^(logit - largest)) + (largest - logit of the target), in fp64 from the sum on. slope = p scale,
    and (p - 1) scale at the target, where p = e^(logit - largest) (1 / sum). No slopes are written unless `learning`.
    """
    k = program.kernel(f"entropy_{form}", "ppppiifi")
    logits, targets, losses, slopes, rows, n, scale, learning = k.arguments

    def row(r: Value) -> None:
        x, out = k.offset(logits, r * n, F32), k.offset(slopes, r * n, FORMATS[form])
        target = k.load(targets, r, I64, 0)
        wanted = k.load(x, target, F32, 0)
        top = k.each(n, lambda j, t: maximum(t, k.present(k.load(x, j), LOWEST)), k.zeros() + LOWEST)
        peak = fold(k, top, maximum)

        def second(j: Value, z: Value) -> Value:
            e = exp(k, k.load(x, j) - peak)
            k.store(x, j, e)
            return z + k.present(e, 0.0)

        z = total(k, k.each(n, second, k.zeros()))
        k.store(losses, r, log(k, z.cast(F64)) + (peak.cast(F64) - wanted.cast(F64)))

        def slope() -> None:
            by = 1.0 / z
            k.each(n, lambda j: k.write(form, out, j, k.load(x, j) * by * scale))
            k.write(form, out, target, (k.load(x, target, F32, 0) * by - 1.0) * scale)

        k.when(learning.equals(1), slope)

    k.rows(rows, row)
    return k.done()


def lookup_backward(program: Program, form: str) -> Kernel:
    """Gradients [count, C] of looked-up rows, added to out fp32 [V, C] in the order of tokens int64 [count].

    Only channels from `begin` to `end`.
    """
    k = program.kernel(f"lookup_backward_{form}", "pppiiii")
    g, tokens, out, count, channels, begin, end = k.arguments

    def token(i: Value) -> None:
        source = k.offset(g, i * channels + begin, FORMATS[form])
        target = k.offset(out, k.load(tokens, i, I64, 0) * channels + begin, F32)
        k.each(end - begin, lambda j: k.store(target, j, k.load(target, j) + k.read(form, source, j)))

    k.loop(0, count, 1, token)
    return k.done()


def chain64(program: Program) -> Kernel:
    """The sum of fp64 numbers, one after the other, continued from what stands at the target."""
    k = program.kernel("chain64", "ppi")
    x, out, n = k.arguments
    k.store(out, 0, k.loop(0, n, 1, lambda i, s: s + k.load(x, i, F64, 0), k.load(out, 0, F64, 0)))
    return k.done()


def end_kernels(program: Program, form: str) -> None:
    """All of these."""
    for maker in (entropy, lookup_backward):
        maker(program, form)
    if form == "fp32":
        chain64(program)
