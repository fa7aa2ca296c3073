"""Rows of data files, whatever holds them: JSON Lines, a JSON array, Parquet; plain or compressed (.gz, .zst)."""

import codecs
import gzip
import io
import json
import re
from codecs import getincrementaldecoder
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.sources.archives import Bounded, Member, Readable
from specs.common.errors import UserError
from specs.schema.data import Ingest

ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz", ".json.zst", ".parquet")

Row = dict[str, Any]

_HEAD = 256
_CHUNK = 1 << 20
_BETWEEN = re.compile(r"[ \t\r\n,]*")
_PARQUET_ROWS = 256


def rows(member: Member, limits: Ingest, columns: Sequence[str]) -> Iterator[tuple[int, Row | str]]:
    """Number, from 1, and content of each row, or what is wrong with it. Of Parquet only these columns are read.

    Raises UserError where the member is damaged, or unpacks to more than `max_archive_bytes`.
    """
    if member.path.endswith(".parquet"):
        yield from _parquet(member, limits, columns)
        return
    member = _unpacked(member, limits.max_archive_bytes)
    head = member.chunk(_HEAD)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{member.archive}: {member.path} is in UTF-16; convert it to UTF-8 and pin that")
    head = head.removeprefix(codecs.BOM_UTF8)
    if head.lstrip().startswith(b"["):
        yield from _array(head, member, limits.max_document_bytes)
        return
    whole = replace(member, stream=_Joined(head, member.stream))
    for number, line in enumerate(whole.lines(limits.max_document_bytes), start=1):
        if line is None:
            yield number, "larger than max_document_bytes"
        elif line.strip():
            yield number, _object(line)


def _unpacked(member: Member, max_bytes: int) -> Member:
    if member.path.endswith(".gz"):
        # The stubs of gzip ask for a `seek` that reading once never calls.
        unpacked = gzip.GzipFile(fileobj=member.stream)  # type: ignore[call-overload]
        return replace(member, stream=Bounded(unpacked, max_bytes))
    if member.path.endswith(".zst"):
        stream = pa.CompressedInputStream(pa.PythonFile(member.stream, mode="r"), "zstd")
        return replace(member, stream=Bounded(_Buffered(stream), max_bytes))
    return member


def _object(line: bytes) -> Row | str:
    try:
        # Decoded here: of bytes json guesses an encoding, for each line anew.
        record = json.loads(line.decode())
    except UnicodeDecodeError:
        return "not UTF-8"
    except (ValueError, RecursionError):
        return "not a JSON object"
    return record if isinstance(record, dict) else "not a JSON object"


def _array(head: bytes, member: Member, limit: int) -> Iterator[tuple[int, Row | str]]:
    """Elements of one JSON array, without holding more of it than one element and a chunk."""
    json_decoder, utf8 = json.JSONDecoder(), getincrementaldecoder("utf-8")("surrogateescape")
    text = utf8.decode(head).lstrip()
    number, at = 0, 1
    while True:
        at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]
        if text[at : at + 1] == "]":
            break
        element, end = None, at
        with suppress(ValueError, RecursionError):
            element, end = json_decoder.raw_decode(text, at)
        # A number that ends with the text may go on in the next chunk.
        if at < end < len(text):
            number += 1
            odd = "larger than max_document_bytes" if end - at > limit else "not a JSON object"
            yield number, element if isinstance(element, dict) and end - at <= limit else odd
            at = end
            continue
        if len(text) - at > 2 * limit + _CHUNK:
            raise UserError(
                f"{member.archive}: element {number + 1} of the JSON array is damaged, or larger than "
                f"max_document_bytes = {limit:,}; raise the limit, or leave the source out"
            )
        chunk = member.chunk(_CHUNK)
        if not chunk:
            raise UserError(
                f"{member.archive}: the JSON array is damaged or ends inside element {number + 1}; "
                "pin and fetch an intact copy"
            )
        text, at = text[at:] + utf8.decode(chunk), 0
    rest: str | bytes = text[at + 1 :]
    while rest:
        if rest.strip():
            raise UserError(f"{member.archive}: text follows the JSON array; pin and fetch an intact copy")
        rest = member.chunk(_CHUNK)


def _parquet(member: Member, limits: Ingest, columns: Sequence[str]) -> Iterator[tuple[int, Row | str]]:
    if member.file is None:
        raise UserError(f"{member.archive}: holds Parquet inside an archive; list {member.path} as a source of its own")
    number = 0
    try:
        with pq.ParquetFile(member.file, page_checksum_verification=True) as file:
            groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
            if sum(group.total_byte_size for group in groups) > limits.max_archive_bytes:
                raise UserError(
                    f"{member.archive}: unpacks to more than max_archive_bytes = {limits.max_archive_bytes:,} bytes; "
                    "raise the limit in ingest, or leave the source out"
                )
            known = [name for name in columns if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=known, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError, UnicodeError, ValueError) as error:
        trouble = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{member.archive}: the Parquet file is damaged ({trouble}); pin and fetch an intact copy"
        ) from error


class _Joined:
    """A stream whose first bytes have been read already."""

    def __init__(self, head: bytes, stream: Readable) -> None:
        self._head, self._stream = io.BytesIO(head), stream

    def read(self, size: int = -1, /) -> bytes:
        return self._head.read(size) or self._stream.read(size)

    def readline(self, size: int = -1, /) -> bytes:
        line = self._head.readline(size)
        return line if line.endswith(b"\n") or len(line) == size else line + self._stream.readline(size - len(line))


class _Buffered:
    """Lines from a stream of pyarrow, which reads blocks only."""

    def __init__(self, stream: pa.NativeFile) -> None:
        self._stream, self._buffer, self._position = stream, b"", 0

    def read(self, size: int = -1, /) -> bytes:
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        if len(data) < size:
            data += self._stream.read(size - len(data))
        self._position += len(data)
        return data

    def readline(self, size: int = -1, /) -> bytes:
        while b"\n" not in self._buffer[:size] and len(self._buffer) < size:
            block = self._stream.read(1 << 16)
            if not block:
                break
            self._buffer += block
        end = self._buffer.find(b"\n", 0, size)
        return self.read(end + 1 if end >= 0 else min(size, len(self._buffer)))

    def seek(self, offset: int, whence: int = 0, /) -> int:
        raise OSError("a compressed member is read once, from its start")

    def tell(self) -> int:
        return self._position
