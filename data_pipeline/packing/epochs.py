"""Epochs of a source: which of its documents are seen how often in one pass over a token store.

Of e epochs every document is seen floor(e) times, and those of a fixed choice once more: of n documents as many as
(e - floor(e)) n, halves up, those with the least hash of content and path. So 0.5 takes half of the documents, and 2.5
all of them twice and the same half a third time. The weight of the source multiplies either number.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from specs.common.errors import UserError


class Known(Protocol):
    """What is known by its content and its path."""

    @property
    def id(self) -> str:
        """Hash of the content."""

    @property
    def path(self) -> str:
        """Path within the source."""


K = TypeVar("K", bound=Known)


def by_times(
    source: str, again: Callable[[], Iterable[K]], epochs: float, weight: int
) -> Iterator[tuple[int, Iterator[K]]]:
    """How often documents of a source are seen in a pass, and which those are, in their order; 0: they are left out.

    `again` gives all documents of the source in their order; it is asked once where epochs are whole, else three times.
    Memory holds some 20 bytes for each of them in the latter case.
    Raises UserError where nothing would be left.
    """
    whole, fraction = divmod(Fraction(repr(epochs)), 1)
    if not fraction:
        yield whole * weight, iter(again())
        return
    chosen = _chosen(again(), fraction)
    if not whole and not chosen.any():
        raise UserError(f"source {source!r}: {epochs} epochs of {len(chosen)} documents are none; raise its epochs")
    yield (whole + 1) * weight, (document for document, more in zip(again(), chosen, strict=True) if more)
    yield whole * weight, (document for document, more in zip(again(), chosen, strict=True) if not more)


def _chosen(documents: Iterable[Known], fraction: Fraction) -> npt.NDArray[np.bool_]:
    """bool `[n]`: whether a document is seen once more."""
    hashes = np.fromiter((_hash(document) for document in documents), np.uint64)
    count = int(fraction * len(hashes) + Fraction(1, 2))
    chosen = np.zeros(len(hashes), np.bool_)
    # Stable: of equal hashes the first counts.
    chosen[np.argsort(hashes, kind="stable")[:count]] = True
    return chosen


def _hash(document: Known) -> int:
    # The person parameter makes the choice independent of others that go by content.
    identity = f"{document.id}\0{document.path}".encode()
    return int.from_bytes(hashlib.blake2b(identity, digest_size=8, person=b"epochs").digest(), "big")
