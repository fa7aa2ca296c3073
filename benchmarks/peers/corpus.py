"""A corpus to compare on: pinned source archives as the ingest stage reads them, cut to a size.

    python -m benchmarks.peers.corpus corpus --megabytes 150

Two versions of Django come first, then Ansible, whose collections share many files: near-duplicates are common.
"""

import dataclasses
import resource
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from data_pipeline.documents.documents import DocumentWriter
from data_pipeline.fetch import PinnedFile, from_this_machine
from data_pipeline.fetching.content_store import copy_out
from data_pipeline.ingest import ingest
from specs.common.errors import UserError
from specs.common.files import replacing
from specs.pipeline import stage
from specs.schema.data import Corpus, Dedup, Ingest, MinHash
from specs.schema.filters import Filter
from specs.schema.sources import LocalFile, PackageIndexFile, Source

LICENCE = "LicenseRef-mixed"
"""Of every document: none is left out for its licence, and none is handed on."""
LIMITS = Filter(licences=(LICENCE,))
SECTION = MinHash()

ARCHIVES = (
    ("Django", "Django-5.0.10.tar.gz", "0f6cbc56cc298b0451d20a5120c6a8731e9073330fb5d84295c23c151a1eb300"),
    ("Django", "Django-5.1.4.tar.gz", "de450c09e91879fa5a307f696e57c851955c910a438a35e6b4c895e86bedc82a"),
    ("ansible", "ansible-11.1.0.tar.gz", "d01b425990d960d2a33fc378e1b73dbca1c0e28bc22f4056ab6b3c8e9ae74fba"),
    ("ansible_core", "ansible_core-2.18.1.tar.gz", "14cac1f92bbdae881cb0616eddeb17925e8cb507e486087975e724533d9de74f"),
    (
        "apache_airflow",
        "apache_airflow-2.10.3.tar.gz",
        "09038892bec9390357837eb7ec482e5052482be57a5b24013a14200745fbe40d",
    ),
    ("astropy", "astropy-7.0.0.tar.gz", "e92d7c9fee86eb3df8714e5dd41bbf9f163d343e1a183d95bf6bd09e4313c940"),
    ("biopython", "biopython-1.84.tar.gz", "60fbe6f996e8a6866a42698c17e552127d99a9aab3259d6249fbaabd0e0cc7b4"),
)
"""Project, file and sha256 on the package index: 300 MB of text, and more."""


def corpus_of(names: list[str]) -> Corpus:
    """The spec of a corpus of sources of these names: filter and dedup at their defaults, no licence left out."""
    here = [LocalFile(kind="file", path=name) for name in names]
    sources = tuple(
        Source(name=name, locator=locator, sha256="0" * 64, licence=LICENCE, format="files")
        for name, locator in zip(names, here, strict=True)
    )
    return Corpus(name="peers", sources=sources, filter=LIMITS, dedup=Dedup(near=SECTION))


def pinned() -> list[Source]:
    """The archives as sources, by names that sort as they stand."""
    locators = [PackageIndexFile(kind="package-index", project=project, filename=name) for project, name, _ in ARCHIVES]
    return [
        Source(name=f"s{number:03}", locator=locator, sha256=sha256, licence=LICENCE, format="files")
        for number, (locator, (_, _, sha256)) in enumerate(zip(locators, ARCHIVES, strict=True))
    ]


def write(out: Path, megabytes: int) -> str:
    """Write a folder of documents: as many, source by source in the order of paths, as fit. Answers what was written.

    Raises UserError where an archive cannot be had, or all of them hold less.
    """
    left, read = megabytes * 10**6, 0
    sources = pinned()
    with replacing(out) as temporary, TemporaryDirectory() as scratch:
        with DocumentWriter(temporary, [source.name for source in sources]) as writer:
            for source in sources:
                path = Path(scratch) / source.filename
                [stored] = from_this_machine([PinnedFile("source", source.name, source)])
                copy_out(stored, path)
                read += 1
                for document in ingest(source, path, Ingest(), stage.Ledger(), Path(scratch) / "runs"):
                    left -= document.size
                    if left < 0:
                        break
                    # What files state of their licences is not compared here.
                    writer.write(dataclasses.replace(document, licence=LICENCE))
                if left < 0:
                    break
        if left >= 0:
            raise UserError(f"the archives hold {megabytes - left / 1e6:.0f} MB of text; ask for less")
    return f"{megabytes} MB from {read} archives in {out}"


@click.command(epilog="Example: python -m benchmarks.peers.corpus corpus --megabytes 40")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--megabytes", type=click.IntRange(1), default=150, show_default=True, help="Text to take.")
@stage.command
def main(out: Path, megabytes: int) -> None:
    """Write a folder of documents from archives of the package index; tell what it cost."""
    written = write(out, megabytes)
    used = resource.getrusage(resource.RUSAGE_SELF)
    cost = f"{used.ru_utime + used.ru_stime:.1f} processor seconds, start included, {used.ru_maxrss / 1024:.0f} MiB"
    click.echo(f"{written}: {cost}")


if __name__ == "__main__":
    main()
