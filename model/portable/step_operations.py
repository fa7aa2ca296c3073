"""Angles of rotary positions, and the choice of tokens."""

import torch
from torch import Tensor

from model.portable.library import once
from model.portable.registry import operation, worth
from model.portable.threads import divide, scratch


@operation("angles(Tensor positions, int width, float theta) -> (Tensor, Tensor)")
def angles(positions: Tensor, width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines fp32 [B or 1, T, D / 2] of rotary positions int64 [B or 1, T]."""
    half, positions = width // 2, positions.contiguous()
    frequency = torch.empty(half)
    once()["frequencies"](frequency.data_ptr(), half, theta)
    cosines, sines = (torch.empty((*positions.shape, half)) for _ in range(2))
    addresses = positions.data_ptr(), frequency.data_ptr(), cosines.data_ptr(), sines.data_ptr()
    once()["angles"](*addresses, positions.numel(), half)
    return cosines, sines


@operation("draw(Tensor logits, Tensor uniform, float temperature, float top_p) -> Tensor")
def draw(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> Tensor:
    """Tokens int64 [B] of logits fp32 [B, V] for numbers fp64 [B]; -1 outside the nucleus. The likeliest at 0."""
    (B, V), tokens = logits.shape, torch.empty(logits.shape[0], dtype=torch.int64)
    if temperature == 0 or top_p == 0:
        once()["likeliest"](logits.data_ptr(), tokens.data_ptr(), B, V)
        return tokens
    kernel = once()["drawn"]

    def piece(start: int, stop: int) -> None:
        addresses = logits.data_ptr() + 4 * start * V, uniform.data_ptr() + 8 * start, tokens.data_ptr() + 8 * start
        kernel(*addresses, scratch("drawn", V + 16), stop - start, V, temperature, top_p)

    divide(piece, B, least=worth(64 * V))
    return tokens


@operation("likelihoods(Tensor logits, float temperature) -> Tensor")
def likelihoods(logits: Tensor, temperature: float) -> Tensor:
    """Probabilities fp32 [B, V] of tokens, each times the same number in its row."""
    out = torch.empty_like(logits)
    once()["likelihoods"](logits.data_ptr(), out.data_ptr(), *logits.shape, temperature)
    return out
