"""Rows of data files, whatever holds them: JSON Lines and JSON arrays, plain or compressed; Parquet; Arrow."""

import codecs
import contextlib
import io
import json
import re
import tempfile
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.sources import compression
from data_pipeline.sources.archives import Bounded, Member
from data_pipeline.sources.compression import Readable
from specs.common.errors import UserError
from specs.schema.data import Ingest

_ARROWS = (".arrow", ".feather")
_TEXTS = (".jsonl", ".ndjson", ".json")
ENDINGS = (".parquet", *_ARROWS, *(text + ending for text in _TEXTS for ending in ("", *compression.ENDINGS)))
ABOUT = ("dataset_info.json", "state.json", "dataset_dict.json", "dataset_infos.json")
"""What Hugging Face datasets writes beside the rows of a dataset."""

Row = dict[str, Any]

_HEAD = 256
_CHUNK = 1 << 20
_BETWEEN = re.compile(r"[ \t\r\n,]*")
_BATCH_ROWS = 256
_ARROW = b"ARROW1"


def rows(member: Member, limits: Ingest, columns: Sequence[str]) -> Iterator[tuple[int, Row | str]]:
    """Number, from 1, and content of each row, or what is wrong with it. Of Parquet and Arrow only these are read.

    Raises UserError where the member is damaged, or unpacks to more than `max_archive_bytes`.
    """
    if member.path.endswith((".parquet", *_ARROWS)):
        batches = _parquet if member.path.endswith(".parquet") else _arrow
        yield from _columnar(member, limits, columns, batches)
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
    stream = compression.unpacked(member.stream, member.path)
    return member if stream is member.stream else replace(member, stream=Bounded(stream, max_bytes))


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


@contextlib.contextmanager
def _file(member: Member, max_bytes: int) -> Iterator[Any]:
    """A member as a file that can be read from any place: as it lies, or copied out of its archive."""
    if member.file is not None:
        yield pa.memory_map(str(member.file))
        return
    with tempfile.NamedTemporaryFile() as copy:
        size = 0
        while chunk := member.chunk(_CHUNK):
            size += len(chunk)
            if size > max_bytes:
                raise UserError(f"{member.archive}: {member.path} {_too_large(max_bytes)}")
            copy.write(chunk)
        copy.flush()
        yield pa.memory_map(copy.name)


def _too_large(limit: int) -> str:
    return (
        f"unpacks to more than max_archive_bytes = {limit:,} bytes; raise the limit in ingest, or leave the source out"
    )


def _columnar(
    member: Member, limits: Ingest, columns: Sequence[str], batches: Callable[[Any, int, Sequence[str]], Iterator[Any]]
) -> Iterator[tuple[int, Row | str]]:
    number = 0
    try:
        with _file(member, limits.max_archive_bytes) as file:
            for batch in batches(file, limits.max_archive_bytes, columns):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except _TooLargeError as error:
        raise UserError(f"{member.archive}: {member.path} {error}") from error
    except (pa.ArrowException, OSError, UnicodeError, ValueError) as error:
        trouble = " ".join(str(error).split()) or type(error).__name__
        kind = "Parquet" if member.path.endswith(".parquet") else "Arrow"
        raise UserError(
            f"{member.archive}: the {kind} file is damaged ({trouble}); pin and fetch an intact copy"
        ) from error


def _parquet(file: Any, max_bytes: int, columns: Sequence[str]) -> Iterator[Any]:
    with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
        groups = [parquet.metadata.row_group(group) for group in range(parquet.metadata.num_row_groups)]
        if sum(group.total_byte_size for group in groups) > max_bytes:
            raise _TooLargeError(_too_large(max_bytes))
        known = [name for name in columns if name in parquet.schema_arrow.names]
        yield from parquet.iter_batches(batch_size=_BATCH_ROWS, columns=known, use_threads=False)


def _arrow(file: Any, max_bytes: int, columns: Sequence[str]) -> Iterator[Any]:
    """Arrow as a file (Feather too) or as a stream, as `save_to_disk` of Hugging Face datasets writes it."""
    whole = file.read(len(_ARROW)) == _ARROW
    file.seek(0)
    reader = pa.ipc.open_file(file) if whole else pa.ipc.open_stream(file)
    known = [name for name in columns if name in reader.schema.names]
    size = 0
    for batch in (reader.get_batch(n) for n in range(reader.num_record_batches)) if whole else reader:
        size += batch.nbytes
        if size > max_bytes:
            raise _TooLargeError(_too_large(max_bytes))
        chosen = batch.select(known)
        for start in range(0, batch.num_rows, _BATCH_ROWS):
            yield chosen.slice(start, _BATCH_ROWS)


class _TooLargeError(Exception):
    """What is unpacked is larger than the limits allow."""


class _Joined:
    """A stream whose first bytes have been read already."""

    def __init__(self, head: bytes, stream: Readable) -> None:
        self._head, self._stream = io.BytesIO(head), stream

    def read(self, size: int = -1, /) -> bytes:
        return self._head.read(size) or self._stream.read(size)

    def readline(self, size: int = -1, /) -> bytes:
        line = self._head.readline(size)
        return line if line.endswith(b"\n") or len(line) == size else line + self._stream.readline(size - len(line))
