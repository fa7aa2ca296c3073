"""Which candidates are near-duplicates: the exact Jaccard similarity of their shingles decides, pair by pair.

Sets of shingles meet in the bucket of the later document of a pair, so that workers share the pairs evenly whatever
belongs to what. A document goes for the earliest one that stays and is similar to it; where the one that it is similar
to goes itself, it is compared with that one's survivor too.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_pipeline.documents.blocks import Block, read_block
from data_pipeline.documents.engine import Buckets, Engine
from data_pipeline.near_duplicates.candidates import Places
from data_pipeline.near_duplicates.shingles import jaccard, shingles
from specs.common.files import replacing

SIMILAR = np.dtype([("later", "<i8"), ("earlier", "<i8"), ("similarity", "<f8")])
Similarities = npt.NDArray[np.void]

_SHINGLED = pa.schema([("place", pa.int64()), ("shingles", pa.large_binary())])
_SENT = pa.schema([*_SHINGLED, ("later", pa.bool_())])
_ROUNDS = 20
"""How often survivors of survivors are compared; a chain of edits longer than that keeps a document too many."""


@dataclass(frozen=True)
class PairFiles:
    """Pairs `[n, 2]` of (later, earlier) places on disk, in two orders."""

    by_later: Path
    by_earlier: Path

    @classmethod
    def write(cls, pairs: Places, folder: Path) -> Self:
        """Write pairs to a folder that every worker sees."""
        folder.mkdir(parents=True, exist_ok=True)
        files = cls((folder / "by_later.npy").resolve(), (folder / "by_earlier.npy").resolve())
        save(files.by_later, pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))])
        save(files.by_earlier, pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))])
        return files


def save(path: Path, array: npt.NDArray[Any]) -> None:
    """Write an array, whole or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


def write_shingles(length: int, wanted: Path, block: Block, path: Path) -> None:
    """Write place and shingles of the documents of a block whose places stand in the file `wanted`, ascending."""
    places = np.load(wanted, mmap_mode="r")
    first, last = np.searchsorted(places, block.ends)
    documents = read_block(block)
    chosen = (documents[place - block.start] for place in places[first:last].tolist())
    sets = [each.tobytes() for _, each in shingles(chosen, length)]
    with replacing(path) as temporary, pa.OSFile(str(temporary), "wb") as sink:
        with pa.ipc.new_file(sink, _SHINGLED) as writer:
            writer.write_table(pa.table([places[first:last], pa.array(sets, pa.large_binary())], schema=_SHINGLED))


def similar(
    engine: Engine,
    parts: Sequence[Path],
    pairs: PairFiles,
    candidates: PairFiles,
    size: int,
    threshold: float,
    advance: Callable[[], None],
) -> Similarities:
    """Those pairs that are as similar as the threshold says, sorted; `size`: bytes of the sets that travel.

    Of a document, no pair is compared beyond the first similar one that is certain to stay, because it is no later
    document of any pair of all `candidates`.
    """
    compare = functools.partial(_compare, pairs, candidates, threshold)
    results = engine.exchange(functools.partial(_split, pairs), compare, parts, size, advance)
    return np.sort(np.concatenate([np.empty(0, SIMILAR), *results]), order=["later", "earlier"])


def resolved(known: Similarities, compare: Callable[[Places], Similarities]) -> list[tuple[int, int, float]]:
    """(dropped, survivor, similarity) of each document that goes, ascending.

    `known` are similar pairs; `compare` tells which of other pairs `[n, 2]` are.
    """
    similarity: dict[int, dict[int, float]] = {}
    compared: set[tuple[int, int]] = set()
    survivor: dict[int, int] = {}
    for _ in range(_ROUNDS):
        for later, earlier, value in known.tolist():
            similarity.setdefault(later, {})[earlier] = value
        survivor, others = _survivors(similarity)
        if not (others := others - compared):
            break
        compared |= others
        known = compare(np.array(sorted(others), np.int64))
    return [(later, earlier, similarity[later][earlier]) for later, earlier in sorted(survivor.items())]


def _survivors(similarity: Mapping[int, Mapping[int, float]]) -> tuple[dict[int, int], set[tuple[int, int]]]:
    """The earliest similar document that stays, of each that has one; and the pairs that no similarity is known of.

    These are of a document that stays, and of the survivor of one that it is similar to.
    """
    survivor: dict[int, int] = {}
    unknown: set[tuple[int, int]] = set()
    for later in sorted(similarity):
        alike = similarity[later]
        staying = min((earlier for earlier in alike if earlier not in survivor), default=None)
        if staying is not None:
            survivor[later] = staying
        else:
            unknown |= {(later, survivor[earlier]) for earlier in alike} - {(later, earlier) for earlier in alike}
    return survivor, unknown


def _split(pairs: PairFiles, part: Path, buckets: Buckets) -> dict[int, bytes]:
    """For each bucket, which is that of a pair's later document, the sets of a part that are compared in it."""
    with pa.memory_map(str(part)) as source, pa.ipc.open_file(source) as reader:
        shingled = reader.read_all().combine_chunks()
        places = shingled["place"].to_numpy()
        first, last = _ranges(np.load(pairs.by_later, mmap_mode="r")[:, 0], places)
        own = np.flatnonzero(first < last)
        by_earlier = np.load(pairs.by_earlier, mmap_mode="r")
        first, last = _ranges(by_earlier[:, 1], places)
        others = np.repeat(np.arange(len(places)), last - first)
        positions = np.arange(len(others)) - np.repeat(np.cumsum(last - first) - (last - first), last - first)
        laters = by_earlier[positions + np.repeat(first, last - first), 0]
        rows = np.concatenate([own, others])
        keys = np.concatenate([places[own], laters]).astype(np.uint64)
        sent: dict[int, bytes] = {}
        for bucket, chosen in buckets.of(keys):
            numbers = np.unique(rows[chosen])
            is_later = np.isin(numbers, rows[chosen[chosen < len(own)]])
            message = shingled.take(numbers).append_column(_SENT.field("later"), pa.array(is_later))
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, _SENT) as writer:
                writer.write_table(message)
            sent[bucket] = sink.getvalue().to_pybytes()
        return sent


def _compare(pairs: PairFiles, candidates: PairFiles, threshold: float, pieces: list[bytes]) -> Similarities:
    """The similar pairs of a bucket; what is no later document of any candidate pair is certain to stay."""
    table = pa.concat_tables(pa.ipc.open_stream(piece).read_all() for piece in pieces)
    places = table["place"].to_pylist()
    sets = {
        place: np.frombuffer(each.as_buffer(), np.uint64) for place, each in zip(places, table["shingles"], strict=True)
    }
    by_later = np.load(pairs.by_later, mmap_mode="r")
    laters = np.sort(table["place"].to_numpy()[table["later"].to_numpy()])
    first, last = _ranges(by_later[:, 0], laters)
    all_laters = np.load(candidates.by_later, mmap_mode="r")[:, 0]
    stays = functools.cache(lambda place: not _holds(all_laters, place))
    found = []
    for later, start, stop in zip(laters.tolist(), first.tolist(), last.tolist(), strict=True):
        for earlier in by_later[start:stop, 1].tolist():
            if (similarity := jaccard(sets[later], sets[earlier])) >= threshold:
                found.append((later, earlier, similarity))
                if stays(earlier):
                    # It is dropped for this one or an earlier one: of a thousand copies, each is like all others.
                    break
    return np.array(found, SIMILAR)


def _ranges(ascending: Places, values: Places) -> tuple[Places, Places]:
    """Where each value begins in an ascending array, and where it ends."""
    return np.searchsorted(ascending, values, "left"), np.searchsorted(ascending, values, "right")


def _holds(ascending: Places, value: int) -> bool:
    position = int(np.searchsorted(ascending, value))
    return position < len(ascending) and int(ascending[position]) == value
