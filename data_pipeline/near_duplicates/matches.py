"""A match: a document that goes, and the earlier one that stays for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

REASONS = ("exact duplicate", "near-duplicate")
MATCH = np.dtype([("dropped", "<i8"), ("survivor", "<i8"), ("similarity", "<f8"), ("reason", "<i8")])
"""A document that goes and the earlier one that stays for it, by their places, and the number of the reason."""
Matches = npt.NDArray[Any]


@dataclass(frozen=True)
class Duplicates:
    """What goes, and which source each place belongs to."""

    matches: Matches
    """`MATCH` `[n]`, sorted by the place of what goes."""
    starts: npt.NDArray[np.int64]
    """Place of the first document of each run of documents of one source, ascending."""
    names: tuple[str, ...]
    """Source of each run."""

    def sources(self, places: npt.NDArray[np.int64]) -> list[str]:
        """Source of each place."""
        runs = np.searchsorted(self.starts, places, side="right") - 1
        return [self.names[run] for run in runs.tolist()]


def joined(several: Sequence[Matches]) -> Matches:
    """All matches, sorted by the place of what goes."""
    return np.sort(np.concatenate([np.empty(0, MATCH), *several]), order="dropped")


def separators(sources: Sequence[str], apart: Sequence[str]) -> npt.NDArray[np.uint64]:
    """What the keys of documents of these sources `[n]` are changed by, lest those of one meet those of another."""
    marks = {source: xxh3_64_intdigest(source.encode()) for source in apart}
    return np.array([marks.get(source, 0) for source in sources], np.uint64)
