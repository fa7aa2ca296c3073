"""The two sides of an A/B run: a revision's code in a folder of its own, and processes that run workloads of it."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.measuring.cost import Cost
from specs.common.errors import UserError
from specs.common.git import commit_of
from specs.loading.settings import ROOT

_ERROR_LINES = 3


class NoSuchWork(Exception):
    """A side cannot run a workload: its code has another form, or lacks it. The message is what it said last."""


@dataclass(frozen=True)
class Side:
    """Code to be measured, and the workloads that measure it."""

    label: str
    code: Path
    """Root of the checkout."""
    workloads: Path
    """Folder that holds the package `benchmarks`."""

    def command(self, case: str, inputs: Path, *options: str) -> list[str]:
        """The worker's command line."""
        return [sys.executable, "-P", "-m", "benchmarks.ab.worker", case, str(inputs), *options]

    @property
    def environment(self) -> dict[str, str]:
        """What sets this side's code before the installed one."""
        return os.environ | {
            "PYTHONPATH": f"{self.workloads}{os.pathsep}{self.code}",
            "PYTHONHASHSEED": "0",
            "OMP_NUM_THREADS": "1",
            "TWICE_MEASURED": os.devnull,
        }


class Process:
    """A worker of one side, warmed up and waiting."""

    def __init__(self, side: Side, case: str, inputs: Path) -> None:
        self.side = side
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._process = subprocess.Popen(
            side.command(case, inputs),
            env=side.environment,
            cwd=side.code,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            encoding="utf-8",
            bufsize=1,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin
        if kind is not None:
            self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()
        self._complaints.close()

    def hello(self) -> dict[str, Any]:
        """What a round does, said once.

        Raises NoSuchWork where the workload cannot be built, RuntimeError where the code is not this side's.
        """
        told = self._read()
        if Path(root := told.pop("root")) != self.side.code:
            raise RuntimeError(f"{self.side.label} ran the code in {root}, not that in {self.side.code}")
        return told

    def round(self) -> Cost:
        """Run one round."""
        assert self._process.stdin
        self._process.stdin.write("\n")
        return Cost(**self._read())

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if line:
            return dict(json.loads(line))
        self._process.wait()
        self._complaints.seek(0)
        said = self._complaints.read().decode(errors="replace").strip().splitlines()
        raise NoSuchWork(" / ".join(said[-_ERROR_LINES:]) or f"ended with code {self._process.returncode}")


@contextlib.contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """A worktree of a revision, removed afterwards. Raises UserError where git knows no such revision."""
    commit = commit_of(revision)
    with tempfile.TemporaryDirectory(prefix="twice-revision-") as folder:
        place = Path(folder).resolve() / "checkout"
        _git("worktree", "add", "--quiet", "--detach", str(place), commit)
        try:
            yield place
        finally:
            _git("worktree", "remove", "--force", str(place))


@contextlib.contextmanager
def workloads_of(root: Path) -> Iterator[Path]:
    """A folder with nothing but a copy of a checkout's package `benchmarks`, so that it can measure other code."""
    with tempfile.TemporaryDirectory(prefix="twice-workloads-") as folder:
        shutil.copytree(
            root / "benchmarks", Path(folder) / "benchmarks", ignore=shutil.ignore_patterns("__pycache__", "peers")
        )
        yield Path(folder)


def _git(*arguments: str) -> None:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise UserError(f"git {arguments[0]} {arguments[1]}: {' '.join(done.stderr.split())}")
