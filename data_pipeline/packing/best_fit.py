"""Documents into rows of fixed length: which share one, and how those are cut that are longer."""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence

from data_pipeline.packing.chat_template import Rendered

LEAST = 2
"""Ids of the shortest piece that teaches anything: one to predict from, one to predict."""


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of the lengths that share a row, for each row: best fit, longest first (Johnson et al., 1974).

    Rows come in the order of their first index and hold indices in ascending order. No length may exceed `capacity`.
    """
    rows: list[list[int]] = []
    # (space left, row), ascending: the first that is large enough is the tightest.
    spaces: list[tuple[int, int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        length = lengths[index]
        at = bisect_left(spaces, (length, 0))
        if at < len(spaces):
            space, row = spaces.pop(at)
        else:
            space, row = capacity, len(rows)
            rows.append([])
        rows[row].append(index)
        if space - length >= LEAST:
            insort(spaces, (space - length, row))
    return sorted(sorted(row) for row in rows)


def cut(rendered: Rendered, capacity: int) -> Iterator[tuple[int, Rendered]]:
    """Offset and content of the pieces of a document that fit a row of `capacity` ids.

    A piece begins with the last id of the one before: an id is predicted from its predecessor, so with that overlap
    every id but the document's first is a target once. The first id of a piece never is one.
    """
    size = len(rendered.ids)
    for offset in range(0, max(size - 1, 0), capacity - 1):
        loss = rendered.loss[offset : offset + capacity].copy()
        loss[0] = 0
        yield offset, Rendered(rendered.ids[offset : offset + capacity], loss)
