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
from typing import ParamSpec, TypeVar

from specs.common.checkout import require_own
from specs.common.errors import UserError, shortage
from specs.common.files import digest_json, write_json
from specs.loading.settings import load_settings
from specs.pipeline.code import Code, code_of, differing, running
from specs.pipeline.ledger import EXAMPLES_PER_REASON as EXAMPLES_PER_REASON
from specs.pipeline.ledger import Ledger as Ledger
from specs.pipeline.lock import read_node
from specs.schema.base import Section

S = TypeVar("S", bound=Section)
P = ParamSpec("P")
R = TypeVar("R")


def node(address: str, kind: type[S]) -> S:
    """Section at `kind.name` of the lock, such as `corpora.smoke-code`, after checking that the lock is fresh.

    Raises UserError where the lock is stale or missing, or holds no such node.
    """
    return read_node(address, kind)


@contextlib.contextmanager
def scratch(
    stage: str, section: object, inputs: dict[str, str], *, label: str = "", accept_code_change: bool | None = None
) -> Iterator[Path]:
    """Folder for resumable state, named by everything that the result depends on, under an exclusive lock.

    That is the stage's code (`code_of`), the section and the digests of its inputs. The folder outlives a kill and goes
    once the body has ended: the artifact is then in place. `label`: what begins its name, where that is not the stage.
    State that other code left is not continued: the stage starts anew and says so. With `accept_code_change` it goes on
    from it (none: such a stage cannot), and `code.json` in the folder names the code that was accepted.
    Raises UserError while another process works on the same, and at the end where the code has changed meanwhile.
    """
    code, name = code_of(stage), label or stage
    identity = digest_json({"stage": name, "section": section, "inputs": inputs})
    place = load_settings().folder("scratch") / f"{name}-{identity[:16]}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with _alone(place, name):
        folder = place.with_name(f"{place.name}-{code.digest[:16]}")
        others = [path for path in sorted(place.parent.glob(f"{place.name}-*")) if path.is_dir() and not path.suffix]
        others = [path for path in others if path != folder]
        if others and accept_code_change:
            _take_over(others, folder)
        elif others and not folder.exists():
            remedy = "; --accept-code-change goes on from it" if accept_code_change is False else ""
            print(f"{name}: {_difference(others[0], code)}: starting anew{remedy}", file=sys.stderr, flush=True)
        folder.mkdir(exist_ok=True)
        held = Code.read(folder)
        # Only an accepted change brings the state of another code here.
        code = code if held is None else held if held.digest == code.digest else code.continuing(held)
        code.write(folder)
        with running(code):
            yield folder
        code.require_unchanged()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _alone(place: Path, name: str) -> Iterator[None]:
    """Hold the lock of a place in the scratch folder, whatever code works there: results go to the same artifact."""
    with place.with_suffix(".lock").open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            raise UserError(
                f"{name}: process {owner} is already working in {place}; wait for it, or end it, and run again"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _take_over(others: list[Path], folder: Path) -> None:
    if folder.exists() or len(others) > 1:
        states = ", ".join(path.name for path in [folder, *others] if path.exists())
        raise UserError(f"state of more than one code lies in {folder.parent} ({states}): remove what shall not go on")
    others[0].rename(folder)


def _difference(other: Path, code: Code) -> str:
    """What is said of the state that other code left."""
    held = Code.read(other)
    changed = differing(held.files, code.files) if held else []
    what = f"{changed[0]}{' and more' if len(changed) > 1 else ''}" if changed else "its code"
    return f"{what} has changed since it was interrupted (its state stays in {other})"


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
    """Decorate a stage's `main`: bad input is one line and exit code 2; the stage ends with the DVC that started it.

    So is standing in another checkout than the code's: a stage reads and writes the one that one stands in.
    """

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        if "DVC_STAGE" in os.environ:
            end_with_parent()
            if not _below_dvc():
                # DVC was killed while this process still imported: nobody waits for the result.
                sys.exit(1)
        try:
            require_own()
            return main(*args, **kwargs)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except Exception as error:
            if (told := shortage(error)) is None:
                raise
            print(f"error: {told}", file=sys.stderr)
            sys.exit(75)

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
