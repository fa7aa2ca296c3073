"""JSON Lines: one reader for files of records and for journals that a kill may have cut short."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from specs.common.errors import UserError

_BLOCK = 65_536


def parse_json(text: bytes | str) -> Any:
    """A value from JSON. Raises ValueError for whatever is none: also bytes that are no UTF-8, and nesting too deep."""
    try:
        # Decoded here: of bytes json guesses an encoding, for each line anew.
        return json.loads(text.decode() if isinstance(text, bytes) else text)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def parse_lines(
    lines: Iterable[bytes], name: str, remedy: str, *, skip_blank: bool = False
) -> Iterator[tuple[int, Any]]:
    """Values with the numbers of their lines, from 1. Lines end at newlines alone.

    `skip_blank`: lines without any text are left out, as in files that people write. Raises UserError `name:line: ...;
    remedy` at the first line that is not JSON.
    """
    for number, line in enumerate(lines, 1):
        if skip_blank and not line.strip():
            continue
        try:
            value = parse_json(line)
        except ValueError as error:
            raise UserError(f"{name}:{number}: not valid JSON ({error}); {remedy}") from error
        yield number, value


def read_lines(
    path: Path, remedy: str, *, skip_blank: bool = False, cut_short: bool = False
) -> Iterator[tuple[int, Any]]:
    """Values of a file, as `parse_lines` yields them, one after another: the file is never held whole.

    `cut_short`: a last line without its end, as a kill leaves it, is left out. Raises UserError also where the file
    cannot be read.
    """
    try:
        with path.open("rb") as file:
            lines = (line for line in file if line.endswith(b"\n")) if cut_short else file
            yield from parse_lines(lines, str(path), remedy, skip_blank=skip_blank)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error


def last_line(path: Path) -> bytes | None:
    """The last line that has its end, without it, read from the end of a file; none where there is none.

    What it takes does not depend on the length of the file. Raises OSError where it cannot be read.
    """
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        tail = b""
        while end and tail.count(b"\n") < 2:
            begin = max(0, end - _BLOCK)
            file.seek(begin)
            tail = file.read(end - begin) + tail
            end = begin
    whole = tail.rpartition(b"\n")[0]
    return whole.rpartition(b"\n")[2] if b"\n" in tail else None
