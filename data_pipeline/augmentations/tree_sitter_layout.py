"""Layout transforms of other languages than Python: every token stays, as the parsers of tree-sitter see them."""

import functools
import random
import re
from collections.abc import Callable, Iterator, Mapping

from tree_sitter import Node

from data_pipeline.text.parsers import GRAMMARS, tree

Transform = Callable[[str, random.Random], str | None]
"""Takes a text and a source of random numbers; answers the new text, or none where it cannot be proven."""

LANGUAGES = tuple(GRAMMARS)
_BLANK_ADDED = 0.05
_MARGIN = re.compile(r"[ \t]*")


def indent(text: str, fixed: frozenset[int], rng: random.Random) -> str:
    """Indent with another unit: two spaces, four, or a tab; what is left over of a margin stays as it is."""
    lines = text.split("\n")
    margins = {row: _margin(line) for row, line in enumerate(lines) if row not in fixed and line.strip()}
    old = next((margin for margin in margins.values() if margin), "    ")
    old = "\t" if old.startswith("\t") else old[: 2 if len(old) % 4 else 4]
    units = [unit for unit in ("  ", "    ", "\t") if unit != old]
    new = units[int(rng.random() * len(units))]
    for row, margin in margins.items():
        depth = 0
        while margin.startswith(old, depth * len(old)):
            depth += 1
        lines[row] = new * depth + lines[row][depth * len(old) :]
    return "\n".join(lines)


def blank_lines(text: str, fixed: frozenset[int], rng: random.Random) -> str:
    """Make runs of blank lines one longer or one shorter, and add a few where there are none."""
    lines = text.split("\n")
    end = max((row for row, line in enumerate(lines) if line.strip()), default=-1)
    result: list[str] = []
    for row, line in enumerate(lines):
        # A line that ends in a backslash goes on in the next one.
        free = 0 < row <= end and row not in fixed and not lines[row - 1].endswith("\\")
        chance = rng.random() if free else 1.0
        first_blank = not line.strip() and bool(lines[row - 1].strip())
        if free and first_blank and chance < 1 / 3:
            continue
        result.append(line)
        if free and ((first_blank and chance < 2 / 3) or (line.strip() and chance < _BLANK_ADDED and row < end)):
            result.append("")
    return "\n".join(result)


def transforms(language: str) -> Mapping[str, Transform]:
    """Transforms of a language, by the name of their share in the spec; none for languages without a grammar here."""
    if language not in GRAMMARS:
        return {}
    return {
        "indent": functools.partial(_proven, language, indent),
        "blank_lines": functools.partial(_proven, language, blank_lines),
    }


def _proven(
    language: str, transform: Callable[[str, frozenset[int], random.Random], str], text: str, rng: random.Random
) -> str | None:
    before = _leaves(language, text)
    if before is None:
        return None
    fixed = frozenset(row for first, last, _ in before for row in range(first + 1, last + 1))
    result = transform(text, fixed, rng)
    after = _leaves(language, result)
    same = after is not None and [token for *_, token in after] == [token for *_, token in before]
    return result if same else None


def _leaves(language: str, text: str) -> list[tuple[int, int, tuple[str, bytes]]] | None:
    """First row, last row, kind and text of every token, line ends aside; none where the text does not parse."""
    root = tree(language, text).root_node
    if root.has_error:
        return None
    leaves = []
    for node in _walk(root):
        if node.child_count == 0 and (token := node.text or b"").strip():
            leaves.append((node.start_point[0], node.end_point[0], (node.type, token.rstrip(b"\r\n"))))
    return leaves


def _walk(root: Node) -> Iterator[Node]:
    # With a cursor: a deep tree must not use up the stack.
    cursor, down = root.walk(), True
    while True:
        if down and cursor.node is not None:
            yield cursor.node
        if down and cursor.goto_first_child():
            continue
        if cursor.goto_next_sibling():
            down = True
        elif cursor.goto_parent():
            down = False
        else:
            return


def _margin(line: str) -> str:
    match = _MARGIN.match(line)
    return match[0] if match else ""
