"""Verdicts as they come: what a scoring that was interrupted need not run again."""

import hashlib
import json
import os
from pathlib import Path

from evaluation.protocols.program import Program
from evaluation.sandbox.dialogue import Outcome
from specs.common.files import canonical_json


def identity(program: Program) -> str:
    """What names a program: sha256 of candidate, tests and helpers."""
    lengths = f"{len(program.candidate)} {len(program.tests)}"
    text = f"{lengths} {program.candidate}{program.tests}{program.helpers}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Verdicts:
    """A file with a line for each verdict, or nothing where there is no path.

    A last line that a kill cut short is removed.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[tuple[str, bool], Outcome] = {}
        if path is None or not path.exists():
            return
        whole = path.read_bytes().rpartition(b"\n")[0]
        os.truncate(path, len(whole) + 1 if whole else 0)
        for line in whole.splitlines():
            name, split, verdict, message = json.loads(line)
            self._known[name, split] = Outcome(verdict, message)

    def __len__(self) -> int:
        return len(self._known)

    def outcomes(self, split: bool) -> dict[str, Outcome]:
        """Outcomes by `identity`: those of the split checker, or the comparable ones."""
        return {name: outcome for (name, kind), outcome in self._known.items() if kind == split}

    def add(self, program: Program, split: bool, outcome: Outcome) -> None:
        """Add one outcome."""
        self._known[identity(program), split] = outcome
        if self._path is not None:
            line = canonical_json([identity(program), split, outcome.verdict, outcome.message]) + b"\n"
            with self._path.open("ab") as file:
                file.write(line)
