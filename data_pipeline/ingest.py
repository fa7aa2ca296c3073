"""Ingest: archives to documents with path, language and licence; whatever cannot be one is refused with a reason."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from data_pipeline.documents import engine as engines
from data_pipeline.documents.blocks import batches, finish, parts, resumable, write_part, write_shards
from data_pipeline.documents.documents import GROUP_BYTES, GROUP_ROWS, Document
from data_pipeline.documents.external_sort import Sorter
from data_pipeline.documents.outcome import conclude
from data_pipeline.sources.certain_losses import require_possible
from data_pipeline.sources.reader import SourceReader, contents_of
from data_pipeline.sources.source_limit import SourceLimit
from specs.common.errors import UserError
from specs.common.files import replacing, sha256_file, write_json
from specs.pipeline import stage
from specs.schema.data import Corpus, Ingest
from specs.schema.sources import Source


def ingest(source: Source, path: Path, limits: Ingest, ledger: stage.Ledger, scratch: Path) -> Iterator[Document]:
    """Documents of one source in the order of their paths; `scratch` holds what does not fit in memory.

    Newlines become `\\n`, and a byte order mark goes: both belong to the file, not to the text.
    Raises UserError where the file is not the pinned one, is damaged or too large, or gives no document.
    """
    for pinned, file in ((source, path), (source.contents, contents_of(source, path))):
        if pinned is not None and file is not None and not (file.is_file() and sha256_file(file) == pinned.sha256):
            raise UserError(f"source {source.name!r}: {file.name} is not the pinned file; run the fetch stage again")
    reader, limit = SourceReader(source, limits, ledger), SourceLimit(source.limit)
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
        counts: dict[str, dict[str, Any]] = {"from": {}, "conflicts": {}}
        for document in sorter.documents():
            if limit.holds(document):
                document = reader.licences.governed(document)
                reader.licences.count(document, counts)
                ledger.keep(source.name, document.size)
                yield document
        ledger.state("licences", {source.name: counts})


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
