"""The Stack v2: rows that hold ids of files, joined with the contents of those files.

The published rows (Lozhkov et al., 2024: `bigcode/the-stack-v2` and `-dedup`, or grouped by repository under `files`
in `-train-full-ids` and `-train-smol-ids`) name each file by `blob_id` and its encoding by `src_encoding`. The contents
lie in the archive of Software Heritage, gzipped under `content/<blob_id>`, where the id is the SHA-1 of the file.
Whoever may copy them gives them as a folder or archive of files of those names, or as rows of `blob_id` and `content`.
"""

import codecs
import gzip
import hashlib
import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.sources.archives import Member, members
from data_pipeline.sources.decoding import clean
from data_pipeline.sources.row_files import ENDINGS, Row, rows
from data_pipeline.sources.row_layouts import RowContent, language_from, licence_of, repository_and_file
from specs.schema.data import Ingest

COLUMNS = ("blob_id", "path", "repo_name", "language", "src_encoding", "detected_licenses", "files")
MISSING = "contents are missing"
UNASKED = "contents that no row asks for, or that come twice"

_GZIP = b"\x1f\x8b"

Refuse = Callable[[str, str], None]
"""Told a reason and a place: of a row, or of a member of the contents."""


@dataclass(frozen=True, slots=True)
class BlobReference:
    """What a row says of a file."""

    place: str
    """Of the row: the path that the document will have."""
    language: str
    licence: str | None
    encoding: str
    repository: str
    file: str


def blob_references(place: str, row: Row) -> Iterator[tuple[str, BlobReference] | str]:
    """Id of each file that a row names and what the row says of it, or what is wrong with it."""
    files = row.get("files")
    entries: list[tuple[str, Any]] = [(place, row)]
    if isinstance(files, list):
        entries = [(f"{place}.{number}", file) for number, file in enumerate(files, start=1)]
    for where, file in entries:
        blob = file.get("blob_id") if isinstance(file, dict) else None
        if not isinstance(blob, str) or not blob:
            yield "no `blob_id`"
            continue
        encoding = file.get("src_encoding")
        reference = BlobReference(
            where,
            language_from((file.get("path"),), file),
            licence_of(file),
            encoding if isinstance(encoding, str) and encoding else "UTF-8",
            # Of rows that are repositories, the row names it.
            *repository_and_file(file, row, (file.get("path"),)),
        )
        yield blob, reference


def joined(
    waiting: dict[str, list[BlobReference]], contents: Path, limits: Ingest, refuse: Refuse
) -> Iterator[tuple[str, RowContent]]:
    """Path and content of each file that is waited for, in the order of the contents; the others are refused.

    `waiting` holds what rows say of each file, by its id, and is emptied. Contents that nobody waits for are refused
    too. Raises UserError where the contents are damaged or too large.
    """
    for blob, content in _contents(contents, waiting, limits, refuse):
        references = waiting.pop(blob, None)
        if references is None:
            refuse(UNASKED, f"contents/{blob}")
            continue
        for reference in references:
            text = _decoded(content, blob, reference.encoding) if isinstance(content, bytes) else content.text
            if isinstance(text, _Trouble):
                refuse(text.reason, reference.place)
            else:
                yield (
                    reference.place,
                    RowContent(reference.language, text, reference.licence, reference.repository, reference.file),
                )
    for left in waiting.values():
        for reference in left:
            refuse(MISSING, reference.place)
    waiting.clear()


@dataclass(frozen=True)
class _Trouble:
    reason: str


@dataclass(frozen=True)
class _Text:
    """A content that was decoded before, or why there is none."""

    text: str | _Trouble


_TOO_LARGE = _Text(_Trouble("larger than max_document_bytes"))


def _contents(
    path: Path, waiting: dict[str, list[BlobReference]], limits: Ingest, refuse: Refuse
) -> Iterator[tuple[str, bytes | _Text]]:
    for member in members(path, limits, lambda reason, name: refuse(reason, f"contents/{name}")):
        if member.path.endswith(ENDINGS):
            yield from _rows(member, limits, refuse)
            continue
        blob = member.path.rsplit("/", 1)[-1].removesuffix(".gz")
        data = member.read(limits.max_document_bytes) if blob in waiting else b""
        yield blob, _TOO_LARGE if data is None else _unpacked(data, limits.max_document_bytes)


def _rows(member: Member, limits: Ingest, refuse: Refuse) -> Iterator[tuple[str, bytes | _Text]]:
    for number, row in rows(member, limits, ("blob_id", "content")):
        blob, content = (row.get("blob_id"), row.get("content")) if isinstance(row, dict) else (None, None)
        if not isinstance(blob, str) or not isinstance(content, str | bytes):
            refuse(row if isinstance(row, str) else "no `blob_id` and `content`", f"contents/{member.path}#{number}")
        elif (
            len(content if isinstance(content, bytes) else content.encode(errors="replace")) > limits.max_document_bytes
        ):
            yield blob, _TOO_LARGE
        else:
            yield (
                blob,
                _unpacked(content, limits.max_document_bytes) if isinstance(content, bytes) else _Text(clean(content)),
            )


def _unpacked(data: bytes, limit: int) -> bytes | _Text:
    if not data.startswith(_GZIP):
        return data
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            content = file.read(limit + 1)
    except (OSError, EOFError, zlib.error):
        return _Text(_Trouble("contents are damaged"))
    return content if len(content) <= limit else _TOO_LARGE


def _decoded(content: bytes, blob: str, encoding: str) -> str | _Trouble:
    if hashlib.sha1(content, usedforsecurity=False).hexdigest() != blob:
        return _Trouble("contents are not those of the blob")
    try:
        codec = codecs.lookup(encoding).name
        text = content.decode(codec)
    except (LookupError, UnicodeError):
        return _Trouble("contents are not in their src_encoding")
    return clean(text)
