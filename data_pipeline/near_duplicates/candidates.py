"""Which pairs of documents are compared: those that share a band, and of them a bounded number for each document.

Documents that share the key of a band form a group. A group of n has n^2 / 2 pairs, too many where files of one kind
share much of their text; so each of its documents is paired with the first of the group and with those just before
it. Of all pairs of a document, those that share most bands are kept. The work is linear in documents, whatever they
hold; a group of copies loses nothing by it, because each copy is paired with the first.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Places = npt.NDArray[np.int64]
PAIR = np.dtype([("later", "<i8"), ("earlier", "<i8"), ("bands", "<i8")])
"""Two documents by their places in the total order, and how many bands they share."""
Pairs = npt.NDArray[np.void]

_BEFORE = (1, 2, 3, 5, 8, 13)
"""How far before a document in its group those stand that it is paired with, besides the first."""
LARGEST = 32
"""Pairs of a document that are compared at most."""


def pairs(keys: npt.NDArray[np.uint64], places: Places) -> Pairs:
    """Pairs of documents that share a key, `[m]`, sorted, with the number of keys that they share.

    `keys` `[n]` are those of bands, `places` `[n]` the documents that have them.
    """
    order = np.lexsort((places, keys))
    keys, places = keys[order], places[order]
    begins = np.ones(len(keys), np.bool_)
    begins[1:] = keys[1:] != keys[:-1]
    numbers = np.arange(len(keys))
    first = np.maximum.accumulate(np.where(begins, numbers, 0)) if len(keys) else numbers
    edges = []
    for earlier in (first, *(numbers - step for step in _BEFORE)):
        # The first of its group is met by `first` already.
        inside = (earlier > first) | ((earlier == first) & (first < numbers) & (earlier is first))
        edges.append(np.stack([places[inside], places[earlier[inside]]], axis=1))
    return _counted(np.concatenate(edges), None)


def merged(several: Iterable[Pairs]) -> Pairs:
    """The pairs of several lists: of each document the `LARGEST` that share most bands, the earliest first."""
    table = np.concatenate([np.empty(0, PAIR), *several])
    table = _counted(np.stack([table["later"], table["earlier"]], axis=1), table["bands"])
    order = np.lexsort((table["earlier"], -table["bands"], table["later"]))
    table = table[order]
    begins = np.searchsorted(table["later"], table["later"])
    return np.sort(table[np.arange(len(table)) - begins < LARGEST], order=["later", "earlier"])


def _counted(edges: Places, weights: Places | None) -> Pairs:
    order = np.lexsort((edges[:, 1], edges[:, 0]))
    edges = edges[order]
    begins = np.ones(len(edges), np.bool_)
    begins[1:] = (edges[1:] != edges[:-1]).any(axis=1)
    starts = np.flatnonzero(begins)
    result = np.empty(len(starts), PAIR)
    result["later"], result["earlier"] = edges[starts].T
    counts = np.ones(len(edges), np.int64) if weights is None else weights[order]
    result["bands"] = np.add.reduceat(counts, starts) if len(starts) else 0
    return result
