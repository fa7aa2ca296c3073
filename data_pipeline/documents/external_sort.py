"""Documents into their total order within stated memory: sorted runs on disk, merged."""

import heapq
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa

from data_pipeline.documents.blocks import LZ4, batches
from data_pipeline.documents.documents import SCHEMA, Document, columns_of, documents_of

RUN_BYTES = 64 * 2**20
"""Text that is sorted at once."""
FAN = 32
"""Runs that are merged at once, each with a batch in memory."""
BATCH_BYTES = 2**20
"""About how much text of a run a merge holds."""

Key = tuple[str, str]


def key_of(document: Document) -> Key:
    """Place of a document among those of its source."""
    return document.path, document.id


class Sorter:
    """Takes documents of one source in any order, gives them back by path and id.

    A folder holds what does not fit in memory; it is emptied at the start, and gone at the end.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: list[Document] = []
        self._size = self._written = 0
        # Runs of level n are merges of FAN runs of level n - 1: no document is written more than log(n) times.
        self._levels: list[list[Path]] = []

    def __enter__(self) -> Self:
        shutil.rmtree(self._folder, ignore_errors=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, document: Document) -> None:
        """Take one document."""
        self._held.append(document)
        self._size += document.size
        if self._size >= RUN_BYTES:
            self._close(self._taken(), 0)

    def documents(self) -> Iterator[Document]:
        """All of them, in order; they can be asked for once."""
        runs = [run for level in reversed(self._levels) for run in level]
        while len(runs) > FAN:
            runs = [self._write(_merged(runs[-FAN:])), *runs[:-FAN]]
        yield from heapq.merge(*map(_read, runs), self._taken(), key=key_of)

    def _taken(self) -> list[Document]:
        taken, self._held, self._size = sorted(self._held, key=key_of), [], 0
        return taken

    def _close(self, documents: Iterable[Document], level: int) -> None:
        run = self._write(documents)
        if level == len(self._levels):
            self._levels.append([])
        self._levels[level].append(run)
        if len(self._levels[level]) == FAN:
            runs, self._levels[level] = self._levels[level], []
            self._close(_merged(runs), level + 1)

    def _write(self, documents: Iterable[Document]) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{self._written:06d}.arrow"
        self._written += 1
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA, options=LZ4) as writer:
            for batch in batches(documents, lambda document: document.size, BATCH_BYTES):
                writer.write_batch(pa.record_batch(columns_of(batch), schema=SCHEMA))
        return path


def _read(run: Path) -> Iterator[Document]:
    with pa.memory_map(str(run)) as source, pa.ipc.open_file(source) as reader:
        for number in range(reader.num_record_batches):
            yield from documents_of(reader.get_batch(number))


def _merged(runs: list[Path]) -> Iterator[Document]:
    yield from heapq.merge(*map(_read, runs), key=key_of)
    for run in runs:
        run.unlink()
