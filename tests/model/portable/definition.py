"""Level portable by its definition alone (docs/portable.md): numpy, one IEEE operation at a time.

Shares no code with the kernels. Tensors are fp32 arrays; at bf16 compute they hold bfloat16 values.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

f32, f64 = np.float32, np.float64
Array = npt.NDArray[Any]
LN2 = (float.fromhex("0x1.62e42fefa0000p-1"), float.fromhex("0x1.cf79abc9e3b39p-40"))
HALF_PI = (float.fromhex("0x1.921fb54000000p+0"), float.fromhex("0x1.10b4611a62633p-30"))


def to_bf16(x: Array) -> Array:
    """The nearest bfloat16, ties to even, as fp32."""
    word = np.ascontiguousarray(x, f32).view(np.uint32)
    rounded = (word + ((word >> 16) & 1) + np.uint32(0x7FFF)) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(x), f32("nan"), rounded.view(f32))


@dataclass(frozen=True)
class Form:
    """A number format: how results are rounded, and how operands of products are taken."""

    bf16: bool

    def rounded(self, x: Array) -> Array:
        return to_bf16(x) if self.bf16 else x.astype(f32)

    def product(self, a: Array, b: Array, start: Array | None = None) -> Array:
        """a [M, K] times b [K, N]: for each output one chain over k."""
        if self.bf16:
            a, b = (np.where(np.abs(x) < f32(2.0**-55), f32(0), x) for x in (a, b))
        chain = np.zeros((a.shape[0], b.shape[1]), f32) if start is None else start
        for k in range(a.shape[1]):
            chain = chain + a[:, k : k + 1] * b[k]
        return chain


def folded(x: Array) -> Array:
    """Sums over rows [R, n] -> [R]: sixteen lanes, then a tree."""
    lanes = np.zeros((x.shape[0], 16), x.dtype)
    for j in range(0, x.shape[1], 16):
        part = x[:, j : j + 16]
        lanes[:, : part.shape[1]] = lanes[:, : part.shape[1]] + part
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes[:, 0]


def exp(x: Array) -> Array:
    y = np.where(x < -87, f32(-87), np.where(x < 88, x, f32(88))).astype(f32)
    shifted = y * f32(1.4426950408889634) + f32(12582912)
    n = shifted - f32(12582912)
    r = y - n * f32(0.693359375) - n * f32(-2.12194440e-4)
    p = np.full_like(r, f32(1 / 5040))
    for c in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1, 1):
        p = p * r + f32(c)
    power = (shifted.view(np.uint32) - np.uint32(0x4B400000)) << 23
    return np.where(np.isnan(x), x, np.where(x < -87, f32(0), (power + p.view(np.uint32)).view(f32)))


def log(x: Array) -> Array:
    """Of numbers above 0 and below infinity."""
    word = np.asarray(x, f64).view(np.int64)
    e = (word - 0x3FE6A09E00000000) >> 52
    m = (word - (e << 52)).view(f64)
    s = (m - 1) / (m + 1)
    z, y = s * s, np.full_like(m, 1 / 21)
    for odd in range(19, 0, -2):
        y = y * z + 1 / odd
    return y * s * 2 + e.astype(f64) * LN2[0] + e.astype(f64) * LN2[1]


def exp64(x: float) -> float:
    n = x * 1.4426950408889634 + 6755399441055744.0 - 6755399441055744.0
    r, p = x - n * LN2[0] - n * LN2[1], 1 / math.factorial(13)
    for i in range(12, -1, -1):
        p = p * r + 1 / math.factorial(i)
    return math.ldexp(p, int(n))


def sin_cos(x: Array) -> tuple[Array, Array]:
    n = x * (2 / math.pi) + 6755399441055744.0 - 6755399441055744.0
    r = x - n * HALF_PI[0] - n * HALF_PI[1]
    z, s, c = r * r, np.zeros_like(r), np.zeros_like(r)
    for i in range(8, -1, -1):
        s = s * z + (-1) ** i / math.factorial(2 * i + 1)
        c = c * z + (-1) ** i / math.factorial(2 * i)
    s, q = s * r, n.astype(np.int64) & 3
    return np.choose(q, [s, c, 0 - s, 0 - c]), np.choose(q, [c, 0 - s, 0 - c, s])


def normals(seed: int, name: str, count: int) -> Array:
    """Initial normal numbers of a parameter, in blocks of 65,536."""
    made = []
    for block in range(-(-count // 65_536)):
        key = hashlib.sha256(f"{seed}/{name}/{block}".encode()).digest()[:16]
        words = np.random.Philox(key=int.from_bytes(key, "little")).random_raw(65_536)
        u, w = ((words >> np.uint64(11)).astype(f64) * 2.0**-53).reshape(2, -1)
        radius = np.sqrt(log(1 - u) * -2)
        s, c = sin_cos(w * 6.283185307179586)
        made.append(np.concatenate((radius * c, radius * s)).astype(f32))
    return np.concatenate(made)[:count]


def angles(length: int, width: int, theta: float) -> tuple[Array, Array]:
    """Cosines and sines [T, D / 2]."""
    half, exponent = width // 2, float(log(np.array([theta]))[0])
    frequency = np.array([exp64(0 - (i / half) * exponent) for i in range(half)]).astype(f32)
    s, c = sin_cos((np.arange(length).astype(f32)[:, None] * frequency).astype(f64))
    return c.astype(f32), s.astype(f32)


def norm(form: Form, x: Array, w: Array, eps: float) -> tuple[Array, Array]:
    by = f32(1) / np.sqrt(folded(x * x) / f32(x.shape[1]) + f32(eps))
    return form.rounded(x * by[:, None] * w), by


def norm_backward(form: Form, g: Array, x: Array, w: Array, by: Array) -> tuple[Array, Array]:
    normed = x * by[:, None]
    along = folded(g * w * normed) / f32(x.shape[1])
    dx = form.rounded((g * w - normed * along[:, None]) * by[:, None])
    parts = []
    for start in range(0, len(x), 256):
        chain = np.zeros(x.shape[1], f32)
        for r in range(start, min(start + 256, len(x))):
            chain = chain + g[r] * normed[r]
        parts.append(chain)
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return dx, form.rounded(total)


def swiglu(form: Form, x: Array) -> Array:
    gate, up = np.split(x, 2, 1)
    return form.rounded(gate / (f32(1) + exp(f32(0) - gate)) * up)


def swiglu_backward(form: Form, g: Array, x: Array) -> Array:
    gate, up = np.split(x, 2, 1)
    s = f32(1) / (f32(1) + exp(f32(0) - gate))
    return form.rounded(np.concatenate((g * up * (s * (f32(1) + gate * (f32(1) - s))), g * (gate * s)), 1))


def softmax(x: Array) -> Array:
    """Of one row."""
    e = exp(x - x.max())
    return e * (f32(1) / folded(e[None])[0])


def entropy(form: Form, x: Array, targets: Array, scale: float) -> tuple[Array, Array]:
    """Losses fp64 and slopes of logits [N, V]."""
    top = x.max(1)
    e = exp(x - top[:, None])
    z, rows = folded(e), np.arange(len(x))
    losses = log(z.astype(f64)) + (top.astype(f64) - x[rows, targets].astype(f64))
    by = f32(1) / z
    slopes = e * by[:, None] * f32(scale)
    slopes[rows, targets] = (e[rows, targets] * by - f32(1)) * f32(scale)
    return losses, form.rounded(slopes)


def chain64(values: Array) -> float:
    total = 0.0
    for value in values.tolist():
        total = total + value
    return total


def power(base: float, exponent: int) -> float:
    result, square = 1.0, base
    while exponent:
        result, square, exponent = result * square if exponent & 1 else result, square * square, exponent >> 1
    return result


def adamw(p: Array, g: Array, m: Array, v: Array, update: int, lr: float, decay: float) -> tuple[Array, Array, Array]:
    """One update (counted from 1) with beta1 0.9, beta2 0.95, eps 1e-8."""
    m = m * f32(0.9) + g * f32(1 - 0.9)
    v = v * f32(0.95) + g * g * f32(1 - 0.95)
    root, rate = f32(math.sqrt(1 - power(0.95, update))), f32(lr / (1 - power(0.9, update)))
    return p * f32(1 - lr * decay) - m / (np.sqrt(v) / root + f32(1e-8)) * rate, m, v


def stretched(values: Array) -> float:
    """Sum in fp64: stretches of 256 in lanes, then the stretches in order."""
    total = 0.0
    for start in range(0, len(values), 256):
        total = total + float(folded(values[None, start : start + 256].astype(f64))[0])
    return total


def drawn(logits: Array, uniform: float, temperature: float, top_p: float) -> int:
    """The token that a number falls on; -1 outside the nucleus."""
    y = logits / f32(temperature)
    e = exp(y - y.max())
    everything = stretched(e)
    level, run, token = uniform * everything, 0.0, len(e) - 1
    for start in range(0, len(e), 256):
        after = run + stretched(e[start : start + 256])
        if level < after:
            stretch, token = e[start : start + 256], min(start + 256, len(e)) - 1
            for i, value in enumerate(stretch.tolist()):
                run = run + value
                if level < run:
                    token = start + i
                    break
            break
        run = after
    ids = np.arange(len(e))
    mass = stretched(np.where((e > e[token]) | ((e == e[token]) & (ids < token)), e, f32(0)))
    return token if mass < everything * top_p or mass == 0 else -1
