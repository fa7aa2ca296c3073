"""Which keys each query sees, as a pattern in the spec, lowered to the kernels that a device has.

A pattern gives every layer a window (or none: all earlier keys). `lower` turns windows, positions and documents into
one function for each distinct window, once for a forward pass.
"""

import importlib.util
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from model.decoder.kernels import block_attention
from specs.common.errors import UserError
from specs.schema import training

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries [B, H, T, D], keys and values [B, K, S, D] -> [B, H, T, D]."""

VARIABLE_LENGTH = ("varlen", "flash")
"""Backends that take documents as sequences of their own length: no mask, and no work between documents."""


def backend_for(attention: training.Attention, device: str, dtype: torch.dtype = torch.float32) -> str:
    """The backend that computes on a kind of device (`cpu`, `cuda`) in a number format.

    `auto` is `varlen` where it can be, else `sdpa`. Raises UserError where the one that is named cannot be had.
    """
    missing = {name: _why_not(name, device, dtype) for name in (*VARIABLE_LENGTH, "flex")}
    if attention.backend == "auto":
        return "sdpa" if missing["varlen"] else "varlen"
    if reason := missing.get(attention.backend):
        usable = ["auto", "reference", "sdpa", *(name for name, why in missing.items() if not why)]
        raise UserError(
            f"architecture.attention.backend: {attention.backend!r} is not available on {device}: {reason}; "
            f"choose {', '.join(usable[:-1])} or {usable[-1]}"
        )
    return attention.backend


def visible(positions: Tensor, documents: Tensor | None, window: int | None, capacity: int | None = None) -> Tensor:
    """Which keys each query sees: bool [B or 1, 1, T, S].

    positions: int64 [B or 1, T]; documents: integers [B, T] or none. With a cache, keys are the positions up to its
    capacity; otherwise they are the queries' own.
    """
    query = positions[:, None, :, None]
    key = positions[:, None, None, :] if capacity is None else torch.arange(capacity, device=positions.device)
    seen = key <= query
    if window is not None:
        seen &= key > query - window
    if documents is not None:
        seen = seen & (documents[:, None, :, None] == documents[:, None, None, :])
    return seen


def lower(
    backend: str,
    windows: Sequence[int | None],
    positions: Tensor,
    documents: Tensor | None,
    capacity: int | None,
    *,
    in_order: bool = False,
    dtype: torch.dtype | None = None,
) -> dict[int | None, Attend]:
    """One function for each distinct window; arguments as in `visible`. `in_order` says that every row's positions are
    0, 1, ..., and `dtype` what queries will come in: kernels may then leave out what causality hides.

    With a cache, the variable-length backends and flex give way to `sdpa`: they take queries and keys of one length.
    Without one they take rows as they stand, positions 0, 1, ...
    """
    if backend in VARIABLE_LENGTH and capacity is None:
        rows, length = (positions if documents is None else documents).shape
        documents = positions.new_zeros((rows, length)) if documents is None else documents
        bounds = sequence_bounds(documents)
        kernel = _varlen if backend == "varlen" else _flash
        return {window: kernel(bounds, window) for window in dict.fromkeys(windows)}
    if backend == "flex" and capacity is None:
        return {
            window: _flex(positions if documents is None else documents, documents, window)
            for window in dict.fromkeys(windows)
        }
    masks = {window: visible(positions, documents, window, capacity) for window in dict.fromkeys(windows)}
    if backend == "reference":
        return {window: _written_out(mask, torch.float64) for window, mask in masks.items()}
    if in_order and capacity is None and dtype == torch.bfloat16 and positions.device.type == "cpu":
        return {window: _in_blocks(mask, window, dtype) for window, mask in masks.items()}
    return {window: _sdpa(mask) for window, mask in masks.items()}


def sequence_bounds(documents: Tensor) -> tuple[Tensor, int]:
    """Where sequences begin and end when rows [B, T] are laid end to end: int32 [n + 1], and the longest length."""
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    bounds = torch.cat((begins.flatten().nonzero()[:, 0], begins.new_tensor([begins.numel()], dtype=torch.int64)))
    return bounds.int(), int(bounds.diff().max())


def _written_out(seen: Tensor, dtype: torch.dtype | None = None) -> Attend:
    """The formula as such, in `dtype` or that of the queries. In fp64 it is what every other backend is held to."""
    masks: dict[torch.dtype, Tensor] = {}

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        result = q.dtype
        q, k, v = (x.to(dtype or result) for x in (q, *_for_each_head(q, k, v)))
        if q.dtype not in masks:
            masks[q.dtype] = torch.zeros(seen.shape, dtype=q.dtype, device=q.device).masked_fill(~seen, float("-inf"))
        scale: float = q.shape[-1] ** -0.5
        scores = (q * scale) @ k.transpose(-2, -1)  # [B, H, T, S]
        return ((scores + masks[q.dtype]).softmax(dim=-1) @ v).to(result)

    return attend


def _sdpa(seen: Tensor) -> Attend:
    written_out = _written_out(seen)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if q.device.type == "cpu" and q.dtype == torch.bfloat16:
            # The fused CPU kernel takes twice as long in bf16 (forward and backward, 512 positions).
            return written_out(q, k, v)
        k, v = _for_each_head(q, k, v)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)

    return attend


def _in_blocks(seen: Tensor, window: int | None, dtype: torch.dtype) -> Attend:
    bias = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, float("-inf"))

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return block_attention(q, *_for_each_head(q, k, v), bias, window)

    return attend


def _varlen(bounds: tuple[Tensor, int], window: int | None) -> Attend:
    from torch.nn.attention.varlen import varlen_attn

    ends, longest = bounds

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = _for_each_head(q, k, v)
        size = (-1 if window is None else window - 1, 0)
        out = varlen_attn(
            _end_to_end(q), _end_to_end(keys), _end_to_end(values), ends, ends, longest, longest, window_size=size
        )
        assert isinstance(out, Tensor)
        return _in_rows(out, q)

    return attend


def _flash(bounds: tuple[Tensor, int], window: int | None) -> Attend:
    from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found,unused-ignore]

    ends, longest = bounds

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        flat = [_end_to_end(x) for x in (q, k, v)]
        size = (-1 if window is None else window - 1, 0)
        out = flash_attn_varlen_func(
            *flat, ends, ends, longest, longest, causal=True, window_size=size, deterministic=True
        )
        return _in_rows(out, q)

    return attend


def _flex(like: Tensor, documents: Tensor | None, window: int | None) -> Attend:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def seen(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        allowed = key <= query
        if window is not None:
            allowed = allowed & (key > query - window)
        return allowed if documents is None else allowed & (documents[row, query] == documents[row, key])

    rows, length = like.shape
    blocks = create_block_mask(seen, None if documents is None else rows, None, length, length, like.device.type)
    # Written out, it would hold all scores; only what is compiled skips blocks, and it has no backward on a CPU.
    kernel = torch.compile(flex_attention, dynamic=False) if like.device.type == "cuda" else flex_attention

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = kernel(q, *_for_each_head(q, k, v), block_mask=blocks)
        assert isinstance(out, Tensor)
        return out

    return attend


def _end_to_end(x: Tensor) -> Tensor:
    """[B, H, T, D] -> [B T, H, D]."""
    return x.transpose(1, 2).flatten(0, 1)


def _in_rows(x: Tensor, like: Tensor) -> Tensor:
    """[B T, H, D] -> [B, H, T, D]."""
    return x.view(like.shape[0], -1, *x.shape[1:]).transpose(1, 2)


def _for_each_head(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values repeated for the query heads that share them."""
    repeats = q.shape[1] // k.shape[1]
    if repeats == 1:
        return k, v
    return k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)


def _why_not(backend: str, device: str, dtype: torch.dtype) -> str | None:
    """Why a backend that needs more than torch's own kernels cannot be had; none where it can."""
    modules = {
        "varlen": "torch.nn.attention.varlen",
        "flash": "flash_attn",
        "flex": "torch.nn.attention.flex_attention",
    }
    module = modules[backend]
    if device != "cuda":
        return "it has no backward pass there" if backend == "flex" else "it has kernels for CUDA only"
    if backend == "flex":
        return None if importlib.util.find_spec("triton") else "triton is not installed"
    if dtype not in (torch.bfloat16, torch.float16):
        return "it computes in 16-bit formats only (precision.compute: bf16)"
    module = {"varlen": "torch.nn.attention.varlen", "flash": "flash_attn"}[backend]
    return None if importlib.util.find_spec(module) else f"{module} is not installed"
