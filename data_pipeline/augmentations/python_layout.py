"""Layout transforms of Python source: the syntax tree stays equal, positions aside, and that is checked."""

import io
import random
import re
import tokenize
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from data_pipeline.augmentations.rename_locals import rename_locals
from data_pipeline.text.lexical import LITERALS
from data_pipeline.text.python_syntax import equal, parse

Transform = Callable[[str, random.Random], str | None]
"""Takes a text and a source of random numbers; answers the new text, or none where it cannot be proven."""

_ONE_LINE = re.compile(r"""\"([^"'\\]*)\"|'([^"'\\]*)'""")
_FORMATTED = ("f", "fr", "rf", "t", "tr", "rt")
_BLANK_ADDED = 0.05
_COMMENTS_DROPPED = 0.5
_DIRECTIVE = re.compile(
    r"\s*#\s*(?:type:|noqa|pylint:|pragma|mypy:|ruff:|fmt:|isort:|flake8|cython:|-\*-|!|SPDX-|Copyright)", re.IGNORECASE
)
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
    pieces: list[str] = []
    end = 0
    for literal in LITERALS["python"].finditer(text):
        match = _ONE_LINE.fullmatch(literal[0])
        if match is None or not _may_be_swapped(text, literal.start()):
            continue
        double, single = match.groups()
        swapped = f"'{double}'" if double is not None else f'"{single}"'
        pieces += text[end : literal.start()], swapped
        end = literal.end()
    return "".join([*pieces, text[end:]])


def _may_be_swapped(text: str, start: int) -> bool:
    """Whether what stands before a string is no prefix of a formatted one."""
    first = start
    while first and (text[first - 1].isalnum() or text[first - 1] == "_"):
        first -= 1
    return text[first:start].lower() not in _FORMATTED


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
        if tree is None:
            return None
        try:
            result = transform(text, rng)
        except (tokenize.TokenError, SyntaxError):
            return None
        after = parse(result)
        return result if after is not None and equal(tree, after) else None

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
