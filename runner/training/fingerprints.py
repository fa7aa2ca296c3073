"""Fingerprints of weights: 64 bits for each tensor at each step, cheap enough to be taken always.

The fingerprint of a tensor is the sum, modulo 2^64, of the bits of each element times a multiplier of its row and one
of its column, both odd. Integers add to the same sum in any order, so ranks add their own rows, on their device, and
no division changes the result. A change of one element always changes it, since an odd number has an inverse modulo
2^64; and by that inverse the difference of two fingerprints tells which element changed, and by how much. Several
changes cancel out with a chance of about 2^-64: against accidents that is proof, against forgery sha256 is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from runner.training.sharding import ShardedModel

DIGITS = 16
"""Hexadecimal digits of one fingerprint."""
_ROWS, _COLUMNS = 1, 2
_CHANCE = 1e-3
"""Most that the chance may be that a change of many elements is taken for one of a single element."""


class Fingerprints:
    """Takes the fingerprints of a model's master weights."""

    def __init__(self, model: ShardedModel) -> None:
        self.model = model
        self._rows = [_tensor(_multipliers(_ROWS, s.start, s.stop), model.device) for s in model.shards]
        lengths = {_row_length(shard.shape) for shard in model.shards}
        self._columns = {length: _tensor(_multipliers(_COLUMNS, 0, length), model.device) for length in lengths}

    def take(self) -> Tensor:
        """This rank's part of each fingerprint, int64 [tensors], in the model's order."""
        parts = []
        for shard, rows in zip(self.model.shards, self._rows, strict=True):
            columns = self._columns[_row_length(shard.shape)]
            parts.append(partial_fingerprint(shard.values, rows, columns))
        return torch.stack(parts)

    def whole(self, parts: Tensor) -> str:
        """Fingerprints of all tensors from every rank's parts, as hexadecimal digits. A collective."""
        everyone = parts.new_empty((self.model.ranks, len(parts)))
        dist.all_gather(list(everyone), parts, group=self.model.group)
        return "".join(f"{value % 2**64:016x}" for value in everyone.sum(0).tolist())


def partial_fingerprint(values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Fingerprint of some rows of an fp32 tensor, [r, ...], with the multipliers int64 [r] and [elements of a row]."""
    bits = values.detach().view(torch.int32).reshape(len(rows), len(columns)).to(torch.int64)
    return (bits.mul_(columns).sum(1) * rows).sum()


def fingerprint(tensor: Tensor) -> str:
    """Fingerprint of a whole fp32 tensor with at least one dimension."""
    rows = _tensor(_multipliers(_ROWS, 0, tensor.shape[0]), tensor.device)
    columns = _tensor(_multipliers(_COLUMNS, 0, _row_length(tensor.shape)), tensor.device)
    return f"{int(partial_fingerprint(tensor, rows, columns)) % 2**64:016x}"


@dataclass(frozen=True)
class Change:
    """The one element of a tensor that accounts for two fingerprints of it."""

    index: tuple[int, ...]
    bits: int
    """Its bits as an integer, second minus first; the distance in units in the last place, where signs agree."""

    @property
    def flipped(self) -> bool:
        """Whether it can be one flipped bit."""
        return abs(self.bits) & (abs(self.bits) - 1) == 0


def single_change(first: str, second: str, shape: Sequence[int]) -> Change | None:
    """The element whose change alone explains two fingerprints; none where more than one must have changed."""
    difference = np.array((int(second, 16) - int(first, 16)) % 2**64, dtype=np.uint64)
    rows, columns = shape[0], _row_length(shape)
    by_column = _inverse(_multipliers(_COLUMNS, 0, columns))
    # Any difference of 32-bit patterns could be; in a large tensor one of them may be so by chance.
    limit = min(2**32, int(_CHANCE * 2**63 / (rows * columns)))
    found: list[Change] = []
    for begin in range(0, rows, block := max(1, 2**20 // columns)):
        by_row = _inverse(_multipliers(_ROWS, begin, min(begin + block, rows)))
        candidates = (difference * by_row[:, None] * by_column).view(np.int64)
        size = np.abs(candidates).view(np.uint64)
        likely = (size <= limit) | ((size <= 2**31) & (size & (size - np.uint64(1)) == 0))
        for row, column in np.argwhere(likely):
            index = (int(row) + begin, *(int(i) for i in np.unravel_index(column, tuple(shape[1:]) or (1,))))
            found.append(Change(index[: len(shape)], int(candidates[row, column])))
    return found[0] if len(found) == 1 and found[0].bits else None


def split(fingerprints: str) -> list[str]:
    """The fingerprint of each tensor."""
    return [fingerprints[i : i + DIGITS] for i in range(0, len(fingerprints), DIGITS)]


def _row_length(shape: Sequence[int]) -> int:
    return int(np.prod(shape[1:], dtype=np.int64))


def _multipliers(kind: int, start: int, stop: int) -> npt.NDArray[np.uint64]:
    """Odd pseudo-random numbers for places start to stop: SplitMix64 (Steele, Lea and Flood, 2014)."""
    x = (np.arange(start, stop, dtype=np.uint64) * np.uint64(4) + np.uint64(kind)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: npt.NDArray[np.uint64] = (x ^ (x >> np.uint64(31))) | np.uint64(1)
    return result


def _inverse(odd: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Inverses modulo 2^64 by Newton's iteration: each round doubles the bits that are right, from three on."""
    x = odd.copy()
    for _ in range(5):
        x *= np.uint64(2) - odd * x
    return x


def _tensor(values: npt.NDArray[np.uint64], device: torch.device) -> Tensor:
    return torch.from_numpy(values.view(np.int64)).to(device)
