"""Quality: whether a document is worth learning from. Each filter answers (kept, reason).

Sources of rules and values: Codex (Chen et al., 2021, 3.1); CodeParrot (Tunstall et al., 2022, ch. 10); SantaCoder (Ben
Allal et al., 2023, 4.2); StarCoder (Li et al., 2023, 3); The Stack v2 (Lozhkov et al., 2024, 2.1); DeepSeek-Coder (Guo
et al., 2024, 2.1); OpenCoder (Huang et al., 2024; values as in its filters); Gopher (Rae et al., 2021, A.1.1).
"""

import html
import itertools
import re
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.documents.documents import Document, plain_text
from data_pipeline.text.lexical import COMMENTS
from data_pipeline.text.markup import prose_of
from specs.schema.filters import Filter

Verdict = tuple[bool, str]
"""Kept, and the reason where not."""

PROSE = ("restructuredtext", "markdown", "text", "conversation")
"""Languages written for people: what marks odd code is ordinary in them."""

KEPT: Verdict = (True, "")
_NOT_SHOWN = re.compile(
    r"<!--.*?(?:-->|\Z)|<(script|style)\b.*?(?:</\1\s*>|\Z)|<[a-zA-Z/!?][^>]*>?", re.DOTALL | re.IGNORECASE
)
"""Of a page what nobody reads: comments, scripts, styles, tags. Each alternative takes what is never closed to the end,
so that the time grows with the text alone."""
_NOT_ALPHANUMERIC = re.compile(r"[\W_]+")
_NOT_ALPHABETIC = re.compile(r"[\W\d_]+")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_HIGH_BYTES = bytes(range(128, 256))
_ASCII_NOT_ALPHABETIC = bytes(code for code in range(128) if not chr(code).isalpha())
_ASCII_NOT_ALPHANUMERIC = bytes(code for code in range(128) if not chr(code).isalnum())

# For bytes.translate: letters stay, all that str.split takes for white space becomes a space, the rest goes.
_LETTERS_AND_SPACE = bytes(32 if chr(code).isspace() else code for code in range(128)) + _HIGH_BYTES
_NEITHER = bytes(code for code in range(128) if not chr(code).isalpha() and not chr(code).isspace())

# The expressions of The Stack v2, 2.1, in ASCII, where RE2 and Python agree; white space may follow a comma too.
_ENCODED = (
    r"[a-zA-Z0-9+/\n=]{64,}",
    r"(?:\b(?:0x|\\x)?[0-9a-fA-F]{2}(?:,\s*|\b\s*)){8,}",
    r"(?:\\u[0-9a-fA-F]{4}){8,}",
)
_ENCODED_HERE = [re.compile(pattern, re.ASCII) for pattern in _ENCODED]
_MAY_BE_ENCODED = tuple(pattern.replace(",}", "}") for pattern in _ENCODED)

_STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
_BULLETS = ("- ", "* ", "+ ", "• ", "· ", "‣ ")


def size(document: Document, limits: Filter) -> Verdict:
    """UTF-8 bytes and lines: Codex drops files over 1 MB, The Stack v2 over 100k lines; tiny ones teach nothing.

    For JSON and YAML, 50 to 5,000 characters, as StarCoder and DeepSeek-Coder keep them.
    """
    if document.size < limits.min_bytes:
        return False, "smaller than min_bytes"
    if document.size > limits.max_bytes:
        return False, "larger than max_bytes"
    lines = document.text.count("\n") + 1
    if lines > limits.max_lines:
        return False, "more lines than max_lines"
    for rule in limits.sizes:
        if rule.language == document.language:
            if len(document.text) < rule.min_chars:
                return False, f"{rule.language} shorter than min_chars"
            if rule.max_chars is not None and len(document.text) > rule.max_chars:
                return False, f"{rule.language} longer than max_chars"
            if rule.max_lines is not None and lines > rule.max_lines:
                return False, f"{rule.language} with more lines than max_lines"
    return KEPT


def line_length(document: Document, limits: Filter) -> Verdict:
    """Characters of the longest line, and on average: 1,000 and 100 in Codex, CodeParrot, StarCoder and The Stack v2.

    Code only, and neither HTML nor JSON, which The Stack v2 excepts from both.
    """
    if document.language in (*PROSE, "html", "json"):
        return KEPT
    text = document.text.removesuffix("\n")
    lines = text.split("\n")
    if len(max(lines, key=len)) > limits.max_line_length:
        return False, "longer line than max_line_length"
    characters = len(text) - len(lines) + 1
    return characters <= limits.max_mean_line_length * len(lines), "longer lines than max_mean_line_length"


def alphanumeric(document: Document, limits: Filter) -> Verdict:
    """Share of letters and digits among all characters: CodeParrot and StarCoder ask for 25%; for letters alone in
    code, The Stack v2 and DeepSeek-Coder."""
    text = plain_text(document.language, document.text)
    if _count(text, _ASCII_NOT_ALPHANUMERIC, _NOT_ALPHANUMERIC) < limits.min_alphanumeric * len(text):
        return False, "too few letters and digits"
    if document.language in PROSE:
        return KEPT
    return _count(text, _ASCII_NOT_ALPHABETIC, _NOT_ALPHABETIC) >= limits.min_alphabetic * len(text), "too few letters"


def generated(document: Document, limits: Filter) -> Verdict:
    """No phrase of generated files in the first five lines, as in CodeParrot and The Stack v2; files only.

    `do not edit` stands for what go-enry, which The Stack v2 asks too, takes from such headers. XML under another name
    is data: StarCoder drops what says `<?xml version=` in its first 100 characters.
    """
    if document.language == "conversation":
        return KEPT
    head = "\n".join(document.text[:20_000].split("\n", 5)[:5]).lower()
    if any(marker in head for marker in limits.generated_markers):
        return False, "says that it is generated"
    return "<?xml version=" not in head[:100], "XML under another name"


def comments(document: Document, limits: Filter) -> Verdict:
    """Share of comments among all characters: SantaCoder keeps 1% to 80%.

    Taken from a lexical scan, so that code which no parser here understands is judged too: in Python a string literal
    that begins a line counts as a docstring, hence as a comment. Languages without a scan are kept.
    """
    pattern = COMMENTS.get(document.language)
    if pattern is None:
        return KEPT
    share = sum(len(match[0]) for match in pattern.finditer(document.text) if match.lastgroup)
    share_of_all = share / max(1, len(document.text))
    if share_of_all < limits.min_comment_share:
        return False, "fewer comments than min_comment_share"
    return share_of_all <= limits.max_comment_share, "more comments than max_comment_share"


def repeated(document: Document, limits: Filter) -> Verdict:
    """Lines of code that stand more than once: OpenCoder drops what repeats 70%, and Python of which 40% asserts."""
    if document.language in PROSE:
        return KEPT
    lines = [line for line in map(str.strip, document.text.split("\n")) if line]
    if len(lines) - len(set(lines)) > limits.max_repeated_lines * len(lines):
        return False, "more repeated lines than max_repeated_lines"
    if document.language != "python" or "assert" not in document.text:
        return KEPT
    asserts = sum(line.startswith(("assert ", "assert(", "self.assert")) for line in lines)
    return asserts <= limits.max_assert_lines * len(lines), "more assertions than max_assert_lines"


def markup(document: Document, limits: Filter) -> Verdict:
    """HTML that shows something: StarCoder asks for 100 characters of visible text, and 20% of the file."""
    if document.language != "html":
        return KEPT
    visible = len(visible_text(document.text))
    return visible >= max(100, 0.2 * len(document.text)), "too little visible text"


def visible_text(page: str) -> str:
    """What a page of HTML shows, white space folded."""
    return " ".join(html.unescape(_NOT_SHOWN.sub("", page)).split())


def prose(document: Document, limits: Filter) -> Verdict:
    """Gopher's rules, for files in natural language; words are what stands between white space, without markup and code
    but for their number."""
    rules = limits.prose
    if rules is None or document.language not in PROSE or document.language == "conversation":
        return KEPT
    if not rules.min_words <= len(document.text.split()) <= rules.max_words:
        return False, "words outside min_words to max_words"
    text = prose_of(document.language, document.text)
    words = text.split()
    if not rules.min_mean_word_length <= sum(map(len, words)) / max(1, len(words)) <= rules.max_mean_word_length:
        return False, "mean word length outside its range"
    ellipses = text.count("...") + text.count("…")
    if max(text.count("#"), ellipses) > rules.max_symbols_per_word * len(words):
        return False, "more hashes or ellipses than max_symbols_per_word"
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    if sum(line.startswith(_BULLETS) for line in lines) > rules.max_bullet_lines * len(lines):
        return False, "more bullets than max_bullet_lines"
    if ellipses and sum(line.endswith(("...", "…")) for line in lines) > rules.max_ellipsis_lines * len(lines):
        return False, "more lines cut short than max_ellipsis_lines"
    if _with_letters(text, words) < rules.min_alphabetic_words * len(words):
        return False, "fewer words with letters than min_alphabetic_words"
    distinct: set[str] = set()
    for word in map(str.lower, words):
        if len(distinct) >= rules.min_stop_words:
            break
        distinct.update(_STOP_WORDS.intersection((word,)))
    return len(distinct) >= rules.min_stop_words, "fewer stop words than min_stop_words"


def encoded(document: Document, limits: Filter, may_be: Sequence[bool] = (True, True, True)) -> Verdict:
    """No encoded data (base64, hexadecimal, escapes) of more than 1,024 characters in one piece, or more than half of
    the file: The Stack v2. Code only: hashes in prose are few.

    `may_be` says of each of the three whether there may be any; see `may_be_encoded`.
    """
    if document.language in PROSE:
        return KEPT
    total = 0
    for pattern in itertools.compress(_ENCODED_HERE, may_be):
        for match in pattern.finditer(document.text):
            if len(match[0]) > limits.max_encoded_run:
                return False, "longer encoded data than max_encoded_run"
            total += len(match[0])
    return total <= limits.max_encoded_share * len(document.text), "more encoded data than max_encoded_share"


def may_be_encoded(texts: Sequence[str]) -> list[tuple[bool, ...]]:
    """For each text what `encoded` can find of each kind: fast, and never wrong about what it cannot find."""
    array = pa.array(texts, pa.large_string())
    found = [(False,) * len(_MAY_BE_ENCODED)] * len(texts)
    places = np.flatnonzero(pc.match_substring_regex(array, pattern="|".join(_MAY_BE_ENCODED)))
    chosen = array.take(pa.array(places))
    kinds = (pc.match_substring_regex(chosen, pattern=pattern).to_pylist() for pattern in _MAY_BE_ENCODED)
    for place, kind in zip(places.tolist(), zip(*kinds, strict=True), strict=True):
        found[place] = kind
    return found


QUALITY: tuple[Callable[[Document, Filter], Verdict], ...] = (
    *(size, line_length, alphanumeric, generated, comments, repeated, markup, prose),
)
"""In the order in which they are asked; `encoded` comes last, of those documents where it may find something."""


def ascii_letters(text: str) -> int:
    """Letters of ASCII in a text."""
    return len(text.encode().translate(None, _ASCII_NOT_ALPHABETIC + _HIGH_BYTES))


def _count(text: str, ascii_others: bytes, others: re.Pattern[str]) -> int:
    """Characters of a text that are none of the others."""
    counted = len(text.encode().translate(None, ascii_others + _HIGH_BYTES))
    if not text.isascii():
        counted += len(others.sub("", "".join(_NOT_ASCII.findall(text))))
    return counted


def _with_letters(text: str, words: Sequence[str]) -> int:
    """How many of a text's words hold a letter."""
    if text.isascii():
        # The same number, several times as fast: of the others nothing is left.
        return len(text.encode().translate(_LETTERS_AND_SPACE, _NEITHER).split())
    others = [word for word in words if not word.isalpha()]
    return len(words) - len(others) + sum(any(map(str.isalpha, word)) for word in others)
