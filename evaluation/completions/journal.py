"""Completions as they are finished, so that none is lost when a process is stopped.

A folder holds one file for each process that completed something, a line for each completion. Which process wrote a
line, and when, changes nothing.
"""

import os
from dataclasses import astuple
from pathlib import Path

from evaluation.completions.completions import Completion
from specs.common.errors import UserError
from specs.common.files import canonical_json
from specs.common.json_lines import read_lines

REMEDY = "remove the file, the rest is kept"

Key = tuple[str, int]
"""Task and sample."""


class Journal:
    """What this process has finished: one file of its own in the folder, made with the first completion."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None

    def note(self, completion: Completion) -> None:
        """Append one completion. It outlives this process from here on, and the machine from `flush` on."""
        if self._descriptor is None:
            # A new file each time: one that a kill cut short is not continued.
            number = len(list(self._folder.glob("*.jsonl")))
            while self._descriptor is None:
                try:
                    path = self._folder / f"{number:06d}.jsonl"
                    self._descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o644)
                except FileExistsError:
                    number += 1
        os.write(self._descriptor, canonical_json(list(astuple(completion))) + b"\n")

    def flush(self) -> None:
        """Have what was noted survive a power cut."""
        if self._descriptor is not None:
            os.fsync(self._descriptor)


def read_journal(folder: Path) -> dict[Key, Completion]:
    """Finished completions of all processes. A last line that a kill cut short is left out.

    Raises UserError where another line is damaged.
    """
    completions: dict[Key, Completion] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for number, values in read_lines(path, REMEDY, cut_short=True):
            try:
                completion = Completion(*values)
            except TypeError as error:
                raise UserError(f"{path}:{number}: not a completion ({error}); {REMEDY}") from error
            completions[completion.task_id, completion.sample] = completion
    return completions
