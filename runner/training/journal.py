"""The journal of a run, `steps.jsonl`: a line for each step, each with the digest chain over all lines before it."""

import errno
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from specs.common.errors import UserError
from specs.common.files import canonical_json, replacing
from specs.common.json_lines import last_line, parse_json, read_lines


def link(previous: str, entry: dict[str, Any]) -> str:
    """Next element of a digest chain: sha256 of the previous one and the entry's canonical JSON."""
    return hashlib.sha256(bytes.fromhex(previous) + canonical_json(entry)).hexdigest()


def read_steps(path: Path, start: str) -> Iterator[dict[str, Any]]:
    """Entries of a journal, each checked against the chain that begins with `start`.

    A last line without its end, as a kill leaves it, is left out. Raises UserError at the first line that is not what
    was written.
    """
    chain = start
    for number, entry in read_lines(path, "it is no journal", cut_short=True):
        stated = entry.pop("chain", None) if isinstance(entry, dict) else None
        if not isinstance(stated, str):
            raise UserError(f"{path}:{number}: not a line of a digest chain")
        try:
            chain = link(chain, entry)
        except ValueError as error:  # a NaN, or half of a character: no run writes either
            raise UserError(f"{path}:{number}: not a line of a digest chain ({error})") from error
        if chain != stated:
            raise UserError(f"{path}:{number}: the digest chain breaks here (step {entry.get('step')})")
        yield entry | {"chain": chain}


def last_step(path: Path) -> dict[str, Any] | None:
    """The last entry that was written whole, read from the end of a journal of any length; none where there is none.

    The chain is not checked. Raises UserError where the line is none of a journal.
    """
    line = last_line(path)
    if line is None:
        return None
    try:
        return dict(parse_json(line))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: its last line is not that of a journal") from error


def copy_start(path: Path, length: int, target: Path) -> None:
    """Copy the first bytes of a journal, which only grows. Raises OSError where there are fewer."""
    with path.open("rb") as journal, target.open("wb") as copy:
        while left := length - copy.tell():
            block = journal.read(min(left, 1 << 20))
            if not block:
                raise OSError(errno.EIO, f"is {left} bytes shorter than was written", str(path))
            copy.write(block)


class Journal:
    """The journal of a run in progress."""

    def __init__(self, path: Path, start: str) -> None:
        self.path, self.start, self.chain = path, start, start
        path.write_bytes(b"")
        self.bytes = 0
        """Length of the file. What lies before it never changes, so a copy of so many bytes can be made later."""

    def append(self, entry: dict[str, Any]) -> None:
        """Add the line of a step."""
        self.chain = link(self.chain, entry)
        line = json.dumps(entry | {"chain": self.chain}, allow_nan=False).encode() + b"\n"
        with self.path.open("ab") as file:
            file.write(line)
        self.bytes += len(line)

    def rewind(self, saved: Path) -> None:
        """Take up the lines that a checkpoint saved. Raises UserError where they do not form the chain of this run."""
        chain = self.start
        for entry in read_steps(saved, self.start):
            chain = entry["chain"]
        with replacing(self.path) as temporary:
            shutil.copyfile(saved, temporary)
        self.chain, self.bytes = chain, self.path.stat().st_size
