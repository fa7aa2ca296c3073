"""Ingest: archives to documents with path, language and licence; whatever cannot be one is refused with a reason."""

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from data_pipeline.documents import engine as engines
from data_pipeline.documents.blocks import batches, finish, parts, resumable, write_part, write_shards
from data_pipeline.documents.documents import (
    GROUP_BYTES,
    GROUP_ROWS,
    Document,
    document_id,
    render_conversation,
)
from data_pipeline.documents.external_sort import Sorter
from data_pipeline.documents.languages import language_of
from data_pipeline.documents.licences import stated
from data_pipeline.documents.outcome import conclude
from data_pipeline.sources.archives import Member, members
from data_pipeline.sources.certain_losses import require_possible
from data_pipeline.sources.debugging_tasks import debugging_tasks
from data_pipeline.sources.docstring_pairs import Pair, docstring_pairs
from data_pipeline.sources.row_files import ENDINGS, Row, rows
from data_pipeline.sources.row_layouts import COLUMNS, READERS, RowContent
from data_pipeline.sources.source_limit import SourceLimit
from data_pipeline.sources.stack_v2 import COLUMNS as BLOB_COLUMNS
from data_pipeline.sources.stack_v2 import BlobReference, blob_references, joined
from specs.common.errors import UserError
from specs.common.files import replacing, sha256_file, write_json
from specs.pipeline import stage
from specs.schema.data import Corpus, Ingest
from specs.schema.sources import Source

_SURROGATE = re.compile("[\ud800-\udfff]")


def ingest(source: Source, path: Path, limits: Ingest, ledger: stage.Ledger, scratch: Path) -> Iterator[Document]:
    """Documents of one source in the order of their paths; `scratch` holds what does not fit in memory.

    Newlines become `\\n`, and a byte order mark goes: both belong to the file, not to the text.
    Raises UserError where the file is not the pinned one, is damaged or too large, or gives no document.
    """
    for pinned, file in ((source, path), (source.contents, contents_of(source, path))):
        if pinned is not None and file is not None and not (file.is_file() and sha256_file(file) == pinned.sha256):
            raise UserError(f"source {source.name!r}: {file.name} is not the pinned file; run the fetch stage again")
    reader, limit = _Reader(source, limits, ledger), SourceLimit(source.limit)
    with Sorter(scratch) as sorter:
        try:
            for document in reader.documents(path):
                if limit.take(document):
                    sorter.add(document)
        except UserError as error:
            raise UserError(f"source {source.name!r}: {error}") from error
        if not limit.seen and not source.may_be_empty:
            raise UserError(
                f"source {source.name!r} gives no document: its {reader.seen} members were refused or left out "
                f"({', '.join(reader.reasons) or 'it is empty'}); check include, exclude, format and ingest.languages, "
                "or write `may_be_empty: true` into the source"
            )
        limit.close(ledger, source.name)
        for document in sorter.documents():
            if limit.holds(document):
                ledger.keep(source.name, document.size)
                yield document


def contents_of(source: Source, path: Path) -> Path | None:
    """Where the contents lie of a source whose rows hold ids, beside its own file; none for others."""
    return None if source.contents is None else path.parent / "contents" / source.contents.filename


def _part(corpus: Corpus, sources: Path, source: Source, path: Path) -> dict[str, Any]:
    """Write the documents of a source as parts beside `path`. Answers their number and the source's ledger."""
    ledger = stage.Ledger()
    file = sources / source.name / source.filename
    documents = ingest(source, file, corpus.ingest, ledger, path.with_suffix(".runs"))
    count = 0
    for batch in batches(documents, lambda document: document.size, GROUP_BYTES, GROUP_ROWS):
        write_part(_numbered(path, count), batch)
        count += 1
    return {"parts": count, "ledger": ledger.as_json()}


def _numbered(path: Path, number: int) -> Path:
    return path.with_stem(f"{path.stem}-{number:06d}")


class _Reader:
    """The members of one source as documents; every candidate is counted, kept or not."""

    def __init__(self, source: Source, limits: Ingest, ledger: stage.Ledger) -> None:
        self._source, self._limits, self._ledger = source, limits, ledger
        self.seen = 0
        self.reasons: dict[str, None] = {}

    def documents(self, path: Path) -> Iterator[Document]:
        waiting: dict[str, list[BlobReference]] = {}
        for member in members(path, self._limits, self._refuse):
            if not _matches(member.path, self._source.include) or _matches(member.path, self._source.exclude):
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
                    yield self._document(address, content.language, content.text, content.licence)

    def _wait(self, member: Member, waiting: dict[str, list[BlobReference]]) -> None:
        if not member.path.endswith(ENDINGS):
            self._refuse("neither JSON Lines nor Parquet", member.path, member.size)
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

    def _file(self, member: Member) -> Iterator[Document]:
        language = language_of(member.path)
        if language not in self._limits.languages:
            # Before it is read: images and the like would be reported as binary.
            self._refuse(f"language {language}", member.path, member.size)
        elif (text := self._text(member)) is not None:
            yield self._document(member.path, language, text)

    def _records(self, member: Member, read: Callable[[Row], RowContent | str]) -> Iterator[Document]:
        if not member.path.endswith(ENDINGS):
            self._refuse("neither JSON Lines nor Parquet", member.path, member.size)
            return
        for number, row in rows(member, self._limits, COLUMNS):
            path = f"{member.path}#{number}"
            content = row if isinstance(row, str) else read(row)
            trouble = content if isinstance(content, str) else self._trouble(content.language, content.text)
            if isinstance(content, str) or trouble:
                self._refuse(trouble, path)
            else:
                yield self._document(path, content.language, content.text, content.licence)

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
        for pair in pairs:
            path = f"{member.path}#{pair.line}"
            if pair.trouble:
                self._refuse(pair.trouble, path)
            else:
                yield self._document(path, "conversation", render_conversation(pair.messages))

    def _text(self, member: Member) -> str | None:
        """Text of a member; none once it has been refused."""
        limit = self._limits.max_document_bytes
        data = member.read(limit) if member.size <= limit else None
        if data is None:
            self._refuse("larger than max_document_bytes", member.path, member.size)
            return None
        try:
            text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
            trouble = self._trouble(language_of(member.path), text)
        except UnicodeDecodeError:
            trouble = "binary" if b"\0" in data else "not UTF-8"
        if trouble:
            self._refuse(trouble, member.path, member.size)
            return None
        return text

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
        return "larger than max_document_bytes" if len(text) > self._limits.max_document_bytes else ""

    def _document(self, path: str, language: str, text: str, licence: str | None = None) -> Document:
        licence = licence or (None if language == "conversation" else stated(text)) or self._source.licence
        document = Document(document_id(text), self._source.name, path, licence, language, text)
        self.seen += 1
        self._ledger.take(self._source.name, document.size)
        return document

    def _refuse(self, reason: str, path: str, size: int = 0) -> None:
        self.seen += 1
        self.reasons.setdefault(reason)
        self._ledger.take(self._source.name, size)
        self._ledger.drop(reason, f"{self._source.name}/{path}")


def _matches(path: str, globs: Sequence[str]) -> bool:
    return any(_pattern(glob).fullmatch(path) for glob in globs)


@functools.cache
def _pattern(glob: str) -> re.Pattern[str]:
    """A glob as people write it: `*` and `?` stay within a path part, `**` spans parts, `[ab]` is one of these."""
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]/]+\])", glob)
    meanings = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    expression = "".join(meanings.get(p) or (_class(p) if p[:1] == "[" else re.escape(p)) for p in pieces)
    try:
        return re.compile(expression, re.DOTALL)
    except re.error as error:
        raise UserError(f"glob {glob!r} is not valid ({error}); correct include or exclude") from error


def _class(piece: str) -> str:
    inner = piece[1:-1].replace("\\", r"\\")
    return f"[^{inner[1:]}]" if inner.startswith("!") else f"[{inner}]"


@click.command(epilog="Example: python -m data_pipeline.ingest corpora.smoke-code --sources sources --out ingested")
@click.argument("node")
@click.option("--sources", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of fetch.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for documents and ledger.")
@stage.command
@engines.options
def main(node: str, sources: Path, out: Path, engine: engines.Engine) -> None:
    """Turn the fetched archives of a corpus into documents."""
    corpus = stage.node(node, Corpus)
    require_possible(corpus)
    sizes = {source.name: _size(sources / source.name / source.filename) for source in corpus.sources}
    # What takes longest first, so that no worker is left with it at the end: programs are run for debugging tasks.
    tasks = sorted(
        corpus.sources,
        key=lambda source: (source.format != "debugging-tasks", -sizes[source.name], source.name),
    )
    section = corpus.model_dump(mode="json", include={"sources", "ingest"})
    with (
        stage.measuring("ingest", node, size=sum(sizes.values())),
        # What is read is named by the digests of the spec, and held to them.
        resumable("ingest", section, []) as scratch,
        replacing(out) as temporary,
    ):
        folder = scratch / "parts"
        done = finish(engine, folder, "ingest", functools.partial(_part, corpus, sources.resolve()), tasks)
        ledger, written = stage.Ledger(), list[Path]()
        paths = parts(folder, len(tasks))
        numbers = {source.name: number for number, source in enumerate(tasks)}
        for source in corpus.sources:
            number = numbers[source.name]
            ledger.merge(done[number]["ledger"])
            written += [_numbered(paths[number], part) for part in range(done[number]["parts"])]
        conclude("ingest", ledger, corpus.source_names, corpus.may_be_empty)
        write_shards(engine, temporary, written, corpus.source_names, "ingest: writing")
        write_json(temporary / "ledger.json", ledger.as_json())


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


if __name__ == "__main__":
    main()
