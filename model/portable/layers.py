"""The operations of a layer with their gradients written out: what the decoder takes in the place of torch's own."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.portable import attention_operations, layer_operations, multiply, step_operations
from model.portable.attend import BLOCK

ops: Any = torch.ops.twice
DEFINED = (attention_operations, layer_operations, multiply, step_operations)
"""Importing them defines the operations."""
Angles = tuple[Tensor, Tensor]


class Cache(Protocol):
    """A layer's keys and values [B, K, capacity, D], and the positions int64 [B or 1, T] of new ones."""

    keys: Tensor
    values: Tensor
    positions: Tensor


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        ctx.save_for_backward(rows, weight)
        return ops.product(rows, weight.T).view(*x.shape[:-1], -1)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        rows, weight = ctx.saved_tensors
        slopes = grad.reshape(-1, grad.shape[-1])
        dx = ops.product(slopes, weight).view(*grad.shape[:-1], -1)
        return dx, ops.product(slopes.T, rows)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        y, scale = ops.norm(x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        return y  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        return *ops.norm_backward(grad.contiguous(), *ctx.saved_tensors), None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x)
        return ops.swiglu(x)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return ops.swiglu_backward(grad.contiguous(), *ctx.saved_tensors)  # type: ignore[no-any-return]


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, tokens: Tensor) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.rows = weight.shape[0]
        return F.embedding(tokens, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (tokens,) = ctx.saved_tensors
        return ops.lookup_backward(grad.contiguous(), tokens.contiguous(), ctx.rows), None


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, heads: Tensor, angles: Angles, plan: "Plan", queries: int, keys: int) -> Tensor:
        tables = plan.first, plan.places, plan.bases
        out, turned, weights = ops.attention(heads.contiguous(), *angles, *tables, plan.size(queries), queries, keys)
        ctx.save_for_backward(turned, weights, *angles, *tables)
        ctx.heads = queries, keys
        return out  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        slope = ops.attention_backward(grad.contiguous(), *ctx.saved_tensors, *ctx.heads)
        return slope, None, None, None, None


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scale: float) -> Tensor:
        learning = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        total, grad_hidden, grad_weight = ops.cross_entropy(
            hidden.contiguous(), weight.contiguous(), targets.contiguous(), scale, learning
        )
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.dtype = weight.dtype
        return (total * scale).float()  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad.to(grad_hidden.dtype), (grad_weight * grad).to(ctx.dtype), None, None


@dataclass(frozen=True)
class Plan:
    """Which keys the queries of B rows see, and where the weights of each block of queries lie."""

    first: Tensor
    """int64 [B, T]: the first key that each query sees; the last is its own."""
    places: Tensor
    """int64 [B, blocks + 1]: where those of a block begin among a head's."""
    bases: Tensor
    """int64 [B]: where those of a row's heads begin."""
    sizes: tuple[int, ...]
    """Weights of one head of each row."""

    def size(self, heads: int) -> int:
        """Weights of all rows and heads."""
        return heads * sum(self.sizes)


def plan(first: npt.NDArray[np.int64], heads: int) -> Plan:
    """The plan for keys from `first` [B, T] on."""
    length = first.shape[1]
    starts = np.arange(0, length, BLOCK)
    stops = np.minimum(starts + BLOCK, length)
    sizes = (stops - starts) * (stops - first[:, starts])  # [B, blocks]
    places = np.concatenate((np.zeros_like(first[:, :1]), sizes.cumsum(1)), 1)
    whole = places[:, -1]
    bases = (whole.cumsum() - whole) * heads
    tables = [torch.from_numpy(np.ascontiguousarray(x, dtype=np.int64)) for x in (first, places, bases)]
    return Plan(tables[0], tables[1], tables[2], tuple(int(x) for x in whole))


def first_keys(documents: Tensor | None, rows: int, length: int, window: int | None) -> npt.NDArray[np.int64]:
    """The first key that each query of rows as they stand sees: int64 [rows, length].

    documents: integers [rows, length], non-decreasing; none means that a row is one.
    """
    places = np.arange(length, dtype=np.int64)
    first = np.zeros((rows, length), np.int64)
    if documents is not None:
        ids = documents.numpy()
        begins = np.concatenate((np.ones((rows, 1), np.bool_), ids[:, 1:] != ids[:, :-1]), 1)
        first = np.maximum.accumulate(np.where(begins, places, 0), 1)
    return first if window is None else np.maximum(first, places - (window - 1))


@dataclass
class Attend:
    """Attention of one window over rows as they stand, or to a cache."""

    window: int | None
    documents: Tensor | None
    in_order: bool
    plans: dict[tuple[int, int], Plan] = field(default_factory=dict)

    def __call__(self, heads: Tensor, angles: Angles, queries: int, keys: int, cache: Cache | None) -> Tensor:
        """[B, T, (H + 2 K) D] -> [B, T, H D]."""
        rows, length = heads.shape[:2]
        if not self.in_order:
            assert cache is not None, "without a cache, rows have the positions 0, 1, ..."
            turned = ops.turned(heads.contiguous(), *angles, queries, keys)
            positions = cache.positions.contiguous()
            ops.remember_(turned, positions, cache.keys, cache.values)
            window = self.window or cache.keys.shape[2]
            return ops.recall(turned, positions, cache.keys, cache.values, window)  # type: ignore[no-any-return]
        if (rows, length) not in self.plans:
            self.plans[rows, length] = plan(first_keys(self.documents, rows, length, self.window), queries)
        known = self.plans[rows, length]
        if cache is None:
            return _Attention.apply(heads, angles, known, queries, keys)  # type: ignore[no-any-return,no-untyped-call]
        tables = known.first, known.places, known.bases
        out, turned, _ = ops.attention(heads.contiguous(), *angles, *tables, known.size(queries), queries, keys)
        ops.remember_(turned, cache.positions.contiguous(), cache.keys, cache.values)
        return out  # type: ignore[no-any-return]


class Portable:
    """The decoder's arithmetic with the same bits on any processor: an `Arithmetic` of `model.decoder`."""

    backend = "portable"
    shapes_matter = False

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """[..., K] times weight [N, K]: [..., N]."""
        return _Linear.apply(x, weight)  # type: ignore[no-any-return,no-untyped-call]

    def norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """[..., C] over its root mean square, times `weight` [C]."""
        return _Norm.apply(x, weight, eps)  # type: ignore[no-any-return,no-untyped-call]

    def swiglu(self, gate_up: Tensor) -> Tensor:
        """[..., 2 F] -> [..., F]."""
        return _SwiGLU.apply(gate_up)  # type: ignore[no-any-return,no-untyped-call]

    def lookup(self, weight: Tensor, tokens: Tensor) -> Tensor:
        """Rows of `weight` [V, C] for token ids [B, T]."""
        return _Lookup.apply(weight, tokens)  # type: ignore[no-any-return,no-untyped-call]

    def rotation(self, positions: Tensor, head_dim: int, theta: float) -> Angles:
        """Cosines and sines fp32 [B or 1, T, D / 2]."""
        return ops.angles(positions, head_dim, theta)  # type: ignore[no-any-return]

    def attend(
        self,
        windows: Sequence[int | None],
        positions: Tensor,
        documents: Tensor | None,
        capacity: int | None,
        *,
        in_order: bool,
        dtype: torch.dtype,
    ) -> dict[int | None, Attend]:
        """One function for each distinct window."""
        return {window: Attend(window, documents, in_order) for window in dict.fromkeys(windows)}

    def cross_entropy(self, hidden: Tensor, weight: Tensor, targets: Tensor, *, scale: float, chunk: int) -> Tensor:
        """`scale` times the summed cross-entropy; `chunk` changes no bit here and is not needed."""
        return _CrossEntropy.apply(hidden, weight, targets, scale)  # type: ignore[no-any-return,no-untyped-call]
