"""What every stage shares: its node from a fresh lock, its ledger, its scratch folder, its way to fail.

A stage module is one pure function and a `main()` that connects it to this.
"""

import contextlib
import ctypes
import fcntl
import functools
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from specs.common.errors import UserError
from specs.common.files import digest_json, write_json
from specs.loading.settings import load_settings
from specs.pipeline.lock import read_node
from specs.schema.base import Section

S = TypeVar("S", bound=Section)
P = ParamSpec("P")
R = TypeVar("R")

EXAMPLES_PER_REASON = 5
FACTS_IN_A_LIST = 1_000


class Ledger:
    """What a stage was given, what it passed on, and why it dropped the rest. Holds nothing that varies by run."""

    def __init__(self) -> None:
        self._sources: dict[str, dict[str, int]] = {}
        self._drops: dict[str, dict[str, Any]] = {}
        self._facts: dict[str, object] = {}

    def take(self, source: str, size: int, documents: int = 1) -> None:
        """Count what came in: documents and bytes of text."""
        self._add(source, "in", documents, size)

    def keep(self, source: str, size: int, documents: int = 1) -> None:
        """Count what goes out."""
        self._add(source, "out", documents, size)

    def count(self, source: str, name: str, amount: int) -> None:
        """Count something else of a source, such as tokens."""
        counts = self._sources.setdefault(source, {})
        counts[name] = counts.get(name, 0) + amount

    def drop(self, reason: str, example: str, documents: int = 1) -> None:
        """Count a drop; the first few examples of each reason are kept. An example begins with its source and a `/`."""
        self._drop(reason, documents, {example.partition("/")[0]: documents}, [example])

    def _drop(self, reason: str, documents: int, sources: dict[str, int], examples: list[str]) -> None:
        entry = self._drops.setdefault(reason, {"documents": 0, "sources": {}, "examples": []})
        entry["documents"] += documents
        entry["sources"] = _joined(entry["sources"], sources)
        entry["examples"] = (entry["examples"] + examples)[:EXAMPLES_PER_REASON]

    def state(self, name: str, value: object) -> None:
        """Record another fact of the result, as JSON."""
        self._facts[name] = value

    def merge(self, other: dict[str, Any]) -> None:
        """Add what another ledger says `as_json`, of documents that come after those of this one.

        Counts are added, examples kept up to their number. Of facts, numbers are added, lists are joined up to the
        length of `FACTS_IN_A_LIST`, mappings are merged in the same way.
        """
        for source, counts in other["sources"].items():
            own = self._sources.setdefault(source, {})
            for key, amount in counts.items():
                own[key] = own.get(key, 0) + amount
        for reason, entry in other["drops"].items():
            self._drop(reason, entry["documents"], entry["sources"], entry["examples"])
        self._facts = _joined(self._facts, other["facts"])

    def as_json(self) -> dict[str, object]:
        """The ledger as written to `ledger.json`."""
        totals = {
            key: sum(counts.get(key, 0) for counts in self._sources.values())
            for key in ("documents_in", "documents_out", "bytes_in", "bytes_out")
        }
        return {**totals, "sources": self._sources, "drops": self._drops, "facts": self._facts}

    def _add(self, source: str, direction: str, documents: int, size: int) -> None:
        self.count(source, f"documents_{direction}", documents)
        self.count(source, f"bytes_{direction}", size)


def _joined(one: Any, other: Any) -> Any:
    if isinstance(one, dict):
        return {
            key: _joined(one[key], other[key]) if key in one and key in other else one.get(key, other.get(key))
            for key in one | other
        }
    if isinstance(one, list):
        return (one + other)[:FACTS_IN_A_LIST]
    return one + other


def node(address: str, kind: type[S]) -> S:
    """Section at `kind.name` of the lock, such as `corpora.smoke-code`, after checking that the lock is fresh.

    Raises UserError where the lock is stale or missing, or holds no such node.
    """
    return read_node(address, kind)


@contextlib.contextmanager
def scratch(stage: str, version: int, section: object, inputs: dict[str, str]) -> Iterator[Path]:
    """Folder for resumable state, named by everything that the result depends on, under an exclusive lock.

    It outlives a kill and is the same one for the same section and inputs; another section gets another folder.
    The stage removes it with `discard` once its artifact is in place.
    Raises UserError while another process works in it.
    """
    identity = digest_json({"stage": stage, "version": version, "section": section, "inputs": inputs})
    folder = load_settings().folder("scratch") / f"{stage}-{identity[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    lock_path = folder.with_suffix(".lock")
    with lock_path.open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            raise UserError(
                f"{stage}: process {owner} is already working in {folder}; wait for it, or end it, and run again"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield folder


def discard(folder: Path) -> None:
    """Remove a scratch folder whose artifact is finished."""
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def measuring(stage: str, address: str, size: int | None = None) -> Iterator[dict[str, object]]:
    """Write seconds, processor seconds and peak memory to the `measured` folder; the caller may add facts."""
    started, cpu = time.monotonic(), _cpu_seconds()
    facts: dict[str, object] = {}
    yield facts
    seconds = time.monotonic() - started
    report: dict[str, object] = {
        "stage": stage,
        "node": address,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(_cpu_seconds() - cpu, 3),
        "peak_memory_bytes": 1024
        * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)),
    }
    if size is not None:
        report |= {"bytes": size, "bytes_per_second": round(size / seconds)}
    write_json(load_settings().folder("measured") / f"{stage}@{address.split('.')[-1]}.json", report | facts)


def command(main: Callable[P, R]) -> Callable[P, R]:
    """Decorate a stage's `main`: bad input is one line and exit code 2; the stage ends with the DVC that started it."""

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        if "DVC_STAGE" in os.environ:
            end_with_parent()
            if not _below_dvc():
                # DVC was killed while this process still imported: nobody waits for the result.
                sys.exit(1)
        try:
            return main(*args, **kwargs)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    return wrapped


def _below_dvc() -> bool:
    # An orphan's new parent is whoever adopts orphans here, not always process 1: look for DVC itself, which is the
    # parent, or its parent where the shell between them did not replace itself.
    parent = os.getppid()
    try:
        grandparent = int(Path(f"/proc/{parent}/stat").read_text("utf-8").rpartition(")")[2].split()[1])
        commands = [Path(f"/proc/{process}/cmdline").read_bytes() for process in (parent, grandparent) if process]
    except OSError:  # it ended in between
        return False
    return any(Path(os.fsdecode(word)).name == "dvc" for line in commands for word in line.split(b"\0")[:3])


def _cpu_seconds() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def end_with_parent() -> None:
    """Have the kernel end this process when its parent ends, however that came about."""
    # A killed `dvc repro` would otherwise leave the stage running, to write beside the next one.
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
