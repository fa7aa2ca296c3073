"""What the stages over documents do to the files of 30 pinned source archives: does each program still parse?

    python -m benchmarks.studies.audit FOLDER

Runs ingest, filter, dedup, decontaminate and augment on the corpus of `audit.yaml`, each result a folder of FOLDER that
is kept for the next call. Then tells of each stage how many documents went in and came out, with the reasons; how many
texts it changed; and how many of those that parsed before do not parse after. `--sample N` lists so many random drops
and keeps, to be read by a person. Exit code 1 if a program broke.
"""

import functools
import json
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from data_pipeline import augment, decontaminate
from data_pipeline import filter as filters
from data_pipeline.dedup import dedup
from data_pipeline.documents.document_stage import Change, pass_over
from data_pipeline.documents.documents import Document, DocumentWriter, read_documents
from data_pipeline.documents.engine import Engine, configured
from data_pipeline.fetch import PinnedFile, from_this_machine, write
from data_pipeline.ingest import ingest
from data_pipeline.text.parsers import parses
from specs.common.files import replacing, write_json
from specs.common.progress import Progress
from specs.common.tables import table
from specs.loading.load import load_section
from specs.pipeline import stage
from specs.schema.data import Corpus

STAGES = ("ingested", "filtered", "unique", "clean", "documents")
"""Folders, in their order, by what is in them."""
_SEED = 14


def run(corpus: Corpus, folder: Path, engine: Engine) -> None:
    """Run every stage whose folder is not there yet."""
    paths = [folder / name for name in STAGES]
    if not paths[0].exists():
        _ingest(corpus, paths[0])
    changes: dict[str, Callable[[], Change]] = {
        "filter": lambda: lambda given, ledger: filters.keep(given, corpus.filter, ledger),
        "decontaminate": lambda: functools.partial(
            _decontaminated, decontaminate.Index(_problems(corpus), corpus.decontaminate)
        ),
        "augment": lambda: lambda given, ledger: augment.rewrite(given, corpus.augment, ledger),
    }
    for name, before, after in zip(("filter", "dedup", "decontaminate", "augment"), paths[:-1], paths[1:], strict=True):
        if after.exists():
            continue
        if name == "dedup":
            dedup("audit", corpus, before, after, engine)
        else:
            pass_over(name, "audit", corpus, before, after, changes[name](), engine)


def _decontaminated(index: decontaminate.Index, given: Iterator[Document], ledger: stage.Ledger) -> Iterator[Document]:
    return decontaminate.keep(given, index, ledger)


def _problems(corpus: Corpus) -> list[Any]:
    with tempfile.TemporaryDirectory() as scratch:
        files = [PinnedFile("benchmark", each.name, each.source) for each in corpus.decontaminate.against]
        write(files, from_this_machine(files), Path(scratch))
        return decontaminate.problems_of(corpus.decontaminate.against, Path(scratch))


def _ingest(corpus: Corpus, out: Path) -> None:
    ledger = stage.Ledger()
    with replacing(out) as temporary, tempfile.TemporaryDirectory() as scratch:
        files = [PinnedFile("source", source.name, source) for source in corpus.sources]
        write(files, from_this_machine(files), Path(scratch))
        with DocumentWriter(temporary, [source.name for source in corpus.sources]) as writer:
            with Progress("audit: ingest", len(corpus.sources), "archives") as progress:
                for source in corpus.sources:
                    path = Path(scratch) / source.name / source.filename
                    own = stage.Ledger()
                    for document in ingest(source, path, corpus.ingest, own, Path(scratch) / "runs"):
                        writer.write(document)
                    ledger.merge(own.as_json())
                    shutil.rmtree(path.parent)
                    progress.advance(note=source.name)
        write_json(temporary / "ledger.json", ledger.as_json())


def broken(before: Path, after: Path) -> tuple[Counter[str], list[str]]:
    """Of the texts that differ between two folders, how many there are and parsed before; and those that broke."""
    counts: Counter[str] = Counter()
    places = []
    for old, new in _pairs(before, after):
        if old.text != new.text:
            counts["changed"] += 1
            if parses(old.language, old.text):
                counts["parsed before"] += 1
                if not parses(new.language, new.text):
                    places.append(new.place)
    return counts, places


def _pairs(before: Path, after: Path) -> Iterator[tuple[Document, Document]]:
    """Documents that are in both folders; those of `after` come in the same order."""
    old = read_documents(before)
    for new in read_documents(after):
        yield next(document for document in old if document.place == new.place), new


def _ledger(folder: Path) -> dict[str, Any]:
    ledger: dict[str, Any] = json.loads((folder / "ledger.json").read_bytes())
    return ledger


def sample(folder: Path, count: int) -> list[str]:
    """So many random drops, with the stage that dropped them, and so many random keeps: always the same ones."""
    rng = random.Random(_SEED)
    places = [[document.place for document in read_documents(folder / name)] for name in STAGES]
    dropped = [
        f"{STAGES[number + 1]:9} {place}"
        for number in range(len(STAGES) - 1)
        for place in sorted(set(places[number]) - set(places[number + 1]))
    ]
    kept = [f"kept      {place}" for place in places[-1]]
    return rng.sample(dropped, min(count, len(dropped))) + rng.sample(kept, min(count, len(kept)))


@click.command(epilog="Example: python -m benchmarks.studies.audit scratch/audit --sample 100")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--sample", "count", default=0, show_default=True, help="List so many random drops and keeps.")
@stage.command
def main(folder: Path, count: int) -> None:
    """Run the stages on 30 pinned source archives, and tell what they did to programs that parse."""
    corpus = load_section(Path(__file__).with_suffix(".yaml"), Corpus)
    # A source that is lost whole is a finding here, and no error.
    sources = tuple(source.model_copy(update={"may_be_empty": True}) for source in corpus.sources)
    run(corpus.model_copy(update={"sources": sources}), folder, configured())
    rows, faults = [["stage", "in", "out", "changed", "of them parsed", "broke"]], list[str]()
    for number, name in enumerate(STAGES):
        ledger = _ledger(folder / name)
        counts, places = broken(folder / STAGES[number - 1], folder / name) if number else (Counter[str](), [])
        faults += places
        told = [counts["changed"], counts["parsed before"], len(places)]
        rows.append([name, *(f"{each:,}" for each in (ledger["documents_in"], ledger["documents_out"], *told))])
    click.echo("\n".join(table(rows, (1, 2, 3, 4, 5))))
    for name in STAGES:
        ledger = _ledger(folder / name)
        for reason, entry in sorted(ledger["drops"].items(), key=lambda item: -item[1]["documents"]):
            click.echo(f"{name:9} {entry['documents']:6,} {reason}")
    click.echo("\n".join([*(f"broke: {place}" for place in faults), *(sample(folder, count) if count else [])]))
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
