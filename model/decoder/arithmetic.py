"""What a layer computes with, chosen in one place: torch's kernels, or those with the same bits on any processor."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from model.decoder.attention import backend_for, lower
from model.decoder.kernels import rms_norm, rotate, rotation
from model.decoder.kv_cache import LayerCache
from model.decoder.loss import lookup, summed_cross_entropy
from specs.common.errors import UserError
from specs.schema import training

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines of rotary positions, as `rotation` of the same arithmetic makes them."""
Attend = Callable[[Tensor, Rotation, int, int, LayerCache | None], Tensor]
"""Heads [B, T, (H + 2 K) D], their rotation, H, K and a layer's cache -> [B, T, H D]."""


class Arithmetic(Protocol):
    """The operations of a decoder, forward and backward."""

    backend: str
    """What computes attention."""
    shapes_matter: bool
    """Whether a row's bits depend on how many rows are computed beside it, or how long they are."""

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """[..., K] times weight [N, K]: [..., N]."""

    def norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """[..., C] over its root mean square (taken in fp32), times `weight` [C]."""

    def swiglu(self, gate_up: Tensor) -> Tensor:
        """silu(gate) up of [..., 2 F], gates before ups: [..., F]."""

    def lookup(self, weight: Tensor, tokens: Tensor) -> Tensor:
        """Rows of `weight` [V, C] for token ids [B, T]; the gradient adds in fp32."""

    def rotation(self, positions: Tensor, head_dim: int, theta: float) -> Rotation:
        """Rotary positions (Su et al., 2021) of int64 [B or 1, T]; halves are rotated, as in Llama."""

    def attend(
        self,
        windows: Sequence[int | None],
        positions: Tensor,
        documents: Tensor | None,
        capacity: int | None,
        *,
        in_order: bool,
        dtype: torch.dtype,
    ) -> Mapping[int | None, Attend]:
        """Attention for each distinct window; arguments as in `attention.lower`."""

    def cross_entropy(self, hidden: Tensor, weight: Tensor, targets: Tensor, *, scale: float, chunk: int) -> Tensor:
        """As `loss.summed_cross_entropy`."""


def arithmetic(spec: training.Attention, device: str, dtype: torch.dtype, *, portable: bool) -> Arithmetic:
    """What a decoder computes with. Raises UserError where it cannot be had, or the backend that the spec names."""
    if not portable:
        return Stock(spec, device, dtype)
    if device != "cpu":
        raise UserError(
            f"reproducibility.level portable has kernels for CPUs, and this runs on {device}: write level topology"
        )
    if spec.backend != "auto":
        raise UserError(
            f"architecture.attention.backend: {spec.backend!r} computes with torch's kernels, which differ between "
            "processors; at reproducibility.level portable write auto"
        )
    from model.portable.layers import Portable

    return Portable()


class Stock:
    """Torch's own kernels. `device` and `dtype` say where and in what format they compute."""

    shapes_matter = True

    def __init__(self, spec: training.Attention, device: str, dtype: torch.dtype) -> None:
        self.backend = backend_for(spec, device, dtype)
        self._on_cpu = device == "cpu"

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """[..., K] times weight [N, K]: [..., N]."""
        return F.linear(x, weight)

    def norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """[..., C] -> [..., C] in the dtype of `x`. PyTorch fuses this on a GPU, not on a CPU."""
        if self._on_cpu:
            return rms_norm(x, weight, eps)
        return F.rms_norm(x.float(), (x.shape[-1],), eps=eps).to(x.dtype) * weight

    def swiglu(self, gate_up: Tensor) -> Tensor:
        """[..., 2 F] -> [..., F]."""
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up

    def lookup(self, weight: Tensor, tokens: Tensor) -> Tensor:
        """As `loss.lookup`."""
        return lookup(weight, tokens)

    def rotation(self, positions: Tensor, head_dim: int, theta: float) -> Rotation:
        """As `kernels.rotation`."""
        return rotation(positions, head_dim, theta)

    def attend(
        self,
        windows: Sequence[int | None],
        positions: Tensor,
        documents: Tensor | None,
        capacity: int | None,
        **how: Any,
    ) -> Mapping[int | None, Attend]:
        """The kernels of `attention.lower`, on turned heads."""
        lowered = lower(self.backend, windows, positions, documents, capacity, **how)
        return {window: _on_heads(attend) for window, attend in lowered.items()}

    def cross_entropy(self, hidden: Tensor, weight: Tensor, targets: Tensor, *, scale: float, chunk: int) -> Tensor:
        """As `loss.summed_cross_entropy`."""
        return summed_cross_entropy(hidden, weight, targets, scale=scale, chunk=chunk)


def _on_heads(attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Attend:
    def on_heads(heads: Tensor, cos_sin: Rotation, queries: int, keys: int, cache: LayerCache | None) -> Tensor:
        split = torch.unflatten(heads, -1, (queries + 2 * keys, -1)).transpose(1, 2)  # [B, H + 2K, T, D]
        q, k, v = torch.split(split, [queries, keys, keys], dim=1)
        q, k = rotate(q, *cos_sin), rotate(k, *cos_sin)
        if cache is not None:
            k, v = cache.extend(k, v)  # [B, K, capacity, D]
        return attend(q, k, v).transpose(1, 2).flatten(2)

    return on_heads
