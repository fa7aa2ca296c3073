"""Kernels over rows: norms, SwiGLU, rotary positions. Sums over a row run in 16 lanes, then fold by a tree."""

from collections.abc import Callable

from model.portable.functions import exp, exp64, log, sine_and_cosine, sqrt, total
from model.portable.language import FORMATS, Kernel, Program
from model.portable.values import F32, F64, I64, Value

NORM_ROWS = 256
"""Rows over which the gradient of a norm's gains is one chain; the sums of such stretches are added in order."""


def norm_forward(program: Program, form: str) -> Kernel:
    """y = x by w, with by = 1 / sqrt(mean(x^2) + eps), which is kept: [rows]."""
    k = program.kernel(f"norm_forward_{form}", "ppppiif")
    x, w, y, scale, rows, n, eps = k.arguments
    width = n.cast(F32)

    def row(r: Value) -> None:
        source, target = (k.offset(z, r * n, FORMATS[form]) for z in (x, y))

        def square(j: Value, s: Value) -> Value:
            value = k.read(form, source, j)
            return s + value * value

        by = 1.0 / sqrt(k, total(k, k.each(n, square, k.zeros())) / width + eps)
        k.store(scale, r, by)
        k.each(n, lambda j: k.write(form, target, j, k.read(form, source, j) * by * k.read(form, w, j)))

    k.rows(rows, row)
    return k.done()


def norm_backward(program: Program, form: str) -> Kernel:
    """dx = (g w - (x by) along) by, along = mean(g w (x by)); g (x by) is added to dw, fp32 [n], row after row."""
    k = program.kernel(f"norm_backward_{form}", "ppppppii")
    g, x, w, scale, dx, dw, rows, n = k.arguments
    width = n.cast(F32)

    def row(r: Value) -> None:
        source, slope, target = (k.offset(z, r * n, FORMATS[form]) for z in (x, g, dx))
        by = k.load(scale, r, F32, 0)

        def first(j: Value, s: Value) -> Value:
            normed, grad = k.read(form, source, j) * by, k.read(form, slope, j)
            k.store(dw, j, k.load(dw, j) + grad * normed)
            return s + grad * k.read(form, w, j) * normed

        along = total(k, k.each(n, first, k.zeros())) / width

        def second(j: Value) -> None:
            normed, grad = k.read(form, source, j) * by, k.read(form, slope, j)
            k.write(form, target, j, (grad * k.read(form, w, j) - normed * along) * by)

        k.each(n, second)

    k.loop(0, rows, 1, row)
    return k.done()


def swiglu_forward(program: Program, form: str) -> Kernel:
    """y [rows, n] = gate / (1 + e^-gate) up, of x [rows, 2 n]: gates, then ups."""
    k = program.kernel(f"swiglu_forward_{form}", "ppii")
    x, y, rows, n = k.arguments

    def row(r: Value) -> None:
        source, target = k.offset(x, r * n * 2, FORMATS[form]), k.offset(y, r * n, FORMATS[form])

        def at(j: Value) -> None:
            gate, up = k.read(form, source, j), k.read(form, source, n + j)
            k.write(form, target, j, gate / (1.0 + exp(k, 0.0 - gate)) * up)

        k.each(n, at)

    k.rows(rows, row)
    return k.done()


def swiglu_backward(program: Program, form: str) -> Kernel:
    """Gradients of gates and ups: s = 1 / (1 + e^-gate); g up (s (1 + gate (1 - s))), and g (gate s)."""
    k = program.kernel(f"swiglu_backward_{form}", "pppii")
    g, x, dx, rows, n = k.arguments

    def row(r: Value) -> None:
        source, target = (k.offset(z, r * n * 2, FORMATS[form]) for z in (x, dx))
        slope = k.offset(g, r * n, FORMATS[form])

        def at(j: Value) -> None:
            gate, up, grad = k.read(form, source, j), k.read(form, source, n + j), k.read(form, slope, j)
            s = 1.0 / (1.0 + exp(k, 0.0 - gate))
            k.write(form, target, j, grad * up * (s * (1.0 + gate * (1.0 - s))))
            k.write(form, target, n + j, grad * (gate * s))

        k.each(n, at)

    k.rows(rows, row)
    return k.done()


def rotate(program: Program, form: str, *, back: bool) -> Kernel:
    """Heads [rows, H + 2 K, D]: queries are turned and scaled, keys turned, values copied.

    Row r takes the angles of row r mod `period`, cosines and sines fp32 [period, D / 2]. Back: of fp32 gradients, by
    the opposite angles.
    """
    k = program.kernel(f"rotate_{'back' if back else 'forward'}_{form}", "ppppiiiiif")
    x, y, cosines, sines, rows, period, queries, keys, width, scale = k.arguments
    half, heads = width / 2, queries + keys * 2
    source_form = "fp32" if back else form

    def row(r: Value) -> None:
        angle = r % period * half
        cosine, sine = (k.offset(z, angle, F32) for z in (cosines, sines))

        def head(h: Value, by: Value | None) -> None:
            place = (r * heads + h) * width
            source, target = k.offset(x, place, FORMATS[source_form]), k.offset(y, place, FORMATS[form])

            def at(j: Value) -> None:
                u, v = k.read(source_form, source, j), k.read(source_form, source, half + j)
                c, s = k.load(cosine, j), k.load(sine, j)
                first, second = (u * c + v * s, v * c - u * s) if back else (u * c - v * s, v * c + u * s)
                if by is not None:
                    first, second = first * by, second * by
                k.write(form, target, j, first)
                k.write(form, target, half + j, second)

            k.each(half, at)

        k.loop(0, queries, 1, lambda h: head(h, scale))
        k.loop(queries, queries + keys, 1, lambda h: head(h, None))
        rest = (r * heads + queries + keys) * width
        source, target = k.offset(x, rest, FORMATS[source_form]), k.offset(y, rest, FORMATS[form])
        k.each(keys * width, lambda j: k.write(form, target, j, k.read(source_form, source, j)))

    k.rows(rows, row)
    return k.done()


def frequencies(program: Program) -> Kernel:
    """theta^(-2 i / D), i = 0, 1, ..., half - 1: e^(-(2 i / D) ln theta) in fp64, rounded to fp32."""
    k = program.kernel("frequencies", "pid")
    out, half, theta = k.arguments
    exponent = log(k, theta)

    def at(i: Value) -> None:
        share = i.cast(F64) / half.cast(F64)
        k.store(out, i, exp64(k, 0.0 - share * exponent).cast(F32))

    k.loop(0, half, 1, at)
    return k.done()


def angles(program: Program) -> Kernel:
    """Cosines and sines fp32 [rows, half] of position times frequency, a product in fp32; functions in fp64."""
    k = program.kernel("angles", "ppppii")
    positions, frequency, cosines, sines, rows, half = k.arguments

    def row(r: Value) -> None:
        position = k.load(positions, r, I64, 0).cast(F32)

        def at(j: Value) -> None:
            s, c = sine_and_cosine(k, (position * k.load(frequency, j)).cast(F64))
            k.store(sines, r * half + j, s.cast(F32))
            k.store(cosines, r * half + j, c.cast(F32))

        k.each(half, at)

    k.rows(rows, row)
    return k.done()


def normals(program: Program) -> Kernel:
    """Box and Muller (1958): values i and half + i from the words i and half + i, whose upper 53 bits make u and w.

    sqrt(-2 ln(1 - u)) times the cosine and the sine of 2 pi w; all in fp64, rounded to fp32 at the end.
    """
    k = program.kernel("normals", "ppi")
    words, out, half = k.arguments
    unit, turn = 2.0**-53, 6.283185307179586

    def at(i: Value) -> None:
        u, w = (k.load(words, i + start, I64, 0) >> 11 for start in (k.integer(0), half))
        radius = sqrt(k, log(k, 1.0 - u.cast(F64) * unit) * -2.0)
        s, c = sine_and_cosine(k, w.cast(F64) * unit * turn)
        k.store(out, i, (radius * c).cast(F32))
        k.store(out, i + half, (radius * s).cast(F32))

    k.loop(0, half, 1, at)
    return k.done()


def row_kernels(program: Program, form: str) -> None:
    """All kernels over rows of a format."""
    makers: tuple[Callable[[Program, str], Kernel], ...] = (
        norm_forward,
        norm_backward,
        swiglu_forward,
        swiglu_backward,
    )
    for maker in makers:
        maker(program, form)
    for back in (False, True):
        rotate(program, form, back=back)


def table_kernels(program: Program) -> None:
    """What is computed once: angles of rotary positions, and weights at the start."""
    for maker in (frequencies, angles, normals):
        maker(program)
