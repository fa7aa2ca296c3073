"""Fast acceptance: proofs that a rule keeps a document, for a small part of what the rule costs.

Most documents are far from every limit, and a bound of what a rule counts, taken from a part of the text, shows it. A
proof says whether its rule is **certain** to keep the document; where it does not know, the rule itself decides.
"""

import math
import re
from collections.abc import Callable, Mapping

from data_pipeline.documents.documents import Document
from data_pipeline.filters import quality
from data_pipeline.filters.quality import PROSE, Verdict
from data_pipeline.text.lexical import LITERALS
from specs.schema.filters import Filter

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
    pattern = LITERALS.get(document.language)
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


FAST_ACCEPT: Mapping[Callable[[Document, Filter], Verdict], Callable[[Document, int, Filter], bool]] = {
    quality.size: size,
    quality.line_length: line_length,
    quality.alphanumeric: alphanumeric,
    quality.comments: comments,
    quality.repeated: repeated,
}
"""By rule: what proves that the rule keeps a document, given how many lines `split("\\n")` makes of its text."""
