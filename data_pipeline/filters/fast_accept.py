"""Glances: proofs that a rule keeps a document, for a small part of what asking the rule costs.

Most documents are far from every limit, and a bound of what a rule counts, taken from a part of the text, shows it. A
glance answers whether its rule is **certain** to keep the document; where it does not know, the rule has to be asked.
"""

import math
import re
from collections.abc import Callable, Mapping

from data_pipeline.documents.documents import Document
from data_pipeline.filters import quality
from data_pipeline.filters.quality import PROSE, Verdict
from specs.schema.filters import Filter

# What comments, docstrings and other strings begin with is a plain character of each alternative: so the search for
# the next of them is a scan for a few characters, many times as fast as the patterns of `quality`.
_PYTHON = re.compile(
    r"""\#[^\n]*|\"\"\"(?>[^"\\]+|\\.|"(?!""))*+\"{3}|'''(?>[^'\\]+|\\.|'(?!''))*+'{3}|"(?>[^"\\\n]+|\\.)*+"|'(?>[^'\\\n]+|\\.)*+'""",
    re.DOTALL,
)
_C = re.compile(
    r"""//[^\n]*|/\*(?>[^*]+|\*(?!/))*+\*/|"(?>[^"\\\n]+|\\.)*+"|'(?>[^'\\\n]+|\\.)*+'|`(?>[^`\\]+|\\.)*+`""", re.DOTALL
)
_TOKENS = {
    language: _PYTHON if language in quality.PYTHON else _C for language in (*quality.PYTHON, *quality.COMMENTED_AS_C)
}
_BEFORE_DOCSTRING = re.compile(r"[ \t]*[rRuU]?")
_TRIPLE = ('"""', "'''")


def size(document: Document, lines: int, limits: Filter) -> bool:
    """A character is one to four bytes."""
    characters = len(document.text)
    return (
        limits.min_bytes <= characters
        and 4 * characters <= limits.max_bytes
        and lines <= limits.max_lines
        and all(rule.language != document.language for rule in limits.sizes)
    )


def line_length(document: Document, lines: int, limits: Filter) -> bool:
    """From one line's end to the last one that is near enough, and so on to the end of the text."""
    text, longest = document.text, limits.max_line_length
    if len(text) - lines + 1 > limits.max_mean_line_length * (lines - 1):
        return False
    place = 0
    while place + longest < len(text):
        place = text.rfind("\n", place, place + longest + 1) + 1
        if not place:
            return False
    return True


def alphanumeric(document: Document, lines: int, limits: Filter) -> bool:
    """The letters of ASCII in one half are enough for the whole."""
    if document.language == "conversation":
        return False
    text = document.text
    letters = quality.ascii_letters(text[: len(text) // 2 + 1])
    return letters >= max(limits.min_alphanumeric, limits.min_alphabetic) * len(text)


def comments(document: Document, lines: int, limits: Filter) -> bool:
    """The text from its start, until there is as much code, and as many comments, as the whole has to have."""
    pattern = _TOKENS.get(document.language)
    if pattern is None:
        return True
    text = document.text
    code = math.ceil((1 - limits.max_comment_share) * len(text)) + 1
    commented = math.ceil(limits.min_comment_share * len(text)) + 1 if limits.min_comment_share else 0
    found = 0
    for match in pattern.finditer(text):
        start, stop = match.span()
        if text[start] in "#/":
            found += stop - start
        elif stop - start > 5 and text.startswith(_TRIPLE, start):
            line = text.rfind("\n", 0, start) + 1
            if _BEFORE_DOCSTRING.fullmatch(text, line, start):
                found += stop - line
        # Only now: the indentation of a docstring counts as comment too.
        if stop - found >= code and found >= commented:
            return True
    return len(text) - found >= code and found >= commented


def repeated(document: Document, lines: int, limits: Filter) -> bool:
    """The lines that differ in one half are enough for the whole, were all others repetitions."""
    if document.language in PROSE:
        return True
    text = document.text
    # The last one may be a part of a line.
    distinct = {*map(str.strip, text[: len(text) // 2].split("\n")[:-1])} - {""}
    if lines - len(distinct) + 1 > limits.max_repeated_lines * lines:
        return False
    return document.language != "python" or text.count("assert") + 1 <= limits.max_assert_lines * len(distinct)


GLANCES: Mapping[Callable[[Document, Filter], Verdict], Callable[[Document, int, Filter], bool]] = {
    quality.size: size,
    quality.line_length: line_length,
    quality.alphanumeric: alphanumeric,
    quality.comments: comments,
    quality.repeated: repeated,
}
"""For a rule, what proves that it keeps a document, given how many lines `split("\\n")` makes of its text."""
