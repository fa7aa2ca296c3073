"""Verdicts as they come: what a scoring that was interrupted need not run again."""

import hashlib
import json
import os
from pathlib import Path
from typing import cast, get_args

from evaluation.protocols.program import Program
from evaluation.sandbox.dialogue import Outcome, Verdict
from specs.common.errors import UserError
from specs.common.files import canonical_json


def identity(program: Program) -> str:
    """What names a program: sha256 of candidate, tests and helpers."""
    lengths = f"{len(program.candidate)} {len(program.tests)}"
    text = f"{lengths} {program.candidate}{program.tests}{program.helpers}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _entry(line: bytes, location: str) -> tuple[str, bool, Outcome]:
    """What a line says. Raises UserError, naming `location`, where it is damaged."""
    try:
        match json.loads(line):
            case [str(name), bool(split), str(verdict), str(message)] if verdict in get_args(Verdict):
                return name, split, Outcome(cast(Verdict, verdict), message)
    except (ValueError, RecursionError):
        pass
    raise UserError(f"{location}: not a verdict; remove that line and run again: the others are kept")


class Verdicts:
    """A file with a line for each verdict, or nothing where there is no path.

    A last line that a kill cut short is removed. Raises UserError naming any other line that is damaged.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[tuple[str, bool], Outcome] = {}
        if path is None or not path.exists():
            return
        whole = path.read_bytes().rpartition(b"\n")[0]
        os.truncate(path, len(whole) + 1 if whole else 0)
        for number, line in enumerate(whole.split(b"\n") if whole else (), start=1):
            name, split, outcome = _entry(line, f"{path}:{number}")
            self._known[name, split] = outcome

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
