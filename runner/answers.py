"""Answers that were given before, given again while everything that they were made from is unchanged.

Reading a spec takes its libraries a quarter of a second, and reviews ask the same question many times: `git log -p`
asks once for each commit. An answer depends on the question (arguments, current folder, variables `TWICE_*`, commits
that revisions stand for), on the code of this project, on Python and the installed distributions, and on every file
that was opened while it was made, including those that were not there. All are compared by content, never by age.
"""

import contextlib
import gc
import hashlib
import json
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from specs import ROOT

KEPT = 200
"""Answers that stay on disk, the newest first."""
_CODE = (".py", ".pyc", ".so")

Answer = tuple[str, int]
"""Text, with colours, and exit code."""

_opened: set[str] | None = None
_hooked = False


def repeat(question: Iterable[str], work: Callable[[], Answer], apart: Sequence[str] = ()) -> Answer:
    """The answer to a question: the one that was given before where it still holds, else what `work` returns.

    apart: files whose contents are part of the question, whatever their names. Whatever `work` raises is raised, and
    nothing is kept.
    """
    with _uncollected():
        state = _state()
        path = folder() / f"{_digest_of(question, state)}.json"
        if (known := _known(path)) is not None:
            return known
        from runner.parsed import remembering

        shelf = folder("parsed")
        with remembering(shelf, state), _watching() as opened:
            text, code = work()
        # What the shelf holds follows from texts that were opened as well.
        kept = _absolute(str(shelf)) + os.sep
        files = sorted(name for name in opened - {*map(_absolute, apart)} if not name.startswith(kept))
        # A pipe (`twice check <(...)`) or a device says something else each time.
        if all(_is_plain(name) for name in files):
            _keep(path, {"files": {name: _sha256(name) for name in files}, "text": text, "code": code})
        return text, code


def folder(name: str = "answers") -> Path:
    """Where answers are kept: `answers` in the folder `TWICE_SCRATCH`, or `scratch`. It may be removed at any time."""
    return ROOT / (os.environ.get("TWICE_SCRATCH") or "scratch") / name


def states_of(states: Sequence[str]) -> list[str]:
    """States to compare, as a question: with the commits that revisions stand for now. Raises UserError."""
    question = list(states)
    for state in states:
        question.append(str(Path(state).exists()))
        separator = ".." if ".." in state and len(states) == 1 else ":"
        before, found, after = state.partition(separator)
        if found and not Path(state).exists():
            from specs.git import commit_of

            ends = (before or "HEAD", after or "HEAD") if separator == ".." else (before,)
            question += [commit_of(revision) for revision in ends]
            question.append(str(Path(after).exists()))
    return question


def files_in(arguments: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """What git gives a diff driver, as a question (with contents in place of temporary names), and those names."""
    names = tuple(arguments[place] for place in (1, 4) if place < len(arguments))
    return [*arguments[:1], *(_sha256(name) or name for name in names)], names


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Leave memory alone: a command that is about to end gives it all back at once, and looks through it for nothing.

    Afterwards no collection, that at the end of the process included, looks at what is alive now.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was:
            gc.enable()


def _digest_of(question: Iterable[str], state: str) -> str:
    """Hex sha256 of the question and of all that any answer depends on."""
    variables = sorted((name, value) for name, value in os.environ.items() if name.startswith("TWICE_"))
    facts = [list(question), str(Path.cwd()), variables, state]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _state() -> str:
    """Hex sha256 of all code: Python, installed distributions, and the rooms that answers come from."""
    installed = os.listdir(Path(click.__file__).parent.parent)
    facts: list[Any] = [sys.version, sorted(name for name in installed if name.endswith(".dist-info"))]
    for room in ("specs", "runner"):
        names = sorted(name for name in os.listdir(ROOT / room) if name.endswith(".py"))
        facts.append([(room, name, _sha256(str(ROOT / room / name))) for name in names])
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _known(path: Path) -> Answer | None:
    try:
        held = json.loads(path.read_bytes())
        if all(_sha256(name) == digest for name, digest in held["files"].items()):
            return str(held["text"]), int(held["code"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # There is none, or it is damaged: work it out.
        return None
    return None


def _keep(path: Path, held: dict[str, Any]) -> None:
    from runner.parsed import remove_all_but
    from specs.files import write_json

    # Where nothing can be written, the next answer takes as long as this one.
    with contextlib.suppress(OSError):
        write_json(path, held)
        remove_all_but(KEPT, path.parent)


@contextlib.contextmanager
def _watching() -> Iterator[set[str]]:
    """Yield the set of absolute paths of files that are opened meanwhile, those of code and libraries aside."""
    global _hooked, _opened
    if not _hooked:
        sys.addaudithook(_hear)  # for the life of the process: Python cannot take one back
        _hooked = True
    found: set[str] = set()
    _opened = found
    try:
        yield found
    finally:
        _opened = None


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is None or event != "open" or not isinstance(arguments[0], str | bytes | os.PathLike):
        return
    name = _absolute(os.fsdecode(arguments[0]))
    if not name.endswith(_CODE) and not name.startswith((sys.prefix, sys.base_prefix)):
        _opened.add(name)


def _absolute(name: str) -> str:
    return os.path.abspath(name)  # noqa: PTH100 - links stay as they are named


def _is_plain(name: str) -> bool:
    """Whether reading it says the same each time: a file, a folder, or nothing at all."""
    try:
        mode = os.stat(name).st_mode  # noqa: PTH116 - as above
    except OSError:
        return True
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def _sha256(name: str) -> str | None:
    """Digest of a file's bytes; none where there is no such file."""
    if not _is_plain(name):
        return None
    try:
        with open(name, "rb") as file:  # noqa: PTH123 - the fast way
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return None
