"""The global order of training: which row of a token store stands at which place, as a pure function.

One cycle has a slot for every time that a row is to be seen: source s, with n_s rows to train on and weight w_s,
has n_s * w_s slots. A keyed permutation shuffles the slots of each cycle anew, so every row of source s is seen
exactly w_s times in each cycle, at any length of the store, in memory that does not grow with it.
"""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from specs.common.errors import UserError

Rows = npt.NDArray[np.int64]

ROUNDS = 6
"""Four leave the order visibly non-random; six pass."""


class Share(NamedTuple):
    """One source of a store: its contiguous rows, and how often each is seen in a cycle."""

    start: int
    stop: int
    weight: int


class Order:
    """Rows of a store in the order of training, and rows held out from it.

    Depends on nothing but its arguments. Raises UserError where too few rows are left to train on.
    """

    def __init__(self, shares: Sequence[Share], seed: int, held_out: int = 0) -> None:
        self.seed = seed
        self._starts = np.array([share.start for share in shares], np.int64)
        rows = np.array([share.stop - share.start for share in shares], np.int64)
        if not rows.sum():
            raise UserError("the token store has no rows to train on; check the corpus and the ledger of its store")
        self._held = self._hold_out(rows, held_out)
        self.held_out: Rows = np.sort(
            np.concatenate([start + reserved for start, reserved in zip(self._starts, self._held, strict=True)])
        )
        """int64 `[held_out]`: rows that training never sees, in ascending order."""
        self._counts = rows - np.array([len(reserved) for reserved in self._held], np.int64)
        weights = np.array([share.weight for share in shares], np.int64)
        self._slot_ends = np.cumsum(self._counts * weights)
        self.slots = int(self._slot_ends[-1])
        """Length of one cycle, in rows read."""

    def row(self, index: int) -> int:
        """Row at a global index, counted over all cycles from 0."""
        return int(self.rows(index, 1)[0])

    def rows(self, start: int, count: int) -> Rows:
        """Rows int64 `[count]` at global indices start, start + 1, ...; raises ValueError for negative ones."""
        if start < 0 or count < 0:
            raise ValueError(f"indices from {start}, {count} of them: neither may be negative")
        parts = [np.zeros(0, np.int64)]
        end = start + count
        while start < end:
            cycle, position = divmod(start, self.slots)
            length = min(end - start, self.slots - position)
            positions = np.arange(position, position + length, dtype=np.uint64)
            parts.append(self._rows_of_slots(permute(positions, self.slots, f"cycle/{self.seed}/{cycle}")))
            start += length
        return np.concatenate(parts)

    def step(self, step: int, micro_batches: int, micro_batch_size: int) -> Rows:
        """Rows int64 `[micro_batches, micro_batch_size]` of one training step, at consecutive indices."""
        size = micro_batches * micro_batch_size
        return self.rows(step * size, size).reshape(micro_batches, micro_batch_size)

    def _rows_of_slots(self, slots: Rows) -> Rows:
        source = np.searchsorted(self._slot_ends, slots, side="right")
        begins = np.concatenate([[0], self._slot_ends[:-1]])
        local = (slots - begins[source]) % self._counts[source]
        for index, held_out in enumerate(self._held):
            if len(held_out):
                # The k-th row that is not held out comes after every held-out row with at most k others before it.
                mine = source == index
                local[mine] += np.searchsorted(held_out - np.arange(len(held_out)), local[mine], side="right")
        return np.asarray(self._starts[source] + local, np.int64)

    def _hold_out(self, rows: Rows, wanted: int) -> list[Rows]:
        """Rows held out of each source, counted from its start, ascending.

        Chosen by a permutation of all rows, but every source keeps one: none may vanish from the mixture.
        """
        total, ends = int(rows.sum()), np.cumsum(rows)
        most = total - int((rows > 0).sum())
        if wanted > most:
            raise UserError(f"{wanted} sequences cannot be held out of a store of {total}: hold out {most} at most")
        left = rows.copy()
        taken: list[list[int]] = [[] for _ in rows]
        position = count = 0
        while count < wanted:
            place = int(permute(np.array([position], np.uint64), total, f"held-out/{self.seed}")[0])
            source = int(np.searchsorted(ends, place, side="right"))
            if left[source] > 1:
                left[source] -= 1
                taken[source].append(place - int(ends[source] - rows[source]))
                count += 1
            position += 1
        return [np.array(sorted(places), np.int64) for places in taken]


def permute(positions: npt.NDArray[np.uint64], size: int, key: str) -> Rows:
    """Where a keyed permutation of 0 .. size - 1 takes each position `[n]`, as int64 `[n]`.

    A balanced Feistel network over the least even number of bits that holds `size`; what falls outside is permuted
    again until it falls inside (cycle-walking: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002), four
    times on average at worst. Raises ValueError for a position outside.
    """
    if positions.size and int(positions.max()) >= size:
        raise ValueError(f"position {int(positions.max())} is outside a permutation of {size}")
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    keys = _round_keys(key)
    image = _feistel(positions, half, keys)
    outside = np.flatnonzero(image >= size)
    while outside.size:
        image[outside] = _feistel(image[outside], half, keys)
        outside = outside[image[outside] >= size]
    return image.astype(np.int64)


@lru_cache(maxsize=64)
def _round_keys(key: str) -> tuple[np.uint64, ...]:
    digests = (sha256(f"{key}/{number}".encode()).digest() for number in range(ROUNDS))
    return tuple(np.uint64(int.from_bytes(digest[:8], "little")) for digest in digests)


def _feistel(values: npt.NDArray[np.uint64], half: int, keys: tuple[np.uint64, ...]) -> npt.NDArray[np.uint64]:
    width, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = values >> width, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right + key) & mask)
    return (left << width) | right


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): every bit of the result depends on every bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
