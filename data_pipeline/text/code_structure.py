"""The structure of code: what stays of a program when its names, layout, comments and quotes are changed.

Text becomes tokens in one lexical scan, which any text survives. Two runs of tokens are equal where keywords, built-in
names, attributes, operators and the values of literals agree, and all other names correspond one to one. Literals keep
their values because renaming leaves them alone, and because tables of literals would otherwise all look the same.
"""

import builtins
import keyword
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest

_TOKEN = re.compile(
    # Most tokens are names and brackets: they come first, and the white space before a token is passed over at once. A
    # name before a quote may be the prefix of a string.
    r"""\s*+(
      [^\W\d]\w*+(?!["']) | [()\]\[,{}] | :(?!=) | =(?!=) | \.[\ \t]*[^\W\d]\w* | \#[^\n]*
    | [rRbBuUfF]{0,2}(?:\"{3}(?>[^"\\]+|\\.|"(?!""))*+\"{3} | '{3}(?>[^'\\]+|\\.|'(?!''))*+'{3}
        | "(?>[^"\\\n]+|\\.)*+" | '(?>[^'\\\n]+|\\.)*+')
    | [^\W\d]\w* | \d[\w.]*
    | \*\*=? | //=? | <<=? | >>=? | -> | := | [-+*/%&|^=!<>@]= | [^\s\w])""",
    re.DOTALL | re.VERBOSE,
)
_KNOWN = frozenset(keyword.kwlist) | frozenset(dir(builtins))
_STATEMENTS = frozenset(keyword.kwlist) - {"None", "True", "False"}
_NAME = "a"
# Private characters: what no pattern holds, what is dropped, and what marks another.
_UNKNOWN, _START, _COMMENT, _OPEN, _CLOSE, _TRIPLE = map(chr, range(0xE000, 0xE006))
_DROPPED = (_START, _COMMENT, _OPEN, _CLOSE, _TRIPLE)
_OF_LAYOUT = {"#": _COMMENT, "(": _OPEN, ")": _CLOSE}
_SPELLINGS = 200_000
"""Spellings of tokens that are kept in mind."""
_FIRST_CODE = 0x4E00
"""Code points from here on stand for what patterns hold; there is room for 20,000 without a surrogate."""

LEAST = 16
"""Tokens that a pattern must have: shorter functions are written alike by people who never saw each other."""


def tokens(text: str) -> list[str]:
    """Tokens of a text without comments, docstrings (strings of triple quotes after a colon) and what is layout.

    That is: round brackets, because many are a matter of taste, as in `return (a, b)`, and the last comma of a list.
    """
    raw = _TOKEN.findall(text)
    return [raw[number] for number in _telling(raw)]


def _telling(raw: Sequence[str]) -> Iterator[int]:
    """The numbers of the tokens that `tokens` keeps."""
    before = ":"
    for number, (token, after) in enumerate(zip_longest(raw, raw[1:], fillvalue="")):
        docstring = before == ":" and token[-3:] in ('"""', "'''")
        if token[0] not in "#()" and not docstring and not (token == "," and after in (")", "]", "}")):
            yield number
        before = token


@dataclass(frozen=True)
class Place:
    """Where a text repeats a pattern."""

    pattern: int
    """Ordinal of the pattern, in the order in which they were given."""
    matched: str
    """The tokens as this text has them."""
    line: int
    """The line on which they begin; counts from 1."""


class Patterns:
    """Programs whose structure is looked for: runs of `length` tokens, or the whole of a shorter program."""

    def __init__(self, programs: Sequence[str], length: int) -> None:
        self._length = length
        self._codes = _Codes()
        self._tokens = [tokens(program) for program in programs]
        self._coded = ["".join(map(self._codes.add, found)) for found in self._tokens]
        # A run of at least LEAST tokens covers a whole cell of a grid with cells of half that length.
        self._cell = LEAST // 2
        self._by_cell: dict[str, list[tuple[int, int]]] = {}
        for number, coded in enumerate(self._coded):
            if len(coded) >= LEAST:
                for start in range(len(coded) - self._cell + 1):
                    self._by_cell.setdefault(coded[start : start + self._cell], []).append((number, start))

    def find(self, text: str) -> Place | None:
        """The first place where a text repeats a pattern; none where it repeats none."""
        if not self._by_cell:
            return None
        coded = self._codes.of(_TOKEN.findall(text))
        found: list[str] = []
        cell, by_cell = self._cell, self._by_cell
        for start in range(0, len(coded) - cell + 1, cell):
            for number, offset in by_cell.get(coded[start : start + cell], ()):
                back, ahead = self._extent(coded, start, number, offset)
                if back + ahead < self._needed(number):
                    continue
                # Only here: most texts repeat nothing.
                found = found or tokens(text)
                if (first := self._repeats(found, start, number, offset, back, ahead)) is not None:
                    matched = " ".join(found[first : first + self._needed(number)])
                    return Place(number, matched, _line(text, first))
        return None

    def _needed(self, number: int) -> int:
        return min(self._length, len(self._coded[number]))

    def _extent(self, coded: str, start: int, number: int, offset: int) -> tuple[int, int]:
        """How far the run around two equal cells reaches back from where they begin, and ahead."""
        pattern, needed = self._coded[number], self._needed(number)
        # No further than a window can reach, so that long equal runs do not cost more.
        back = 0
        limit = min(start, offset, needed)
        while back < limit and coded[start - back - 1] == pattern[offset - back - 1]:
            back += 1
        ahead = self._cell
        limit = min(len(coded) - start, len(pattern) - offset, needed)
        while ahead < limit and coded[start + ahead] == pattern[offset + ahead]:
            ahead += 1
        return back, ahead

    def _repeats(self, found: list[str], start: int, number: int, offset: int, back: int, ahead: int) -> int | None:
        """First token of a run of the length that is needed, in which names correspond."""
        needed = self._needed(number)
        for shift in range(-back, ahead - needed + 1):
            theirs = self._tokens[number][offset + shift : offset + shift + needed]
            # A run without any statement, loop or condition is a table.
            if not _STATEMENTS.isdisjoint(theirs) and self._correspond(
                found[start + shift : start + shift + needed], theirs
            ):
                return start + shift
        return None

    def _correspond(self, ours: list[str], theirs: list[str]) -> bool:
        forth: dict[str, str] = {}
        back: dict[str, str] = {}
        return all(
            forth.setdefault(one, other) == other and back.setdefault(other, one) == one
            for one, other in zip(ours, theirs, strict=True)
            if _key(one) == _NAME
        )


class _Codes(dict[str, str]):
    """A character for what each token says, by the token as it is written."""

    def __init__(self) -> None:
        super().__init__()
        # What layout is told by has a character of its own, whatever the patterns hold.
        self._of_keys = {key: chr(_FIRST_CODE + number) for number, key in enumerate((",", "]", "}", ":"))}

    def add(self, token: str) -> str:
        """The character of a token of a pattern: every one of them has one."""
        self.clear()
        return self._of_keys.setdefault(_key(token), chr(_FIRST_CODE + len(self._of_keys)))

    def of(self, raw: Sequence[str]) -> str:
        """The characters of those of the tokens that `tokens` keeps."""
        comma, square, curly, colon = (self._of_keys[key] for key in (",", "]", "}", ":"))
        coded = _START + "".join(map(self.__getitem__, raw))
        for closing in (_CLOSE, square, curly):
            # The last comma of a list.
            coded = coded.replace(comma + closing, closing)
        if _TRIPLE in coded:
            coded = re.sub(f"(?<=[{_START}{colon}]){_TRIPLE}.", "", coded, flags=re.DOTALL)
        for dropped in _DROPPED:
            coded = coded.replace(dropped, "")
        return coded

    def __missing__(self, token: str) -> str:
        if len(self) > _SPELLINGS:
            self.clear()
        code = _OF_LAYOUT.get(token[0]) or self._of_keys.get(_key(token), _UNKNOWN)
        self[token] = code = _TRIPLE + code if token[-3:] in ('"""', "'''") else code
        return code


def _line(text: str, ordinal: int) -> int:
    matches = list(_TOKEN.finditer(text))
    number = next(islice(_telling([match[1] for match in matches]), ordinal, None))
    return text.count("\n", 0, matches[number].start(1)) + 1


def _key(token: str) -> str:
    """What a token says apart from its spelling; the same for every name that is neither built in nor a keyword."""
    first, last = token[0], token[-1]
    if last in "\"'" and len(token) > 1:
        return '"' + token.lstrip("rRbBuUfF").strip("\"'")
    if first == "_" or first.isalpha():
        return token if token in _KNOWN else _NAME
    return "." + token[1:].lstrip() if first == "." and len(token) > 1 else token
