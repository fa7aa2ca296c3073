"""Dedup: exact duplicates by content hash, then near-duplicates by MinHash-LSH, each verified before it goes.

LSH proposes candidates, connected components gather them, and exact Jaccard similarity decides: a document is dropped
only for an earlier one that survives and is similar to it. Nothing depends on partitions, row order or threads.

Signatures are made block by block; what belongs together then meets in three exchanges: equal ids, equal bands, the
members of a component. Texts never travel: only 24 bytes for each document, 16 for each of its bands, and 8 for each
shingle of a candidate do.
"""

import functools
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from xxhash import xxh3_64_intdigest

from data_pipeline.documents import engine as engines
from data_pipeline.documents.blocks import Block, blocks, finish, parts, read_block, read_columns, resumable
from data_pipeline.documents.document_stage import write_changed
from data_pipeline.documents.documents import Document
from data_pipeline.documents.engine import Buckets, Engine
from data_pipeline.documents.outcome import conclude
from data_pipeline.near_duplicates.connected_components import Places, forest, members, merged
from data_pipeline.near_duplicates.minhash import band_keys, verified
from data_pipeline.near_duplicates.shingles import shingles
from specs.common.files import replacing, write_json
from specs.common.progress import Progress
from specs.pipeline import stage
from specs.schema.data import Corpus, Dedup, MinHash

REASONS = ("exact duplicate", "near-duplicate")
MATCH = np.dtype([("dropped", "<i8"), ("survivor", "<i8"), ("similarity", "<f8"), ("reason", "<i8")])
"""A document that goes and the earlier one that stays for it, by their places, and the number of the reason."""

_EXAMPLES = 20
_LARGEST = 10
_SHINGLED = pa.schema([("component", pa.int64()), ("place", pa.int64()), ("shingles", pa.large_binary())])
_Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Found:
    """What goes, and which source each place belongs to."""

    matches: _Array
    """`MATCH` `[n]`, sorted by the place of what goes."""
    starts: _Array
    """Place of the first document of each run of documents of one source, ascending."""
    names: tuple[str, ...]
    """Source of each run."""

    def sources(self, places: _Array) -> list[str]:
        """Source of each place."""
        runs = np.searchsorted(self.starts, places, side="right") - 1
        return [self.names[run] for run in runs.tolist()]


def find(folder: Path, section: Dedup, engine: Engine, scratch: Path) -> Found:
    """Every document of a folder that goes. `scratch` keeps what is done of it."""
    found = blocks(folder)
    listing = functools.partial(_list_ids, section.apart)
    runs = [run for each in finish(engine, scratch / "ids", "dedup: ids", listing, found) for run in each]
    starts = np.cumsum([0, *(count for _, count in runs)])[:-1]
    exact = np.empty(0, MATCH)
    if section.exact:
        listed = list(zip(parts(scratch / "ids", len(found)), (block.start for block in found), strict=True))
        exact = _sorted(engine.exchange(_split_ids, _equal_ids, listed, 24 * sum(block.rows for block in found)))
    near = np.empty(0, MATCH)
    if section.near is not None:
        near = _near(found, exact["dropped"], section, section.near, engine, scratch)
    return Found(_sorted([exact, near]), starts, tuple(source for source, _ in runs))


def _near(found: list[Block], gone: _Array, section: Dedup, near: MinHash, engine: Engine, scratch: Path) -> _Array:
    exact = _saved(scratch / "exact.npy", gone)
    signing = functools.partial(_sign, section.apart, near, exact)
    signed = sum(finish(engine, scratch / "signatures", "dedup: signatures", signing, found))
    with Progress("dedup: candidates", unit="documents") as progress:
        tables = parts(scratch / "signatures", len(found))
        component_of = members(merged(engine.exchange(_split_bands, _equal_bands, tables, 16 * near.bands * signed)))
        progress.advance(len(component_of))
    # Blocks without a candidate are not read again.
    chosen = [block for block in found if np.diff(np.searchsorted(component_of[:, 0], block.ends))[0]]
    shingle = functools.partial(_shingle, near.shingle_words, _saved(scratch / "candidates.npy", component_of))
    sizes = finish(engine, scratch / "shingles", "dedup: shingles", shingle, chosen)
    with Progress("dedup: verification", unit="near-duplicates") as progress:
        verify = functools.partial(_verify, near.threshold)
        shingled = parts(scratch / "shingles", len(chosen))
        matches = _sorted(engine.exchange(_split_shingles, verify, shingled, sum(sizes)))
        progress.advance(len(matches))
    return matches


def keep(gone: Path, block: Block, ledger: stage.Ledger) -> Iterator[Document]:
    """Documents of a block that no match drops; `gone` is a file of places that do, ascending."""
    places = np.load(gone, mmap_mode="r")
    first, last = np.searchsorted(places, block.ends)
    dropped = set((places[first:last] - block.start).tolist())
    for row, document in enumerate(read_block(block)):
        ledger.take(document.source, document.size)
        if row not in dropped:
            ledger.keep(document.source, document.size)
            yield document


def explain(found: Found, folder: Path, ledger: stage.Ledger) -> None:
    """State in the ledger what was dropped, for what, and how large clusters are."""
    place = _Places(folder)
    between: Counter[str] = Counter()
    for number, reason in enumerate(REASONS):
        matches = found.matches[found.matches["reason"] == number]
        sources, survivors = found.sources(matches["dropped"]), found.sources(matches["survivor"])
        between.update(f"{one} -> {other}" for one, other in zip(sources, survivors, strict=True))
        for source, count in Counter(sources).items():
            first = matches[sources.index(source)]
            of = f"(of {place(first['survivor'])}, similarity {first['similarity']:.4f})"
            ledger.drop(reason, f"{place(first['dropped'])} {of}", count)
        kept, dropped = np.unique(matches["survivor"], return_counts=True)
        sizes = Counter((dropped + 1).tolist())
        ledger.state(f"{reason}s: clusters by size", {str(size): sizes[size] for size in sorted(sizes)})
        largest = []
        for index in np.lexsort((kept, -dropped))[:_LARGEST]:
            least = matches["similarity"][matches["survivor"] == kept[index]].min()
            entry = {"survivor": place(kept[index]), "documents": int(dropped[index]) + 1}
            largest.append(entry | {"least similarity": round(float(least), 4)})
        ledger.state(f"{reason}s: largest clusters", largest)
        told = [
            {
                "dropped": place(match["dropped"]),
                "survivor": place(match["survivor"]),
                "similarity": round(float(match["similarity"]), 4),
            }
            for match in matches[:_EXAMPLES]
        ]
        ledger.state(f"{reason}s: examples", told)
    ledger.state("dropped for a survivor in", dict(sorted(between.items())))


class _Places:
    """Sources and paths of documents by place, for people; a block's are read when one is asked for."""

    def __init__(self, folder: Path) -> None:
        self._blocks = blocks(folder)
        self._starts = [block.start for block in self._blocks]
        self._names = functools.lru_cache(maxsize=8)(self._read)

    def __call__(self, place: int) -> str:
        number = bisect_right(self._starts, place) - 1
        return self._names(number)[place - self._starts[number]]

    def _read(self, number: int) -> list[str]:
        return [document.place for document in read_block(self._blocks[number])]


def _list_ids(apart: Sequence[str], block: Block, path: Path) -> list[tuple[str, int]]:
    """Write the ids of a block, uint64 `[n, 2]`. Answers the runs of documents of one source."""
    columns = read_columns(block, ["id", "source"])
    ids = np.frombuffer(bytes.fromhex("".join(columns["id"])), ">u8").reshape(-1, 2).astype(np.uint64)
    runs = [(source, len(list(group))) for source, group in groupby(columns["source"])]
    _save(path, ids ^ _apart(columns["source"], apart)[:, None])
    return runs


def _sign(apart: Sequence[str], section: MinHash, exact: Path, block: Block, path: Path) -> int:
    """Write place and bands of the documents of a block that are compared, uint64 `[n, 1 + bands]`. Answers n."""
    gone = np.load(exact, mmap_mode="r")
    first, last = np.searchsorted(gone, block.ends)
    left = np.setdiff1d(np.arange(block.rows), gone[first:last] - block.start)
    documents = read_block(block)
    chosen = [documents[row] for row in left.tolist()]
    long, bands = band_keys(chosen, section)
    bands ^= _apart([document.source for document in chosen], apart)[:, None]
    _save(path, np.column_stack([(left + block.start).astype(np.uint64), bands])[long])
    return int(long.sum())


def _apart(sources: Sequence[str], apart: Sequence[str]) -> _Array:
    """What the keys of documents of these sources `[n]` are changed by, lest those of one meet those of another."""
    marks = {source: xxh3_64_intdigest(source.encode()) for source in apart}
    return np.array([marks.get(source, 0) for source in sources], np.uint64)


def _split_ids(listed: tuple[Path, int], buckets: Buckets) -> dict[int, bytes]:
    path, start = listed
    ids = np.load(path, mmap_mode="r")
    rows = np.column_stack([ids, np.arange(start, start + len(ids), dtype=np.uint64)])
    return {bucket: rows[chosen].tobytes() for bucket, chosen in buckets.of(rows[:, 1])}


def _equal_ids(pieces: list[bytes]) -> _Array:
    rows = _rows(pieces, 3)
    return _matches(_linked(rows[:, :2], rows[:, 2]), 1.0, 0)


def _split_bands(path: Path, buckets: Buckets) -> dict[int, bytes]:
    table = np.load(path, mmap_mode="r")
    keys = table[:, 1:].ravel()
    rows = np.column_stack([keys, np.repeat(table[:, 0], table.shape[1] - 1)])
    return {bucket: rows[chosen].tobytes() for bucket, chosen in buckets.of(keys)}


def _equal_bands(pieces: list[bytes]) -> Places:
    rows = _rows(pieces, 2)
    return forest(_linked(rows[:, :1], rows[:, 1]))


def _shingle(length: int, candidates: Path, block: Block, path: Path) -> int:
    """Write component, place and shingles of a block's candidates. Answers their bytes."""
    component_of = np.load(candidates, mmap_mode="r")
    first, last = np.searchsorted(component_of[:, 0], block.ends)
    documents = read_block(block)
    chosen = component_of[first:last]
    members_here = (documents[place - block.start] for place in chosen[:, 0].tolist())
    sets = [found.tobytes() for _, found in shingles(members_here, length)]
    columns = [pa.array(chosen[:, 1]), pa.array(chosen[:, 0]), pa.array(sets, pa.large_binary())]
    with replacing(path) as temporary, pa.ipc.new_file(str(temporary), _SHINGLED) as writer:
        writer.write_batch(pa.record_batch(columns, schema=_SHINGLED))
    return sum(map(len, sets)) + 16 * len(sets)


def _split_shingles(path: Path, buckets: Buckets) -> dict[int, bytes]:
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        batch = reader.get_batch(0)
        split = {}
        for bucket, chosen in buckets.of(batch["component"].to_numpy().astype(np.uint64)):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, _SHINGLED) as writer:
                writer.write_batch(batch.take(pa.array(chosen)))
            split[bucket] = sink.getvalue().to_pybytes()
        return split


def _verify(threshold: float, pieces: list[bytes]) -> _Array:
    table = pa.concat_tables(pa.ipc.open_stream(piece).read_all() for piece in pieces)
    table = table.sort_by([("component", "ascending"), ("place", "ascending")])
    places, starts = table["place"].to_numpy(), np.flatnonzero(np.diff(table["component"].to_numpy(), prepend=-1))
    matches: list[tuple[int, int, float, int]] = []
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(places)], strict=True):
        texts = table["shingles"].slice(start, stop - start)
        sets = {
            place: np.frombuffer(each.as_buffer(), np.uint64)
            for place, each in zip(places[start:stop].tolist(), texts, strict=True)
        }
        matches += [
            (match.dropped, match.survivor, match.similarity, 1) for match in verified(list(sets), sets, threshold)
        ]
    return np.array(matches, MATCH)


def _linked(keys: _Array, places: _Array) -> Places:
    """Edges `[m, 2]` from the lowest place of each key `[n, k]` that occurs more than once to each other place."""
    order = np.lexsort((places, *keys.T))
    keys, places = keys[order], places[order].astype(np.int64)
    begins = np.ones(len(keys), np.bool_)
    begins[1:] = (keys[1:] != keys[:-1]).any(axis=1)
    lowest = places[np.flatnonzero(begins)[np.cumsum(begins) - 1]] if len(places) else places
    return np.stack([lowest, places], axis=1)[~begins]


def _matches(edges: Places, similarity: float, reason: int) -> _Array:
    matches = np.empty(len(edges), MATCH)
    matches["survivor"], matches["dropped"] = edges.T
    matches["similarity"], matches["reason"] = similarity, reason
    return matches


def _sorted(pieces: Sequence[_Array]) -> _Array:
    return np.sort(np.concatenate([np.empty(0, MATCH), *pieces]), order="dropped")


def _rows(pieces: list[bytes], width: int) -> _Array:
    return np.frombuffer(b"".join(pieces), np.uint64).reshape(-1, width)


def _save(path: Path, array: _Array) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


def _saved(path: Path, array: _Array) -> Path:
    _save(path, array)
    return path.resolve()


@click.command(epilog="Example: python -m data_pipeline.dedup corpora.smoke-code --documents filtered --out unique")
@click.argument("node")
@click.option("--documents", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of filter.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for what is kept.")
@stage.command
@engines.options
def main(node: str, documents: Path, out: Path, engine: Engine) -> None:
    """Drop exact and near-duplicates; of each cluster the first source's document survives."""
    dedup(node, stage.node(node, Corpus), documents, out, engine)


def dedup(address: str, corpus: Corpus, documents: Path, out: Path, engine: Engine) -> None:
    """Write the documents of a folder that no earlier one makes superfluous, and a ledger, to another folder."""
    with (
        stage.measuring("dedup", address) as measured,
        resumable("dedup", corpus.model_dump(mode="json"), [documents]) as scratch,
        replacing(out) as temporary,
    ):
        found = find(documents, corpus.dedup, engine, scratch)
        gone = _saved(scratch / "gone.npy", found.matches["dropped"])
        ledger = write_changed("dedup", corpus, documents, temporary, functools.partial(keep, gone), engine, scratch)
        explain(found, documents, ledger)
        conclude("dedup", ledger, corpus.source_names, corpus.may_be_empty)
        counts = ledger.as_json()
        write_json(temporary / "ledger.json", counts)
        measured["bytes"] = counts["bytes_in"]


if __name__ == "__main__":
    main()
