"""Fetch: the pinned bytes of every source, from the store, a mirror, or where the spec says they may be had.

The only stage that touches a network. Bytes are accepted by their sha256 alone, so it does not matter who serves them.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import click
import requests
from urllib3.exceptions import MaxRetryError
from urllib3.util import Retry

from data_pipeline.fetching import reproducible_tar
from data_pipeline.fetching.content_store import Mirrors, Store, WrongBytesError, copy_out, read_chunks
from data_pipeline.fetching.origin import Origin, UnreachableError
from specs.common.errors import UserError
from specs.common.files import replacing, write_json
from specs.common.progress import Progress
from specs.loading import settings
from specs.pipeline import stage
from specs.schema.data import Benchmark, Corpus
from specs.schema.sources import HubFile, Pinned

# A body that breaks off is trouble too, which urllib3 by itself would not try again: hence its rules, but our loop.
RETRY = Retry(total=2, status_forcelist=(429, *range(500, 600)), backoff_factor=1, retry_after_max=60)
_THREADS = 4


@dataclass(frozen=True)
class PinnedFile:
    """Pinned bytes under the name that the spec gives them."""

    kind: str
    """`source` or `benchmark`."""
    name: str
    pinned: Pinned

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"


def fetch(files: Sequence[PinnedFile], store: Store, mirrors: Mirrors, origin: Origin) -> list[Path]:
    """Paths within the store, in the order of `files`; what it lacks is taken from a mirror, or from its locator.

    Raises UserError naming the first file that cannot be had, once all others are in the store.
    """
    unique = list({entry.pinned.sha256: entry for entry in reversed(files)}.values())[::-1]
    sizes = [entry.pinned.size for entry in unique]
    total = sum(size for size in sizes if size is not None) if None not in sizes else None
    with Progress("fetch", total=total, unit="bytes") as progress, ThreadPoolExecutor(_THREADS) as pool:
        lock = Lock()

        def advance(length: int) -> None:
            with lock:
                progress.advance(length)

        outcomes = list(pool.map(lambda entry: _obtain(entry, store, mirrors, origin, advance), unique))
    failures = [outcome for outcome in outcomes if isinstance(outcome, str)]
    if failures:
        others = f" ({len(failures) - 1} more of {len(unique)} files cannot be had)" if len(failures) > 1 else ""
        raise UserError(failures[0] + others)
    return [store.path(entry.pinned.sha256) for entry in files]


def _hint(pinned: Pinned, status: int) -> str:
    gated = isinstance(pinned.locator, HubFile) and status in (401, 403)
    return ", because its terms must be accepted on its page and HF_TOKEN must hold your token" if gated else ""


def _obtain(
    entry: PinnedFile, store: Store, mirrors: Mirrors, origin: Origin, advance: Callable[[int], None]
) -> Path | str:
    """The file in the store, or the line that says why it cannot be had."""
    pinned = entry.pinned
    if (stored := store.find(pinned.sha256)) is not None:
        advance(stored.stat().st_size)
        return stored
    try:
        if (mirrored := mirrors.find(pinned.sha256, pinned.filename, pinned.size)) is not None:
            return store.add(pinned.sha256, read_chunks(mirrored, advance))
        return _attempts(entry, store, origin, advance)
    except WrongBytesError as error:
        trouble = f"{pinned.filename} is not what the spec pins: {error}, expected sha256 {pinned.sha256}"
    except (UnreachableError, reproducible_tar.UnreadableError, OSError) as error:
        trouble = f"cannot fetch {pinned.filename} (sha256 {pinned.sha256}): {error}"
    return (
        f"{entry}: {trouble}; put the file in a folder named by TWICE_MIRRORS or by mirrors in settings.yaml, "
        f"or at {store.path(pinned.sha256)}"
    )


def _attempts(entry: PinnedFile, store: Store, origin: Origin, advance: Callable[[int], None]) -> Path:
    pinned, retry = entry.pinned, RETRY
    while True:
        received = 0

        def count(length: int) -> None:
            nonlocal received
            received += length
            advance(length)

        try:
            return store.add(pinned.sha256, origin.chunks(pinned, count), pinned.size)
        except requests.RequestException as error:
            answer, reason = error.response, f"no connection ({type(error).__name__})"
            if answer is not None:
                reason = f"the server answers {answer.status_code}{_hint(pinned, answer.status_code)}"
                if not retry.is_retry("GET", answer.status_code):
                    raise UnreachableError(reason) from error
            try:
                retry = retry.increment(error=error)
            except MaxRetryError:
                raise UnreachableError(reason) from error
            advance(-received)
            retry.sleep(answer.raw if answer is not None else None)


def write(files: Sequence[PinnedFile], stored: Sequence[Path], out: Path) -> None:
    """Fill a folder with `<name>/<filename>` for every file, and a ledger of bytes and digests."""
    ledger = stage.Ledger()
    for entry, path in zip(files, stored, strict=True):
        copy_out(path, out / entry.name / entry.pinned.filename)
        ledger.take(entry.name, path.stat().st_size)
        ledger.keep(entry.name, path.stat().st_size)
    ledger.state("sha256", {entry.name: entry.pinned.sha256 for entry in files})
    out.mkdir(exist_ok=True)
    write_json(out / "ledger.json", ledger.as_json())


def from_this_machine(files: Sequence[PinnedFile]) -> list[Path]:
    """`fetch` with the store and the mirrors that this machine's settings name."""
    for entry in files:
        if Path(entry.pinned.filename).name != entry.pinned.filename:
            raise UserError(f"{entry}: {entry.pinned.filename!r} cannot be a file name; correct its locator")
    machine = settings.load_settings()
    mirrors = Mirrors(machine.mirror_folders)
    with Origin(settings.ROOT) as origin:
        return fetch(files, Store(machine.folder("store")), mirrors, origin)


@click.command(
    epilog="Example: python -m data_pipeline.fetch corpora.smoke-code --out sources --benchmarks-out benchmarks"
)
@click.argument("node")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the bytes.")
@click.option("--benchmarks-out", type=click.Path(path_type=Path), help="Folder for benchmarks (corpora only).")
@stage.command
def main(node: str, out: Path, benchmarks_out: Path | None) -> None:
    """Fetch the pinned bytes of a corpus and the benchmarks it is cleaned of, or of one benchmark."""
    if node.startswith("benchmarks."):
        benchmark = stage.node(node, Benchmark)
        with stage.measuring("fetch", node) as facts, replacing(out) as temporary:
            [file] = from_this_machine([PinnedFile("benchmark", benchmark.name, benchmark.source)])
            facts["bytes"] = file.stat().st_size
            copy_out(file, temporary / benchmark.source.filename)
        return
    corpus = stage.node(node, Corpus)
    if benchmarks_out is None:
        raise UserError("a corpus needs --benchmarks-out: the folder for the benchmarks that it is cleaned of")
    sources = [PinnedFile("source", source.name, source) for source in corpus.sources]
    sources += [
        PinnedFile("source", f"{source.name}/contents", source.contents) for source in corpus.sources if source.contents
    ]
    against = [PinnedFile("benchmark", benchmark.name, benchmark.source) for benchmark in corpus.decontaminate.against]
    with stage.measuring("fetch", node) as facts:
        stored = from_this_machine([*sources, *against])
        facts["bytes"] = sum(path.stat().st_size for path in stored)
        with replacing(out) as temporary, replacing(benchmarks_out) as temporary_benchmarks:
            write(sources, stored[: len(sources)], temporary)
            write(against, stored[len(sources) :], temporary_benchmarks)


if __name__ == "__main__":
    main()
