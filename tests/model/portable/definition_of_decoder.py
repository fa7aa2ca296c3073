"""A decoder's training step by the definition alone: forward, backward, clipping and AdamW."""

import math
from dataclasses import dataclass, field
from typing import Any

import definition as r
import numpy as np
from definition import Array, Form, f32, f64

from specs.schema.training import Architecture

Weights = dict[str, Array]


@dataclass
class Attention:
    """Attention of one layer over rows [B T, (H + 2 K) D]."""

    spec: Architecture
    form: Form
    window: int | None
    documents: Array
    """[B, T]"""
    turned: Array = field(default_factory=lambda: np.empty(0))
    weights: dict[tuple[int, int, int], Array] = field(default_factory=dict)

    def turn(self, x: Array, back: bool) -> Array:
        H, K, D = self.spec.n_heads, self.spec.kv_heads, self.spec.head_dim
        B, T = self.documents.shape
        cos, sin = r.angles(T, D, self.spec.rope_theta)
        heads = x.reshape(B, T, H + 2 * K, D).copy()
        u, v, c, s = heads[:, :, : H + K, : D // 2], heads[:, :, : H + K, D // 2 :], cos[:, None], sin[:, None]
        first, second = (u * c + v * s, v * c - u * s) if back else (u * c - v * s, v * c + u * s)
        heads[:, :, : H + K] = np.concatenate((first, second), -1)
        heads[:, :, :H] = heads[:, :, :H] * f32(D**-0.5)
        return self.form.rounded(heads)

    def first(self, b: int, t: int) -> int:
        begin = int(np.argmax(self.documents[b] == self.documents[b, t]))
        return begin if self.window is None else max(begin, t - self.window + 1)

    def forward(self, x: Array) -> Array:
        H, K, D = self.spec.n_heads, self.spec.kv_heads, self.spec.head_dim
        B, T = self.documents.shape
        self.turned = self.turn(x, back=False)
        out = np.zeros((B, T, H, D), f32)
        for b in range(B):
            for h in range(H):
                keys, values = (self.turned[b, :, H + part * K + h // (H // K)] for part in (0, 1))
                for t in range(T):
                    seen = slice(self.first(b, t), t + 1)
                    scores = self.form.product(self.turned[b, t : t + 1, h], keys[seen].T)[0]
                    p = self.form.rounded(r.softmax(scores))
                    self.weights[b, h, t] = p
                    out[b, t, h] = self.form.rounded(self.form.product(p[None], values[seen])[0])
        return out.reshape(B * T, H * D)

    def backward(self, grad: Array) -> Array:
        H, K, D = self.spec.n_heads, self.spec.kv_heads, self.spec.head_dim
        B, T = self.documents.shape
        grad, slopes = grad.reshape(B, T, H, D), np.zeros((B, T, H + 2 * K, D), f32)
        for b in range(B):
            for h in range(H):
                k = h // (H // K)
                keys, values = self.turned[b, :, H + k], self.turned[b, :, H + K + k]
                for t in range(T):
                    seen, p, g = slice(self.first(b, t), t + 1), self.weights[b, h, t], grad[b, t, h][None]
                    along = self.form.product(g, values[seen].T)[0]
                    ds = self.form.rounded(p * (along - r.folded((p * along)[None])[0]))
                    slopes[b, t, h] = self.form.product(ds[None], keys[seen])[0]
                    query = self.turned[b, t : t + 1, h]
                    for part, a, row in ((K + k, p, g), (k, ds, query)):
                        target = slopes[b, seen, H + part]
                        slopes[b, seen, H + part] = self.form.product(a[:, None], row, target)
        return self.turn(slopes, back=True).reshape(B * T, -1)


@dataclass
class Model:
    """Weights in a format, and the gradients of one micro-batch."""

    spec: Architecture
    weights: Weights
    form: Form
    grads: Weights = field(default_factory=dict)

    def linear(self, name: str, x: Array) -> Array:
        return self.form.rounded(self.form.product(x, self.weights[name].T))

    def linear_backward(self, name: str, g: Array, x: Array) -> Array:
        self.grads[name] = self.form.rounded(self.form.product(g.T, x))
        return self.form.rounded(self.form.product(g, self.weights[name]))

    def norm_backward(self, name: str, g: Array, x: Array, by: Array) -> Array:
        dx, self.grads[name] = r.norm_backward(self.form, g, x, self.weights[name], by)
        return dx

    def loss(
        self, tokens: Array, targets: Array, documents: Array, windows: Any, scale: float, learnt: Array | None = None
    ) -> float:
        """The loss of a micro-batch; leaves the gradients of all weights. `learnt`: bool [B, T], none for all."""
        eps, tape = self.spec.norm_eps, []
        output = "embedding.weight" if self.spec.tie_embeddings else "output.weight"
        x = self.weights["embedding.weight"][tokens.reshape(-1)]
        for index, window in enumerate(windows):
            at = f"blocks.{index}."
            attention = Attention(self.spec, self.form, window, documents)
            y, by = r.norm(self.form, x, self.weights[at + "attention_norm.weight"], eps)
            mixed = attention.forward(self.linear(at + "attention.qkv.weight", y))
            middle = self.form.rounded(x + self.linear(at + "attention.out.weight", mixed))
            z, by2 = r.norm(self.form, middle, self.weights[at + "feed_forward_norm.weight"], eps)
            gate_up = self.linear(at + "feed_forward.gate_up.weight", z)
            wide = r.swiglu(self.form, gate_up)
            tape.append((at, x, y, by, attention, mixed, middle, z, by2, gate_up, wide))
            x = self.form.rounded(middle + self.linear(at + "feed_forward.down.weight", wide))
        last, by = r.norm(self.form, x, self.weights["norm.weight"], eps)
        logits = self.form.product(last, self.weights[output].T)
        chosen = np.ones(len(last), bool) if learnt is None else learnt.reshape(-1)
        losses, slopes = r.entropy(self.form, logits[chosen], targets.reshape(-1)[chosen], scale)
        dlast = np.zeros_like(last)
        dlast[chosen] = self.form.rounded(self.form.product(slopes, self.weights[output]))
        head = self.form.rounded(self.form.product(slopes.T, last[chosen]))
        g = self.norm_backward("norm.weight", dlast, x, by)
        for layer in reversed(tape):
            g = self.layer_backward(g, *layer)
        looked = np.zeros_like(self.weights["embedding.weight"])
        for token, row in zip(tokens.reshape(-1), g, strict=True):
            looked[token] = looked[token] + row
        looked = self.form.rounded(looked)
        self.grads["embedding.weight"] = self.form.rounded(looked + head) if self.spec.tie_embeddings else looked
        self.grads.setdefault("output.weight", head)
        return float(f32(r.chain64(losses) * f64(scale)))

    def layer_backward(
        self, g: Array, at: str, x: Array, y: Array, by: Array, attention: Attention, *rest: Array
    ) -> Array:
        mixed, middle, z, by2, gate_up, wide = rest
        dwide = self.linear_backward(at + "feed_forward.down.weight", g, wide)
        dz = self.linear_backward(at + "feed_forward.gate_up.weight", r.swiglu_backward(self.form, dwide, gate_up), z)
        g = self.form.rounded(g + self.norm_backward(at + "feed_forward_norm.weight", dz, middle, by2))
        dmixed = self.linear_backward(at + "attention.out.weight", g, mixed)
        dy = self.linear_backward(at + "attention.qkv.weight", attention.backward(dmixed), y)
        return self.form.rounded(g + self.norm_backward(at + "attention_norm.weight", dy, x, by))


def shapes_of(spec: Architecture, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights, in the order in which norms are added."""
    d, heads = spec.d_model, (spec.n_heads + 2 * spec.kv_heads) * spec.head_dim
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (vocabulary, d)}
    for index in range(spec.n_layers):
        at = f"blocks.{index}."
        shapes |= {at + "attention_norm.weight": (d,), at + "attention.qkv.weight": (heads, d)}
        shapes |= {at + "attention.out.weight": (d, d), at + "feed_forward_norm.weight": (d,)}
        shapes |= {
            at + "feed_forward.gate_up.weight": (2 * spec.d_ff, d),
            at + "feed_forward.down.weight": (d, spec.d_ff),
        }
    return shapes | {"norm.weight": (d,)} | ({} if spec.tie_embeddings else {"output.weight": (vocabulary, d)})


def initial(spec: Architecture, vocabulary: int, seed: int) -> Weights:
    """fp32 weights at the start."""
    made, shapes = {}, shapes_of(spec, vocabulary)
    for name, shape in shapes.items():
        small = name.endswith(("attention.out.weight", "feed_forward.down.weight"))
        std = f32(spec.init_std / math.sqrt(2 * spec.n_layers) if small else spec.init_std)
        values = r.normals(seed, name, math.prod(shape)).reshape(shape) * std
        made[name] = np.ones(shape, f32) if name.endswith("norm.weight") else values
    return made
