"""Specs as another git revision holds them: `REV:path`, or every experiment of a revision."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from specs.common.errors import UserError
from specs.common.files import read_text
from specs.common.git import blob, commit_of, files, show
from specs.loading.load import load_experiment
from specs.loading.settings import ROOT
from specs.schema.experiment import Experiment

EXPERIMENTS = "specs/experiments"


@dataclass(frozen=True)
class Side:
    """One side of a comparison: an experiment, and how to read other files of the same state of the project."""

    label: str
    experiment: Experiment
    text: Callable[[str], str | None]
    """Text of a file by its path from the project root; none where there is no such file."""
    changed_code: Callable[[str], str | None]
    """A digest of a file's or folder's contents by path, for comparing two sides; none where unknown or absent."""
    specs: str | None
    """Digest of all files that the experiment was read from."""


def side(argument: str) -> Side:
    """Read `path` or `REV:path`. Raises UserError where the revision, the file or its contents are not valid."""
    revision, separator, path = argument.partition(":")
    if separator and not Path(argument).exists():
        if not path:
            raise UserError(f"{argument!r}: give a file after the colon, such as {revision}:{EXPERIMENTS}/smoke.yaml")
        return at_revision(revision, path)
    return _read(argument, Path(argument), read_text, text_here, lambda _: None)


def at_revision(revision: str, path: str) -> Side:
    """Read an experiment as a revision holds it; `path` is from the project root or the current folder."""
    commit = commit_of(revision)
    here = Path(path) if Path(path).is_absolute() else Path.cwd() / path
    if not here.is_relative_to(ROOT) or not here.exists():
        here = ROOT / path

    def read(file: Path) -> str:
        absolute = file if file.is_absolute() else Path.cwd() / file
        text = show(commit, str(absolute.relative_to(ROOT)))
        if text is None:
            raise FileNotFoundError(file)
        return text

    return _read(f"{revision}:{path}", here, read, lambda name: show(commit, name), lambda name: blob(commit, name))


def from_text(label: str, text: str, path: Path) -> Side:
    """Read an experiment from text that stands for the file at `path`; files that it includes are those on disk."""
    absolute = path if path.is_absolute() else Path.cwd() / path

    def read(file: Path) -> str:
        return text if (file if file.is_absolute() else Path.cwd() / file) == absolute else file.read_text("utf-8")

    return _read(label, absolute, read, text_here, lambda _: None)


def experiments(revision: str) -> list[str]:
    """Paths of all experiments of a revision, from the project root."""
    names = files(commit_of(revision), EXPERIMENTS)
    return [name for name in names if name.count("/") == EXPERIMENTS.count("/") + 1 and name.endswith(".yaml")]


def _read(
    label: str,
    path: Path,
    read: Callable[[Path], str],
    text: Callable[[str], str | None],
    code: Callable[[str], str | None],
) -> Side:
    seen: list[str] = []

    def reading(file: Path) -> str:
        content = read(file)
        seen.append(content)
        return content

    experiment = load_experiment(path, reading)
    return Side(label, experiment, text, code, "\0".join(seen))


def text_here(path: str) -> str | None:
    """Text of a file of the checkout by its path from the project root; none where there is no such file."""
    try:
        return (ROOT / path).read_text("utf-8")
    except (FileNotFoundError, IsADirectoryError):
        return None
