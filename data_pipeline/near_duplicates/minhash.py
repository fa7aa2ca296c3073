"""What near-duplicates are told by: a signature of a document's shingles, and its bands.

Broder (1997); Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, ch. 3. With b bands of r rows, two documents
of Jaccard similarity s share a band with probability 1 - (1 - s^r)^b.

A signature takes one permutation, not one for each row: the hashes of the shingles, cut into as many ranges as there
are rows, and the least of each. A range that is empty takes the value of another one, drawn until one is not. As in
classic MinHash, each row of two documents is then equal with probability s (Li, Owen and Zhang, 2012; Shrivastava,
2017), for a few operations on each shingle instead of some on each for every row.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import numpy.typing as npt

from data_pipeline.documents.documents import Document
from data_pipeline.near_duplicates.shingles import Hashes, Shingles, drawn, jaccard, mixed, shingles
from specs.schema.data import MinHash

_FEW = 8
"""Members of a component that are all compared: to tell which need not be would take longer."""


@dataclass(frozen=True)
class Match:
    """A document that goes, and the earlier one that stays for it; places count documents in their total order."""

    dropped: int
    survivor: int
    similarity: float
    """Jaccard similarity of their shingles; 1 for equal texts."""


def band_keys(documents: Iterable[Document], section: MinHash) -> tuple[npt.NDArray[np.bool_], Hashes]:
    """Which documents `[n]` are long enough to compare, and a key for each band `[n, bands]`, zero where they are not.

    Keys are equal where a band's hashes are; that others are equal by chance (64 bits) costs a comparison only.
    """
    # Texts without a single shingle would all have the same signature.
    shortest = max(section.min_words, section.shingle_words)
    long: list[bool] = []
    values: list[Hashes] = []
    full: list[npt.NDArray[np.bool_]] = []
    rows = section.bands * section.rows
    starts = (np.arange(rows, dtype=np.uint64) * np.uint64(2**64 // rows)).astype(np.uint64)
    for count, found in shingles(documents, section.shingle_words, section.seed):
        long.append(count >= shortest)
        if long[-1]:
            first = found.searchsorted(starts)
            values.append(found.take(first, mode="clip"))
            # Where the next range begins with another hash.
            full.append(first != np.append(first[1:], len(found)))
    chosen = np.array(long, np.bool_)
    keys = np.zeros((len(long), section.bands), np.uint64)
    if values:
        signatures = _filled(np.array(values), np.array(full), section.seed)
        keys[chosen] = _banded(signatures.reshape(-1, section.bands, section.rows))
    return chosen, keys


def verified(component: Sequence[int], sets: Mapping[int, Shingles], threshold: float) -> list[Match]:
    """Members of a component, ascending, that are as similar as the threshold asks to an earlier one that survives.

    Only pairs that can be are compared: if two sets are, any order of all shingles has a common one among the first
    n - ceil(threshold n) + 1 of each (Chaudhuri, Ganti and Kaushik, 2006: prefix filter); rare shingles come first.
    """
    matches: list[Match] = []
    holders: dict[int, list[int]] = {}
    prefixes: Iterable[list[int]] = repeat([0], len(component))
    if len(component) > _FEW:
        prefixes = _prefixes([sets[member] for member in component], threshold)
    for member, prefix in zip(component, prefixes, strict=True):
        for survivor in sorted({survivor for shingle in prefix for survivor in holders.get(shingle, ())}):
            lengths = len(sets[member]), len(sets[survivor])
            if min(lengths) < threshold * max(lengths):
                continue
            if (found := jaccard(sets[member], sets[survivor])) >= threshold:
                matches.append(Match(member, survivor, found))
                break
        else:
            for shingle in prefix:
                holders.setdefault(shingle, []).append(member)
    return matches


def _prefixes(sets: Sequence[Shingles], threshold: float) -> Iterator[list[int]]:
    """Of each set, as many of its rarest shingles as decide which others it can be similar to; by number, not hash."""
    lengths = np.array([len(each) for each in sets])
    _, numbers, counts = np.unique(np.concatenate(sets), return_inverse=True, return_counts=True)
    alone = np.count_nonzero(counts == 1)
    ranks = np.empty(len(counts), np.int64)
    ranks[np.argsort(counts, kind="stable")] = np.arange(len(counts))
    # The product may round to just above a whole number.
    needed = np.ceil(threshold * lengths - 1e-9).astype(np.int64)
    for each, length in zip(np.split(ranks[numbers], np.cumsum(lengths)[:-1]), lengths - needed + 1, strict=True):
        # What one set alone has is common to no two.
        prefix = np.sort(each)[:length]
        yield prefix[prefix >= alone].tolist()


def _filled(values: Hashes, full: npt.NDArray[np.bool_], seed: int) -> Hashes:
    """Signatures `[n, rows]` of which some places are not full: these get the value of another one that is."""
    documents, rows = np.nonzero(~full)
    attempt = 0
    while len(rows):
        attempt += 1
        others = _others(full.shape[1], seed, attempt)[rows]
        found = full[documents, others]
        values[documents[found], rows[found]] = values[documents[found], others[found]]
        documents, rows = documents[~found], rows[~found]
    return values


@functools.lru_cache(maxsize=4_096)
def _others(rows: int, seed: int, attempt: int) -> npt.NDArray[np.int64]:
    """For each range `[rows]` one that may stand in for it."""
    return (drawn(rows, seed + (attempt << 20)) % np.uint64(rows)).astype(np.int64)


def _banded(signatures: Hashes) -> Hashes:
    """A key `[n, bands]` for each band of signatures `[n, bands, rows]`."""
    keys = np.broadcast_to(np.arange(1, signatures.shape[1] + 1, dtype=np.uint64), signatures.shape[:2])
    for row in range(signatures.shape[2]):
        keys = mixed(keys) + signatures[:, :, row]
    return mixed(keys)
