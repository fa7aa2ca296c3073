"""Documents: the record type, its total order, and Parquet shards whose bytes depend on nothing else.

Shards are written by pyarrow with every option named, because the writers of engines choose file names, row order
and row groups anew each run.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from specs.common.errors import UserError

SHARD_ROWS = 50_000
SHARD_BYTES = 128 * 2**20
GROUP_ROWS = 4_096
GROUP_BYTES = 16 * 2**20

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Document:
    """One text and where it came from (the columns of docs/formats.md, in their order)."""

    id: str
    """Hex blake2b-128 of the text's UTF-8 bytes; once augmented, still that of the text it derives from."""
    source: str
    path: str
    """Member path within the source; `#n` is appended where line n of a member starts one of several documents."""
    licence: str
    language: str
    text: str
    derived: str = ""
    """Names of the augmentations applied, joined by `+`."""
    licence_from: str = ""
    """What states the licence, joined by `+`: `source` or `row`, then `tag`, `notice` or `file:PATH`."""
    repository: str = ""
    """Repository that the row states; empty where the source is one."""
    file: str = ""
    """Path within the repository, where it is not `path`."""

    @property
    def size(self) -> int:
        """UTF-8 bytes of the text."""
        return len(self.text.encode())

    @property
    def place(self) -> str:
        """Source and path, for people."""
        return f"{self.source}/{self.path}"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    """One of `ROLES`."""
    content: str


SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in Document.__slots__])
_VALUES = attrgetter(*Document.__slots__)


def document_id(text: str) -> str:
    """Hex blake2b-128 of the UTF-8 bytes: equal ids mean equal texts.

    Raises UnicodeEncodeError where the text holds a lone surrogate.
    """
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def rank(document: Document, priority: dict[str, int]) -> tuple[int, str, str]:
    """Sort key of the total order: source priority, path, id. `priority` maps a source to its place in the spec."""
    return priority[document.source], document.path, document.id


def priorities(sources: Iterable[str]) -> dict[str, int]:
    """Place of each source, by name: the first has priority 0."""
    return {name: number for number, name in enumerate(sources)}


def is_full(rows: int, size: int, following: int) -> bool:
    """A shard of so many rows and bytes of text takes no further document of `following` bytes."""
    return rows > 0 and (rows >= SHARD_ROWS or size + following > SHARD_BYTES)


def columns_of(documents: Sequence[Document]) -> list[pa.Array]:
    """One or more documents as columns, in the order of `SCHEMA`."""
    return [pa.array(column, pa.string()) for column in zip(*map(_VALUES, documents), strict=True)]


def documents_of(table: pa.Table | pa.RecordBatch) -> list[Document]:
    """Rows of a table with the columns of `SCHEMA`, as documents."""
    columns = table.to_pydict()
    return list(map(Document, *(columns[name] for name in Document.__slots__)))


class DocumentWriter:
    """Writes documents, given in their total order, to numbered shards of a folder that it creates.

    The first shard has the number `first`.

    >>> with DocumentWriter(folder, sources) as writer:  # doctest: +SKIP
    ...     writer.write(document)
    """

    def __init__(self, folder: Path, sources: Sequence[str], first: int = 0) -> None:
        self._folder, self._priority, self._shards = folder, priorities(sources), first
        self._last: tuple[int, str, str] | None = None
        self._group: list[Document] = []
        self._group_bytes = self._shard_rows = self._shard_bytes = 0
        self._shard: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
            if self._last is None:
                # No document at all is still a folder that the next stage can read.
                self._open()
        self._close()

    def write(self, document: Document) -> None:
        """Add a document. Raises ValueError where it does not come after the one before."""
        key = rank(document, self._priority)
        if self._last is not None and key <= self._last:
            raise ValueError(f"document {document.place} is out of order")
        self._last = key
        size = document.size
        if is_full(self._shard_rows, self._shard_bytes, size):
            self._flush()
            self._close()
        self._group.append(document)
        self._group_bytes += size
        self._shard_rows += 1
        self._shard_bytes += size
        if len(self._group) >= GROUP_ROWS or self._group_bytes >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._group:
            self._open().write_table(pa.Table.from_arrays(columns_of(self._group), schema=SCHEMA))
            self._group, self._group_bytes = [], 0

    def _open(self) -> pq.ParquetWriter:
        if self._shard is None:
            self._shard = pq.ParquetWriter(
                self._folder / f"documents-{self._shards:05d}.parquet",
                SCHEMA,
                version="2.6",
                data_page_version="1.0",
                compression="zstd",
                compression_level=3,
                use_dictionary=["source", "licence", "language", "derived", "licence_from", "repository"],
                write_statistics=False,
                write_page_index=False,
                write_page_checksum=True,
                store_schema=False,
            )
            self._shards += 1
        return self._shard

    def _close(self) -> None:
        if self._shard is not None:
            self._shard.close()
            self._shard = None
        self._shard_rows = self._shard_bytes = 0


def write_documents(folder: Path, documents: Iterable[Document], sources: Sequence[str]) -> None:
    """Write documents, in any order, sorted into their total order. `sources` lists source names by priority."""
    priority = priorities(sources)
    with DocumentWriter(folder, sources) as writer:
        for document in sorted(documents, key=lambda document: rank(document, priority)):
            writer.write(document)


def read_documents(folder: Path) -> Iterator[Document]:
    """Documents of a folder in their total order, a row group at a time.

    Raises UserError where the folder holds no shards, misses one, or a shard is damaged.
    """
    for shard in shards(folder):
        with opened(shard) as file:
            for group in range(file.metadata.num_row_groups):
                yield from documents_of(guarded(shard, partial(file.read_row_group, group)))


def count_documents(folder: Path) -> int:
    """Number of documents of a folder, from its shards' footers. Raises UserError as `read_documents` does."""
    total = 0
    for shard in shards(folder):
        with opened(shard) as file:
            total += file.metadata.num_rows
    return total


def shards(folder: Path) -> list[Path]:
    """Shards of a folder in order. Raises UserError where there is none, or one is missing."""
    found = sorted(folder.glob("documents-*.parquet"))
    if not found:
        raise UserError(f"{folder}: holds no documents-*.parquet; run the stage that writes it")
    for number, path in enumerate(found):
        if path.name != f"documents-{number:05d}.parquet":
            raise UserError(f"{folder}: shard documents-{number:05d}.parquet is missing; run the stage that writes it")
    return found


def parse_conversation(text: str, place: str = "conversation") -> tuple[Message, ...]:
    """Messages of a conversation's text: JSON Lines, one `{"role": ..., "content": ...}` for each turn.

    Raises UserError naming `place` and the line where that is not so, or there is none.
    """
    # Not splitlines(): JSON strings may hold U+2028 and other separators as they are.
    lines = enumerate(text.split("\n"), start=1)
    messages = tuple(_message(line, f"{place}, line {number}") for number, line in lines if line.strip())
    if not messages:
        raise UserError(f"{place}: the conversation is empty; leave it out")
    return messages


def render_conversation(messages: Iterable[Message]) -> str:
    """Text of a conversation: what `parse_conversation` reads; equal messages give equal text."""
    return "".join(
        json.dumps({"role": message.role, "content": message.content}, ensure_ascii=False) + "\n"
        for message in messages
    )


def plain_text(language: str, text: str, roles: Sequence[str] = ROLES) -> str:
    """What a document says: of a conversation the contents of its messages of these roles, else the whole text."""
    if language != "conversation":
        return text
    return "\n\n".join(message.content for message in parse_conversation(text) if message.role in roles)


def _message(line: str, place: str) -> Message:
    try:
        value = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{place}: not valid JSON ({error}); correct it or leave the conversation out") from error
    if not isinstance(value, dict) or value.keys() != {"role", "content"}:
        raise UserError(f'{place}: a message is an object of "role" and "content", and nothing else')
    role, content = value["role"], value["content"]
    if role not in ROLES or not isinstance(content, str):
        raise UserError(f"{place}: a message has text and one of the roles {', '.join(ROLES)}, not {role!r}")
    return Message(role, content)


def opened(shard: Path) -> pq.ParquetFile:
    """A shard, open for reading with checksums verified. Raises UserError where it is damaged or no shard."""
    file = guarded(shard, partial(pq.ParquetFile, shard, page_checksum_verification=True))
    if not file.schema_arrow.equals(SCHEMA):
        file.close()
        raise UserError(f"{shard}: not a shard of documents (columns {', '.join(file.schema_arrow.names)})")
    return file


def guarded(shard: Path, read: Callable[[], Any]) -> Any:
    """What `read` makes of a shard. Raises UserError where it is damaged."""
    try:
        return read()
    except (pa.ArrowException, OSError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{shard}: the shard is damaged ({first}); run the stage that writes it again") from error
