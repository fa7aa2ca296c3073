"""The code of a stage: exactly the files that `dvc.yaml` lets it depend on, and the digest that is their identity.

What a stage keeps on its way (scratch, checkpoints, journals) is named by this digest, so that what one code left is
never continued by another unasked.
"""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError

from specs import ROOT
from specs.common.errors import UserError
from specs.common.files import digest_json, read_text, sha256_file, write_json
from specs.pipeline.dvc_graph import parse
from specs.schema.base import Items, Section

FILE = "code.json"
"""In a scratch folder: the code that its state belongs to."""


class Code(Section):
    """The files of a stage as they were when it started."""

    stage: str
    """Its name in `dvc.yaml`, such as `pretrain`."""
    paths: Items[str]
    """Files and folders, from the project root."""
    files: dict[str, str]
    """sha256 of every file below them, by path."""
    accepted: Items[str] = Field(default=())
    """Digests of other code whose state this code was allowed to go on from, in that order."""

    @property
    def digest(self) -> str:
        """Hex sha256 over the names and bytes of all files."""
        return digest_json(self.files)

    def require_unchanged(self) -> None:
        """Raise UserError where the files of this checkout are not those that the stage started with."""
        if changed := differing(self.files, digests(self.paths)):
            raise UserError(
                f"{self.stage}: {changed[0]} in {ROOT} is not as it was when the stage started{_more(changed)}: what "
                "is computed would be of neither code; what is finished is kept, run the stage again"
            )

    def continuing(self, old: Self) -> Self:
        """The same code, allowed to go on from the state of an old one."""
        return self.model_copy(update={"accepted": (*old.accepted, old.digest)})

    def write(self, folder: Path) -> None:
        """Say in a scratch folder that its state belongs to this code."""
        write_json(folder / FILE, self.model_dump(mode="json"))

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The code that the state in a scratch folder belongs to; none where a kill came before it was written."""
        try:
            return cls.model_validate_json((folder / FILE).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None


@functools.cache
def code_of(stage: str) -> Code:
    """The code of a stage as it is now: in one process always the same, as its modules are.

    Raises UserError where `dvc.yaml` has no such stage, or names a file that is missing.
    """
    paths = code_paths(parse(read_text(ROOT / "dvc.yaml")), stage)
    return Code(stage=stage, paths=paths, files=digests(paths))


def code_paths(pipeline: Any, stage: str) -> tuple[str, ...]:
    """Paths of a stage's code: what `dvc.yaml` lets it depend on and no stage makes. Raises UserError if unknown."""
    stages = pipeline["stages"]
    if stage not in stages:
        raise UserError(f"dvc.yaml has no stage {stage!r}; it has {', '.join(stages)}")
    made = {
        entry if isinstance(entry, str) else next(iter(entry))
        for body in map(_body, stages.values())
        for kind in ("outs", "metrics", "plots")
        for entry in body.get(kind, ())
    }
    return tuple(path for path in _body(stages[stage])["deps"] if "${" not in path and path not in made)


def digests(paths: tuple[str, ...]) -> dict[str, str]:
    """sha256 of each file in files and folders of the project, by path, sorted; but for what DVC is told to ignore."""
    return dict(sorted((path, sha256_file(ROOT / path)) for path in _files(paths)))


def differing(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Paths that have other bytes, or are missing, on one side; sorted."""
    return sorted(path for path in one | other if one.get(path) != other.get(path))


_running: list[Code] = []
_verified: set[str] = set()


@contextlib.contextmanager
def running(code: Code) -> Iterator[None]:
    """Say that this process now computes with a code: `current` tells it to the processes that it starts."""
    _running.append(code)
    try:
        yield
    finally:
        _running.remove(code)


def current() -> Code | None:
    """The code that this process computes with, to hand to those that do a part of the work; none outside a stage."""
    return _running[-1] if _running else None


def require(code: Code | None) -> None:
    """In a process that does a part of a stage's work, here or elsewhere: refuse to do it with other code.

    Looks once in each process. Raises UserError where the files differ from those that the stage started with.
    """
    if code is not None and code.digest not in _verified:
        code.require_unchanged()
        _verified.add(code.digest)


def _body(stage: dict[str, Any]) -> dict[str, Any]:
    return dict(stage.get("do", stage))


def _files(paths: tuple[str, ...]) -> Iterator[str]:
    ignored = _ignored()
    for path in paths:
        place = ROOT / path
        if not place.exists():
            raise UserError(f"dvc.yaml lets a stage depend on {path}, which is missing in {ROOT}")
        for file in [place] if place.is_file() else place.rglob("*"):
            name = file.relative_to(ROOT).as_posix()
            if file.is_file() and not ignored.match_file(name):
                yield name


@functools.cache
def _ignored() -> Any:
    from pathspec import GitIgnoreSpec

    path = ROOT / ".dvcignore"
    return GitIgnoreSpec.from_lines(read_text(path).splitlines() if path.exists() else ())


def _more(changed: list[str]) -> str:
    return f" (nor are {len(changed) - 1} more files)" if len(changed) > 1 else ""
