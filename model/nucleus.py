"""The next token from the model's logits: nucleus sampling, with random numbers that are the request's own."""

import hashlib
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from specs.common.files import canonical_json

_REJECTIONS = 16
"""Draws outside the nucleus after which it is sorted out: at a top_p of 0.5 one token in 65,536 comes to that."""


class Stream:
    """Uniform numbers in [0, 1) from Philox, a counter-based generator whose raw words no version of numpy changes."""

    def __init__(self, key: bytes) -> None:
        self._words = np.random.Philox(key=int.from_bytes(key[:16], "little"))

    @classmethod
    def of(cls, *names: object) -> Self:
        """The stream of a name such as (seed, task, sample): values that canonical JSON can hold."""
        return cls(hashlib.sha256(canonical_json(list(names))).digest())

    def uniform(self) -> float:
        """The next number, with 53 random bits."""
        return float(self._words.random_raw() >> 11) * 2.0**-53


class NotFiniteError(ValueError):
    """The model's logits hold no distribution: they are NaN or infinite."""

    def __init__(self, row: int, position: int = 0) -> None:
        super().__init__(f"the logits of row {row} at position {position} are not finite")
        self.row, self.position = row, position


def pick(
    logits: Tensor, streams: Sequence[Stream | None], temperature: float, top_p: float, *, portable: bool = False
) -> list[int]:
    """One token id for each row of logits fp32 [B, V]; a row without a stream yields any id and draws nothing.

    Nucleus sampling (Holtzman et al., 2020) by rejection: draw from the whole distribution until the token lies in the
    nucleus, which the mass of the tokens before it decides (more likely ones; of equal ones, those with lower ids). The
    distribution is that of truncating and rescaling, without sorting the vocabulary. Where the nucleus is so small that
    `_REJECTIONS` draws miss it, it is sorted out and drawn from: the same distribution.
    `portable` does the same with kernels whose bits depend on no processor.
    Raises NotFiniteError where a row with a stream has no distribution.
    """
    if portable:
        return _pick_portable(logits, streams, temperature, top_p)
    if temperature == 0 or top_p == 0:
        best = logits.argmax(dim=-1, keepdim=True)
        # The greatest of all is not finite where one is NaN or infinite, or all are minus infinity.
        _require_finite(logits.gather(1, best)[:, 0], streams)
        return [int(token) for token in best[:, 0].tolist()]
    likely = (logits.float() / temperature).softmax(dim=-1)  # [B, V]
    upto = likely.cumsum(dim=-1, dtype=torch.float64)  # [B, V]
    _require_finite(upto[:, -1], streams)
    drawn = [0.0 if stream is None else stream.uniform() for stream in streams]
    chosen = _draw(likely, upto, drawn, top_p)
    for row, stream in enumerate(streams):
        if stream is not None and chosen[row] is None:
            # One row at a time from here: the shape of a sum, and so its rounding, then depends on no other row.
            chosen[row] = _redraw(likely[row : row + 1], upto[row : row + 1], stream, top_p)
    return [token or 0 for token in chosen]


def _pick_portable(logits: Tensor, streams: Sequence[Stream | None], temperature: float, top_p: float) -> list[int]:
    def drawn(rows: Tensor, wanted: Sequence[Stream | None]) -> list[int]:
        uniform = [0.0 if stream is None or greedy else stream.uniform() for stream in wanted]
        numbers = torch.tensor(uniform, dtype=torch.float64)
        return [int(token) for token in torch.ops.twice.draw(rows.contiguous(), numbers, temperature, top_p).tolist()]

    greedy = temperature == 0 or top_p == 0
    chosen = drawn(logits, streams)
    for row, stream in enumerate(streams):
        if stream is not None and chosen[row] == -2:
            raise NotFiniteError(row)
        for _ in range(_REJECTIONS):
            if stream is None or chosen[row] >= 0:
                break
            chosen[row] = drawn(logits[row : row + 1], [stream])[0]
        if stream is not None and chosen[row] < 0:
            # So small a nucleus that the likeliest token is most of it, or all.
            chosen[row] = _sorted_out(logits[row : row + 1], stream, temperature, top_p)
    return [max(token, 0) for token in chosen]


def _sorted_out(logits: Tensor, stream: Stream, temperature: float, top_p: float) -> int:
    """A token of the nucleus of one row, from its tokens in order: sums in fp64, one after the other."""
    shares = torch.ops.twice.likelihoods(logits.contiguous(), temperature)[0].numpy().astype(np.float64)
    ids = np.argsort(-shares, kind="stable")
    after = np.cumsum(shares[ids])
    size = max(1, int((after - shares[ids] < top_p * after[-1]).sum()))
    level = stream.uniform() * after[size - 1]
    return int(ids[min(int(np.searchsorted(after[:size], level, side="right")), size - 1)])


def _require_finite(values: Tensor, streams: Sequence[Stream | None]) -> None:
    """Raise NotFiniteError for the first row with a stream whose value [B] is not finite."""
    for row, (finite, stream) in enumerate(zip(values.isfinite().tolist(), streams, strict=True)):
        if stream is not None and not finite:
            raise NotFiniteError(row)


def _redraw(likely: Tensor, upto: Tensor, stream: Stream, top_p: float) -> int:
    """A token of the nucleus, after one draw that missed it. likely, upto: [1, V]."""
    for _ in range(_REJECTIONS):
        token = _draw(likely, upto, [stream.uniform()], top_p)[0]
        if token is not None:
            return token
    # Stable: of equal tokens those with lower ids come first, as in `_draw`.
    shares, ids = likely[0].double().sort(descending=True, stable=True)
    after = shares.cumsum(dim=-1)
    size = max(1, int(((after - shares) < top_p * after[-1]).sum()))
    level = torch.tensor(stream.uniform(), dtype=torch.float64, device=likely.device) * after[size - 1]
    return int(ids[torch.searchsorted(after[:size], level, right=True).clamp_(max=size - 1)])


def _draw(likely: Tensor, upto: Tensor, drawn: Sequence[float], top_p: float) -> list[int | None]:
    """The token that each number in [0, 1) falls on, or none where it lies outside the nucleus.

    likely: probabilities fp32 [B, V]; upto: their running sums fp64 [B, V]; drawn: B numbers.
    """
    ids = torch.arange(likely.shape[1], device=likely.device)
    total = upto[:, -1:]  # 1 but for rounding
    levels = torch.tensor(drawn, dtype=torch.float64, device=likely.device)[:, None] * total
    token = torch.searchsorted(upto, levels, right=True).clamp_(max=len(ids) - 1)
    mine = likely.gather(1, token)
    before = (likely > mine) | ((likely == mine) & (ids < token))
    mass = (likely * before).sum(dim=-1, keepdim=True)
    # Nothing is before the most likely token: it is always in the nucleus.
    inside = (mass < top_p * total) | (mass == 0)
    return [
        int(one) if accepted else None
        for one, accepted in zip(token[:, 0].tolist(), inside[:, 0].tolist(), strict=True)
    ]
