"""Layout transforms of Python source: the syntax tree stays equal, positions aside, and that is checked."""

import io
import random
import re
import tokenize
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from data_pipeline.augmentations.rename_locals import rename_locals
from data_pipeline.text.python_syntax import dump, parse

Transform = Callable[[str, random.Random], str | None]
"""Takes a text and a source of random numbers; answers the new text, or none where it cannot be proven."""

_ONE_LINE = re.compile(r"""([rRbBuU]{0,2})(?:"([^"'\\]*)"|'([^"'\\]*)')""")
_BLANK_ADDED = 0.05
_COMMENTS_DROPPED = 0.5
_DIRECTIVE = re.compile(
    r"\s*#\s*(?:type:|noqa|pylint:|pragma|mypy:|ruff:|fmt:|isort:|flake8|cython:|-\*-|!|SPDX-|Copyright)", re.IGNORECASE
)
# From Python 3.12 on a formatted string is several tokens, and strings inside it must not look like its end.
_FORMAT_DEPTH = {"FSTRING_START": 1, "FSTRING_END": -1}
_NO_CODE = {tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER, tokenize.ENCODING}


@dataclass(frozen=True)
class Line:
    """A logical line: rows count from 0, and indentation is as written."""

    first: int
    last: int
    depth: int
    indentation: str
    fixed: frozenset[int]
    """Rows that begin inside a string."""


def quotes(text: str, rng: random.Random) -> str:
    """Swap single and double quotes of one-line strings that hold neither kind, nor a backslash."""
    lines = text.split("\n")
    depth = 0
    edits: dict[int, list[tuple[int, int, str]]] = {}
    for token in _tokens(text):
        depth += _FORMAT_DEPTH.get(tokenize.tok_name[token.type], 0)
        match = _ONE_LINE.fullmatch(token.string) if token.type == tokenize.STRING and not depth else None
        if match is not None:
            prefix, double, single = match.groups()
            swapped = f"{prefix}'{double}'" if double is not None else f'{prefix}"{single}"'
            edits.setdefault(token.start[0] - 1, []).append((token.start[1], token.end[1], swapped))
    for row, changes in edits.items():
        for first, last, swapped in reversed(changes):
            lines[row] = lines[row][:first] + swapped + lines[row][last:]
    return "\n".join(lines)


def indent(text: str, rng: random.Random) -> str:
    """Indent blocks with another unit: two spaces, four, or a tab; continuation lines keep their distance."""
    lines = text.split("\n")
    logical = list(_logical_lines(text))
    old_unit = next((line.indentation for line in logical if line.depth == 1), "    ")
    units = [unit for unit in ("  ", "    ", "\t") if unit != old_unit]
    unit = units[int(rng.random() * len(units))]
    result = list(lines)
    next_row = 0
    known: dict[str, str] = {}
    for line in logical:
        outer = {old: new for old, new in known.items() if len(old) <= len(line.indentation)}
        deeper, known = known, outer | {line.indentation: unit * line.depth}
        # Comments above may belong to this block, or still to the one before.
        for row in range(next_row, line.first):
            result[row] = _moved(lines[row], deeper | known)
        old, new = line.indentation, unit * line.depth
        for row in range(line.first, line.last + 1):
            if row not in line.fixed and lines[row].startswith(old):
                result[row] = new + lines[row][len(old) :]
        next_row = line.last + 1
    return "\n".join(result)


def blank_lines(text: str, rng: random.Random) -> str:
    """Make runs of blank lines between statements one longer or one shorter, and add a few where there are none."""
    lines = text.split("\n")
    inside = {row for line in _logical_lines(text) for row in range(line.first + 1, line.last + 1)}
    end = max((row for row, line in enumerate(lines) if line.strip()), default=-1)
    result: list[str] = []
    row = 0
    while row <= end:
        run = row
        while row not in inside and not lines[row].strip():
            row += 1
        blank = lines[run:row]
        chance = rng.random()
        if blank and chance < 1 / 3:
            blank = blank[1:]
        elif (blank and chance < 2 / 3) or (not blank and row and row not in inside and chance < _BLANK_ADDED):
            blank = [*blank, ""]
        result += [*blank, lines[row]]
        row += 1
    return "\n".join(result + lines[end + 1 :])


def comments(text: str, rng: random.Random) -> str:
    """Leave out about half of the comments that stand on lines of their own, runs of them as a whole.

    Those stay that tools or lawyers read: the first comment of a file, and what looks like a directive (`# type:`,
    `# noqa`, `# pylint:`, `# -*- coding`).
    """
    lines = text.split("\n")
    alone = {
        token.start[0] - 1
        for token in _tokens(text)
        if token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip()
    }
    header = next((row for row, line in enumerate(lines) if row not in alone), len(lines))
    result: list[str] = []
    dropped = False
    for row, line in enumerate(lines):
        if row in alone and row >= header:
            if row - 1 not in alone:
                dropped = rng.random() < _COMMENTS_DROPPED
            if dropped and not _DIRECTIVE.match(line):
                continue
        result.append(line)
    return "\n".join(result)


def proven(transform: Callable[[str, random.Random], str]) -> Transform:
    """The transform, refusing where source does not parse or the syntax tree would change."""

    def checked(text: str, rng: random.Random) -> str | None:
        tree = parse(text)
        if tree is None or (before := dump(tree)) is None:
            return None
        try:
            result = transform(text, rng)
        except (tokenize.TokenError, SyntaxError):
            return None
        after = parse(result)
        return result if after is not None and dump(after) == before else None

    return checked


TRANSFORMS: Mapping[str, Transform] = {
    "rename_locals": rename_locals,
    "quotes": proven(quotes),
    "indent": proven(indent),
    "blank_lines": proven(blank_lines),
    "comments": proven(comments),
}
"""By the name of the share in the spec, in the order in which they are applied."""


def _tokens(text: str) -> Iterator[tokenize.TokenInfo]:
    return tokenize.generate_tokens(io.StringIO(text).readline)


def _logical_lines(text: str) -> Iterator[Line]:
    depth = 0
    indentation = [""]
    first: int | None = None
    fixed: set[int] = set()
    for token in _tokens(text):
        row, last_row = token.start[0] - 1, token.end[0] - 1
        if token.type == tokenize.INDENT:
            depth += 1
            indentation.append(token.string)
        elif token.type == tokenize.DEDENT:
            depth -= 1
            indentation.pop()
        elif token.type == tokenize.NEWLINE and first is not None:
            yield Line(first, row, depth, indentation[-1], frozenset(fixed))
            first, fixed = None, set()
        elif token.type not in _NO_CODE:
            first = row if first is None else first
            # Only strings, or the text inside formatted ones, reach over rows.
            fixed.update(range(row + 1, last_row + 1))


def _moved(line: str, known: Mapping[str, str]) -> str:
    content = line.lstrip(" \t")
    old = line[: len(line) - len(content)]
    return known[old] + content if content and old in known else line
