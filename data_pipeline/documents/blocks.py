"""Documents in blocks, the unit of work of every engine, and what a stage makes of each, kept until all are done.

A block is a row group of an input's shard: the data alone decides where it begins. What becomes of it is a part in the
stage's scratch folder, where a stage that was killed finds those that were finished. The shards of the result are then
written from the parts, in parallel, with the bytes that a single `DocumentWriter` would give them.
"""

import contextlib
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from data_pipeline.documents.documents import (
    GROUP_ROWS,
    SCHEMA,
    Document,
    DocumentWriter,
    columns_of,
    documents_of,
    guarded,
    is_full,
    opened,
    shards,
)
from data_pipeline.documents.engine import Engine
from data_pipeline.documents.shared_folder import require_shared
from specs.common.files import replacing, tree_digests, write_json
from specs.common.progress import Progress
from specs.pipeline import stage

T = TypeVar("T")

_PART = pa.schema([*SCHEMA, pa.field("size", pa.int64(), nullable=False)])
LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")


@dataclass(frozen=True)
class Block:
    """Consecutive documents of a folder, as they are read at once."""

    shard: Path
    group: int
    """Row group of the shard."""
    start: int
    """Place of the first document in the folder's total order."""
    rows: int

    @property
    def ends(self) -> tuple[int, int]:
        """Place of its first document, and the place after its last."""
        return self.start, self.start + self.rows


def blocks(folder: Path) -> list[Block]:
    """Blocks of a folder in their order, from its shards' footers. Raises UserError as `read_documents` does."""
    found: list[Block] = []
    start = 0
    for shard in shards(folder):
        with opened(shard) as file:
            for group in range(file.metadata.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                # Absolute: a worker may start elsewhere.
                found.append(Block(shard.resolve(), group, start, rows))
                start += rows
    return found


def read_block(block: Block) -> list[Document]:
    """Documents of a block. Raises UserError where its shard is damaged."""
    with opened(block.shard) as file:
        return documents_of(guarded(block.shard, functools.partial(file.read_row_group, block.group)))


def read_columns(block: Block, names: Sequence[str]) -> dict[str, list[str]]:
    """Some columns of a block. Raises UserError as `read_block` does."""
    with opened(block.shard) as file:
        read = functools.partial(file.read_row_group, block.group, columns=list(names))
        columns: dict[str, list[str]] = guarded(block.shard, read).to_pydict()
        return columns


def batches(items: Iterable[T], size: Callable[[T], int], limit: int, count: int | None = None) -> Iterator[list[T]]:
    """Items in their order, in lists that end when their sizes reach a limit, or their number `count`."""
    batch: list[T] = []
    batched = 0
    for item in items:
        batch.append(item)
        batched += size(item)
        if batched >= limit or len(batch) == count:
            yield batch
            batch, batched = [], 0
    if batch:
        yield batch


@contextlib.contextmanager
def resumable(name: str, section: object, inputs: Sequence[Path]) -> Iterator[Path]:
    """Scratch folder of a stage, named by its code, its section and the bytes of its inputs; gone once it succeeds."""
    digests = {f"{number}/{file}": digest for number, path in enumerate(inputs) for file, digest in _digests(path)}
    with stage.scratch(name, section, digests) as folder:
        yield folder


def finish(
    engine: Engine, folder: Path, label: str, function: Callable[[T, Path], Any], tasks: Sequence[T]
) -> list[Any]:
    """What `function` makes of each task, as JSON, in their order. What an earlier process finished is not done again.

    `function` also gets the path that its part may be written to. Raises UserError where a node of a cluster does not
    see the folder, or a task says so.
    """
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[int, Any] = {}
    for number in range(len(tasks)):
        done = _part(folder, number, "json")
        if done.exists():
            results[number] = json.loads(done.read_bytes())
    missing = [number for number in range(len(tasks)) if number not in results]
    if missing and engine.name == "ray":
        require_shared(folder)
    run = functools.partial(_run, function, folder)
    with Progress(label, total=len(tasks), unit="blocks") as progress:
        progress.resume(len(results))
        for place, result in engine.map(run, [(number, tasks[number]) for number in missing]):
            results[missing[place]] = result
            progress.advance()
    return [results[number] for number in range(len(tasks))]


def parts(folder: Path, count: int) -> list[Path]:
    """Paths of the parts that `finish` let be written."""
    return [_part(folder, number, "arrow") for number in range(count)]


def write_part(path: Path, documents: Iterable[Document]) -> None:
    """Write documents in their order, a batch at a time."""
    with replacing(path) as temporary, pa.OSFile(str(temporary), "wb") as sink:
        with pa.ipc.new_file(sink, _PART, options=LZ4) as writer:
            for batch in batches(documents, lambda document: 1, GROUP_ROWS):
                sizes = pa.array([document.size for document in batch], pa.int64())
                writer.write_batch(pa.record_batch([*columns_of(batch), sizes], schema=_PART))


def read_part(path: Path, start: int = 0, stop: int | None = None) -> Iterator[Document]:
    """Documents of a part, from the one at `start` to before the one at `stop`."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        first = 0
        for number in range(reader.num_record_batches):
            if stop is not None and first >= stop:
                break
            batch = reader.get_batch(number)
            last = first + batch.num_rows
            if last > start:
                low, high = max(start, first), last if stop is None else min(last, stop)
                yield from documents_of(batch.slice(low - first, high - low).select(SCHEMA.names))
            first = last


def write_shards(engine: Engine, folder: Path, written: Sequence[Path], sources: Sequence[str], label: str) -> None:
    """Write the documents of all parts, in the order of parts, as shards of a new folder."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = _layout([_sizes(path) for path in written])
    if not jobs:
        with DocumentWriter(folder, sources):
            return
    write = functools.partial(_write_shard, folder.resolve(), tuple(written), tuple(sources))
    with Progress(label, total=len(jobs), unit="shards") as progress:
        for _ in engine.map(write, jobs):
            progress.advance()


def _layout(sizes: Sequence[Any]) -> list[tuple[int, list[tuple[int, int, int]]]]:
    """For each shard its number, and the (part, start, stop) that it is made of: where `DocumentWriter` would cut."""
    jobs: list[tuple[int, list[tuple[int, int, int]]]] = []
    rows = size = 0
    for part, lengths in enumerate(sizes):
        for row, length in enumerate(lengths.tolist()):
            if not jobs or is_full(rows, size, length):
                jobs.append((len(jobs), []))
                rows = size = 0
            slices = jobs[-1][1]
            if slices and slices[-1][0] == part:
                slices[-1] = (part, slices[-1][1], row + 1)
            else:
                slices.append((part, row, row + 1))
            rows += 1
            size += length
    return jobs


def _write_shard(
    folder: Path, written: Sequence[Path], sources: Sequence[str], job: tuple[int, list[tuple[int, int, int]]]
) -> None:
    number, slices = job
    with DocumentWriter(folder, sources, first=number) as writer:
        for part, start, stop in slices:
            for document in read_part(written[part], start, stop):
                writer.write(document)


def _sizes(path: Path) -> Any:
    options = pa.ipc.IpcReadOptions(included_fields=[len(SCHEMA)])
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source, options=options) as reader:
        batches = [reader.get_batch(number).column(0).to_numpy() for number in range(reader.num_record_batches)]
        return np.concatenate([np.empty(0, np.int64), *batches])


def _run(function: Callable[[T, Path], Any], folder: Path, numbered: tuple[int, T]) -> Any:
    number, task = numbered
    result = function(task, _part(folder, number, "arrow"))
    # Last: this file says that the part is whole.
    write_json(_part(folder, number, "json"), result)
    return result


def _part(folder: Path, number: int, ending: str) -> Path:
    return folder.resolve() / f"{number:07d}.{ending}"


def _digests(path: Path) -> Iterable[tuple[str, str]]:
    return tree_digests(path).items()
