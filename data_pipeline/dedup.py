"""Dedup: exact duplicates by content hash, then near-duplicates by MinHash-LSH, each verified before it goes.

LSH proposes candidates, exact Jaccard similarity decides: a document is dropped only for an earlier one that survives
and is similar to it. Nothing depends on partitions, row order or threads, and the work is linear in documents.

Signatures are made block by block; what belongs together then meets in three exchanges: equal ids, equal bands, the
pairs of a document. Texts never travel: only 24 bytes for each document, 16 for each of its bands, and 8 for each
shingle of a candidate do.
"""

import functools
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import click
import numpy as np

from data_pipeline.documents import engine as engines
from data_pipeline.documents.blocks import Block, blocks, finish, parts, read_block, read_columns, resumable
from data_pipeline.documents.document_stage import write_changed
from data_pipeline.documents.documents import Document
from data_pipeline.documents.engine import Buckets, Engine
from data_pipeline.documents.outcome import conclude
from data_pipeline.near_duplicates.matches import MATCH, REASONS, Duplicates, Matches, joined, separators
from data_pipeline.near_duplicates.search import near_duplicates
from data_pipeline.near_duplicates.verification import save
from specs.common.files import replacing, write_json
from specs.pipeline import stage
from specs.schema.data import Corpus, Dedup

_EXAMPLES = 20
_LARGEST = 10


def find_duplicates(folder: Path, section: Dedup, engine: Engine, scratch: Path) -> Duplicates:
    """Every document of a folder that goes. `scratch` keeps what is finished."""
    all_blocks = blocks(folder)
    listing = functools.partial(_list_ids, section.apart)
    runs_of_blocks = finish(engine, scratch / "ids", "dedup: ids", listing, all_blocks)
    runs = [run for runs_of_block in runs_of_blocks for run in runs_of_block]
    starts = np.cumsum([0, *(count for _, count in runs)])[:-1]
    exact = joined([])
    if section.exact:
        listed = list(zip(parts(scratch / "ids", len(all_blocks)), (block.start for block in all_blocks), strict=True))
        size = 24 * sum(block.rows for block in all_blocks)
        exact = joined(engine.exchange(_split_ids, _equal_ids, listed, size))
    near = joined([])
    if section.near is not None:
        near = near_duplicates(all_blocks, exact["dropped"], section, section.near, engine, scratch)
    return Duplicates(joined([exact, near]), starts, tuple(source for source, _ in runs))


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


def explain(duplicates: Duplicates, folder: Path, ledger: stage.Ledger) -> None:
    """State in the ledger what was dropped, for what, and how large clusters are."""
    place = _Names(folder)
    between: Counter[str] = Counter()
    for number, reason in enumerate(REASONS):
        matches = duplicates.matches[duplicates.matches["reason"] == number]
        sources, survivors = duplicates.sources(matches["dropped"]), duplicates.sources(matches["survivor"])
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


class _Names:
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
    """Write the ids of a block, uint64 `[n, 2]`. Returns the runs of documents of one source."""
    columns = read_columns(block, ["id", "source"])
    ids = np.frombuffer(bytes.fromhex("".join(columns["id"])), ">u8").reshape(-1, 2).astype(np.uint64)
    runs = [(source, len(list(group))) for source, group in groupby(columns["source"])]
    save(path, ids ^ separators(columns["source"], apart)[:, None])
    return runs


def _split_ids(listed: tuple[Path, int], buckets: Buckets) -> dict[int, bytes]:
    path, start = listed
    ids = np.load(path, mmap_mode="r")
    rows = np.column_stack([ids, np.arange(start, start + len(ids), dtype=np.uint64)])
    return {bucket: rows[chosen].tobytes() for bucket, chosen in buckets.of(rows[:, 1])}


def _equal_ids(pieces: list[bytes]) -> Matches:
    """The first document of each id stays, all others go."""
    rows = np.frombuffer(b"".join(pieces), np.uint64).reshape(-1, 3)
    rows = rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0]))]
    begins = np.ones(len(rows), np.bool_)
    begins[1:] = (rows[1:, :2] != rows[:-1, :2]).any(axis=1)
    places = rows[:, 2].astype(np.int64)
    matches = np.empty(len(rows), MATCH)
    matches["dropped"], matches["similarity"], matches["reason"] = places, 1.0, 0
    matches["survivor"] = places[np.flatnonzero(begins)[np.cumsum(begins) - 1]] if len(rows) else places
    return matches[~begins]


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
        duplicates = find_duplicates(documents, corpus.dedup, engine, scratch)
        gone = (scratch / "gone.npy").resolve()
        save(gone, duplicates.matches["dropped"])
        ledger = write_changed("dedup", corpus, documents, temporary, functools.partial(keep, gone), engine, scratch)
        explain(duplicates, documents, ledger)
        conclude("dedup", ledger, corpus.source_names, corpus.may_be_empty)
        counts = ledger.as_json()
        write_json(temporary / "ledger.json", counts)
        measured["bytes"] = counts["bytes_in"]


if __name__ == "__main__":
    main()
