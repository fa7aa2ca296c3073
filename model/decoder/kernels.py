"""Parts of a layer whose backward pass is written out, because autograd's would go over memory several times more."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 128
"""Queries that attention takes at a time on a CPU."""


def rotation(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines [B or 1, 1, T, D] of rotary positions (Su et al., 2021), halves rotated as in Llama: the first
    half of the sines is negative.

    Frequencies and angles are fp32, the former from the CPU, by the same operations as in `transformers`, so that an
    exported model is the same function there. At position 8,192 such an angle is off by 5e-4; taken in fp64 here alone,
    logits would differ by 2e-5 after some hundred positions.
    """
    powers = torch.arange(0, head_dim, 2, device="cpu", dtype=torch.float32) / head_dim
    angles = positions.float()[:, None, :, None] * (1.0 / theta**powers).to(positions.device)  # [B, 1, T, D/2]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    whole = x.float()
    return (whole * cos).add_(whole.roll(x.shape[-1] // 2, -1).mul_(sin)).to(x.dtype)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(grad, cos, -sin), None, None


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the channel pairs (i, i + D/2) of [B, H, T, D], in fp32; `sin` is negative in its first half.

    The gradient is turned back by the same angles.
    """
    return _Rotate.apply(x, cos, sin)  # type: ignore[no-any-return,no-untyped-call]


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        whole = x.float()
        scale = (whole * whole).mean(-1, keepdim=True).add_(eps).rsqrt_()
        normed = whole.mul(scale).to(x.dtype)
        ctx.save_for_backward(normed, scale, weight)
        return normed * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        normed, scale, weight = ctx.saved_tensors
        by_row, whole = (grad * weight).float(), normed.float()
        # d x = scale (g - n mean(g n)), with n the normed input and g the gradient that reaches it.
        along = (by_row * whole).mean(-1, keepdim=True)
        dx = by_row.sub_(whole * along).mul_(scale).to(normed.dtype)
        return dx, (grad * normed).flatten(0, -2).sum(0), None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """[..., C] over its root mean square (taken in fp32), rounded to its dtype, times `weight` [C]."""
    return _RMSNorm.apply(x, weight, eps)  # type: ignore[no-any-return,no-untyped-call]


class _BlockAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, window: int | None) -> Tensor:
        rows, heads, length, width = q.shape
        q, k, v = q * width**-0.5, k.contiguous(), v.contiguous()
        # Laid out as the projection that follows reads it.
        out = q.new_empty((rows, length, heads, width)).transpose(1, 2)
        weights = []
        for queries, keys in _blocks(length, window):
            scores = q[:, :, queries] @ k[:, :, keys].transpose(-2, -1)
            weights.append(scores.add_(bias[:, :, queries, keys]).softmax(-1))
            out[:, :, queries] = weights[-1] @ v[:, :, keys]
        ctx.save_for_backward(q, k, v, *weights)
        ctx.window = window
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, *weights = ctx.saved_tensors
        length, width = q.shape[-2:]
        grad, dq = grad.contiguous(), torch.empty_like(q)
        dk, dv = (torch.zeros_like(x, dtype=torch.float32) for x in (k, v))
        for (queries, keys), seen in zip(_blocks(length, ctx.window), weights, strict=True):
            dv[:, :, keys] += seen.transpose(-2, -1) @ grad[:, :, queries]
            slope = grad[:, :, queries] @ v[:, :, keys].transpose(-2, -1)
            slope = torch.ops.aten._softmax_backward_data(slope, seen, -1, seen.dtype)
            dq[:, :, queries] = slope @ k[:, :, keys]
            dk[:, :, keys] += slope.transpose(-2, -1) @ q[:, :, queries]
        return dq.mul_(width**-0.5), dk.to(k.dtype), dv.to(v.dtype), None, None


def _blocks(length: int, window: int | None) -> list[tuple[slice, slice]]:
    """Blocks of queries, each with the keys that causality and the window let any of them see, in whole blocks."""
    pairs = []
    for start in range(0, length, BLOCK):
        stop = min(start + BLOCK, length)
        first = 0 if window is None else max(0, start - window + 1) // BLOCK * BLOCK
        pairs.append((slice(start, stop), slice(first, stop)))
    return pairs


def block_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, window: int | None) -> Tensor:
    """Attention over rows as they stand, positions 0, 1, ...: [B, H, T, D] each -> [B, H, T, D].

    bias: [B or 1, 1, T, T] in the dtype of the queries, 0 where a key is seen and -inf elsewhere. Products of a block
    of queries with keys that none of them sees are left out, which is nearly half of all. Shapes depend on the length
    and the window alone. Gradients of keys and values are summed in fp32.
    """
    return _BlockAttention.apply(q, k, v, bias, window)  # type: ignore[no-any-return,no-untyped-call]
