"""A corpus to compare on: documents of source archives, cut to a size, as the ingest stage would write them.

pip download --no-deps --no-binary :all: --dest archives Django==5.1.4 sympy==1.13.3 ...
python -m benchmarks.peers.corpus archives corpus --megabytes 150
"""

import resource
from pathlib import Path

import click

from data_pipeline.documents import DocumentWriter
from data_pipeline.ingest import ingest
from specs.data import Corpus, Dedup, Filter, MinHash
from specs.files import replacing, sha256_file
from specs.sources import LocalFile, Source
from specs.stage import Ledger

LIMITS = Filter(licences=("LicenseRef-mixed",))
SECTION = MinHash()


def corpus_of(names: list[str]) -> Corpus:
    """The spec of a corpus of these sources: filter and dedup at their defaults, no licence left out."""
    sources = tuple(
        Source(
            name=name,
            locator=LocalFile(kind="file", path=name),
            sha256="0" * 64,
            licence="LicenseRef-mixed",
            format="files",
        )
        for name in names
    )
    return Corpus(name="peers", sources=sources, filter=LIMITS, dedup=Dedup(near=SECTION))


@click.command()
@click.argument("archives", type=click.Path(path_type=Path, exists=True))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--megabytes", default=150, help="Text to take, in the order of file names; the last document that fits.")
def main(archives: Path, out: Path, megabytes: int) -> None:
    """Write documents of the archives in a folder, `sources.txt` with names of their sources; tell what it cost."""
    left = megabytes * 10**6
    names: list[str] = []
    with replacing(out) as temporary:
        paths = sorted(archives.glob("*.tar.gz"))
        sources = [f"s{number:03}" for number in range(len(paths))]
        with DocumentWriter(temporary, sources) as writer:
            for name, path in zip(sources, paths, strict=True):
                locator = LocalFile(kind="file", path=path.name)
                source = Source(
                    name=name, locator=locator, sha256=sha256_file(path), licence="LicenseRef-mixed", format="files"
                )
                names.append(name)
                for document in ingest(source, path, corpus_of(names).ingest, Ledger(), out / "runs"):
                    left -= document.size
                    if left < 0:
                        break
                    writer.write(document)
                if left < 0:
                    break
        (temporary / "sources.txt").write_text("\n".join(names))
    used = resource.getrusage(resource.RUSAGE_SELF)
    cost = f"{used.ru_utime + used.ru_stime:.1f} processor seconds, start included, {used.ru_maxrss / 1024:.0f} MiB"
    print(f"{(megabytes * 10**6 - max(left, 0)) / 1e6:.1f} MB from {len(names)} archives in {out}: {cost}")


if __name__ == "__main__":
    main()
