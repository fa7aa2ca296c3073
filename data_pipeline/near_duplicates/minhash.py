"""What near-duplicates are told by: a signature of a document's shingles, and its bands.

Broder (1997); Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, ch. 3. With b bands of r rows, two documents
of Jaccard similarity s share a band with probability 1 - (1 - s^r)^b.

A signature takes one permutation, not one for each row: the hashes of the shingles, cut into as many ranges as there
are rows, and the least of each. A range that is empty takes the value of another one, drawn until one is not. As in
classic MinHash, each row of two documents is then equal with probability s (Li, Owen and Zhang, 2012; Shrivastava,
2017), for a few operations on each shingle instead of some on each for every row.
"""

import functools
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from data_pipeline.documents.documents import Document
from data_pipeline.near_duplicates.shingles import Hashes, drawn, mixed, shingles
from specs.schema.data import MinHash


def band_keys(documents: Iterable[Document], section: MinHash) -> tuple[npt.NDArray[np.int64], Hashes]:
    """How many distinct shingles each document `[n]` has, 0 where it is too short to compare, and a key for each band
    `[n, bands]`, zero where it is.

    Keys are equal where a band's hashes are; that others are equal by chance (64 bits) costs a comparison only.
    """
    # Texts without a single shingle would all have the same signature.
    shortest = max(section.min_words, section.shingle_words)
    sizes: list[int] = []
    values: list[Hashes] = []
    full: list[npt.NDArray[np.bool_]] = []
    rows = section.bands * section.rows
    starts = (np.arange(rows, dtype=np.uint64) * np.uint64(2**64 // rows)).astype(np.uint64)
    for count, hashes in shingles(documents, section.shingle_words, section.seed):
        sizes.append(len(hashes) if count >= shortest else 0)
        if sizes[-1]:
            first = hashes.searchsorted(starts)
            values.append(hashes.take(first, mode="clip"))
            # Where the next range begins with another hash.
            full.append(first != np.append(first[1:], len(hashes)))
    counts = np.array(sizes, np.int64)
    keys = np.zeros((len(sizes), section.bands), np.uint64)
    if values:
        signatures = _filled(np.array(values), np.array(full), section.seed)
        keys[counts > 0] = _banded(signatures.reshape(-1, section.bands, section.rows))
    return counts, keys


def _filled(values: Hashes, full: npt.NDArray[np.bool_], seed: int) -> Hashes:
    """Signatures `[n, rows]` of which some places are not full: these get the value of another one that is."""
    documents, rows = np.nonzero(~full)
    attempt = 0
    while len(rows):
        attempt += 1
        others = _others(full.shape[1], seed, attempt)[rows]
        filled = full[documents, others]
        values[documents[filled], rows[filled]] = values[documents[filled], others[filled]]
        documents, rows = documents[~filled], rows[~filled]
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
