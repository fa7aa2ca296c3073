"""The members of one source as documents; every candidate is counted, kept or refused with a reason."""

import dataclasses
import functools
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from data_pipeline.documents.documents import Document, document_id, render_conversation
from data_pipeline.documents.languages import OTHER, language_of, may_be
from data_pipeline.sources.archives import Member, members
from data_pipeline.sources.debugging_tasks import debugging_tasks
from data_pipeline.sources.decoding import clean, decoded
from data_pipeline.sources.docstring_pairs import Pair, docstring_pairs
from data_pipeline.sources.globs import matches
from data_pipeline.sources.governing_licences import GoverningLicences, Statement, is_licence_file, statement_of
from data_pipeline.sources.notebooks import script
from data_pipeline.sources.opt_outs import OptOuts
from data_pipeline.sources.row_files import ABOUT, ENDINGS, Row, rows
from data_pipeline.sources.row_layouts import COLUMNS, READERS, RowContent, heads, mapped
from data_pipeline.sources.stack_v2 import COLUMNS as BLOB_COLUMNS
from data_pipeline.sources.stack_v2 import BlobReference, blob_references, joined
from specs.pipeline import stage
from specs.schema.data import Ingest
from specs.schema.sources import Source

_SURROGATE = re.compile("[\ud800-\udfff]")
_ARCHIVES_OF_FILES = ("files", "docstring-pairs", "debugging-tasks")
"""Formats whose members are the files of a project, with its licence files among them."""


def contents_of(source: Source, path: Path) -> Path | None:
    """Where the contents lie of a source whose rows hold ids, beside its own file; none for others."""
    return None if source.contents is None else path.parent / "contents" / source.contents.filename


class SourceReader:
    """The members of one source as documents; every candidate is counted, kept or not."""

    def __init__(self, source: Source, limits: Ingest, ledger: stage.Ledger) -> None:
        self._source, self._limits, self._ledger = source, limits, ledger
        self.licences = GoverningLicences(source)
        self._opt_out = OptOuts(limits.opt_out)
        self.seen = 0
        self.reasons: dict[str, None] = {}

    def documents(self, path: Path) -> Iterator[Document]:
        """Documents of the source's file, in its order. Raises UserError where it is damaged or too large."""
        for document in self._documents(path):
            if (reason := self._opt_out.reason(document)) is None:
                yield document
            else:
                self.reasons.setdefault(reason)
                self._ledger.drop(reason, document.place)

    def _documents(self, path: Path) -> Iterator[Document]:
        waiting: dict[str, list[BlobReference]] = {}
        for member in members(path, self._limits, self._refuse):
            if self._source.format in _ARCHIVES_OF_FILES and is_licence_file(member.path):
                # Also where it is left out: it governs the files beside it.
                member = self._terms(member)
            if not matches(member.path, self._source.include) or matches(member.path, self._source.exclude):
                self._refuse("left out by include or exclude", member.path, member.size)
                continue
            match self._source.format:
                case "files":
                    yield from self._file(member)
                case "docstring-pairs":
                    yield from self._pairs(member, docstring_pairs)
                case "debugging-tasks":
                    # By path, so that equal modules of two versions do not give the same defects.
                    seed = f"{self._source.name}/{member.path}"
                    yield from self._pairs(member, functools.partial(debugging_tasks, seed=seed))
                case "stack-v2":
                    self._wait(member, waiting)
                case form:
                    yield from self._records(member, READERS[form])
        if (contents := contents_of(self._source, path)) is not None:
            for address, content in joined(waiting, contents, self._limits, self._refuse):
                if trouble := self._trouble(content.language, content.text):
                    self._refuse(trouble, address)
                else:
                    yield self._row(address, content)

    def _terms(self, member: Member) -> Member:
        """Take a licence file; it can be read again."""
        data = member.read(self._limits.max_document_bytes)
        if data is None:
            return member
        self.licences.add_file(member.path, clean(data.decode("utf-8", "replace")))
        return dataclasses.replace(member, stream=io.BytesIO(data))

    def _wait(self, member: Member, waiting: dict[str, list[BlobReference]]) -> None:
        if trouble := self._no_rows(member):
            self._refuse(trouble, member.path, member.size)
            return
        for number, row in rows(member, self._limits, BLOB_COLUMNS):
            place = f"{member.path}#{number}"
            for entry in [row] if isinstance(row, str) else blob_references(place, row):
                if isinstance(entry, str):
                    self._refuse(entry, place)
                elif entry[1].language not in self._limits.languages:
                    self._refuse(f"language {entry[1].language}", entry[1].place)
                else:
                    waiting.setdefault(entry[0], []).append(entry[1])

    def _no_rows(self, member: Member) -> str:
        """Why a member holds no rows, or nothing."""
        if member.path.rsplit("/", 1)[-1] in ABOUT:
            return "about the dataset"
        return "" if member.path.endswith(ENDINGS) else "neither JSON, Parquet nor Arrow"

    def _file(self, member: Member) -> Iterator[Document]:
        if not may_be(member.path, self._limits.languages):
            # Before it is read: images and the like would be reported as binary.
            self._refuse(f"language {language_of(member.path)}", member.path, member.size)
        elif language_of(member.path) == "notebook" and "notebook" not in self._limits.languages:
            yield from self._notebook(member)
        elif (text := self._text(member)) is not None:
            yield self._document(member.path, language_of(member.path, text), text, statement_of(text))

    def _notebook(self, member: Member) -> Iterator[Document]:
        data = member.read(self._limits.max_document_bytes)
        text = None if data is None else decoded(data, member.path)
        if text is None:
            self._refuse("larger than max_document_bytes" if data is None else "not UTF-8", member.path, member.size)
        elif (found := script(text)) is None:
            self._refuse("notebook that makes no script", member.path, member.size)
        elif trouble := self._trouble(*found):
            self._refuse(trouble, member.path, member.size)
        else:
            yield self._document(member.path, *found, statement_of(found[1]))

    def _records(self, member: Member, read: Callable[[Row], RowContent | str]) -> Iterator[Document]:
        if trouble := self._no_rows(member):
            self._refuse(trouble, member.path, member.size)
            return
        columns = self._source.columns
        for number, row in rows(member, self._limits, (*COLUMNS, *heads(columns))):
            path = f"{member.path}#{number}"
            content = row if isinstance(row, str) else read(mapped(row, columns))
            trouble = content if isinstance(content, str) else self._trouble(content.language, content.text)
            if isinstance(content, str) or trouble:
                self._refuse(trouble, path)
            else:
                yield self._row(path, content)

    def _pairs(self, member: Member, make: Callable[[str], Iterator[Pair] | None]) -> Iterator[Document]:
        if language_of(member.path) != "python":
            self._refuse("not Python", member.path, member.size)
            return
        text = self._text(member)
        if text is None:
            return
        pairs = make(text)
        if pairs is None:
            self._refuse("Python that does not parse", member.path, member.size)
            return
        # The notice of a file covers the functions in it.
        statement = statement_of(text)
        for pair in pairs:
            path = f"{member.path}#{pair.line}"
            if pair.trouble:
                self._refuse(pair.trouble, path)
            else:
                yield self._document(path, "conversation", render_conversation(pair.messages), statement)

    def _text(self, member: Member) -> str | None:
        """Text of a member; none once it has been refused."""
        limit = self._limits.max_document_bytes
        data = member.read(limit) if member.size <= limit else None
        if data is None:
            self._refuse("larger than max_document_bytes", member.path, member.size)
            return None
        text = decoded(data, member.path)
        if text is None:
            unknown = language_of(member.path) == OTHER
            trouble = "language other" if unknown else "binary" if b"\0" in data else "not UTF-8"
            self._refuse(trouble, member.path, member.size)
        elif trouble := self._trouble(language_of(member.path, text), text):
            self._refuse(trouble, member.path, member.size)
        else:
            return text
        return None

    def _trouble(self, language: str, text: str) -> str:
        """Why this text cannot be a document, or nothing."""
        if language not in self._limits.languages:
            return f"language {language}"
        if "\0" in text:
            return "binary"
        if not text.strip():
            return "empty"
        # JSON can spell halves of surrogate pairs that no UTF-8 can.
        if _SURROGATE.search(text):
            return "not UTF-8"
        # Of a row the text may be longer than the row was, where escapes or compression were undone.
        limit = self._limits.max_document_bytes
        # A character has four bytes at most.
        too_large = len(text) > limit or (4 * len(text) > limit and len(text.encode()) > limit)
        return "larger than max_document_bytes" if too_large else ""

    def _row(self, path: str, content: RowContent) -> Document:
        statement = None if content.language == "conversation" else statement_of(content.text)
        return self._document(path, content.language, content.text, statement, content)

    def _document(
        self, path: str, language: str, text: str, statement: Statement | None, row: RowContent | None = None
    ) -> Document:
        licence, origin = self.licences.own(path, statement, row.licence if row else None)
        document = Document(
            document_id(text),
            *(self._source.name, path, licence, language, text),
            licence_from=origin,
            repository=row.repository if row else "",
            file=row.file if row else "",
        )
        self.seen += 1
        self._ledger.take(self._source.name, document.size)
        return document

    def _refuse(self, reason: str, path: str, size: int = 0) -> None:
        self.seen += 1
        self.reasons.setdefault(reason)
        self._ledger.take(self._source.name, size)
        self._ledger.drop(reason, f"{self._source.name}/{path}")
