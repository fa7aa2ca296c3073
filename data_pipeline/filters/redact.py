"""Redaction: secrets, e-mail addresses and public network addresses give way to fixed replacements, and are counted.

Replacements as in StarCoder (Li et al., 2023, 4): `<KEY>` and `<EMAIL>`; network addresses become ones that nobody
owns, those reserved for documentation (RFC 5737, RFC 3849). A program that parsed before parses after: a replacement
that would break it is left out, and counted.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.documents.documents import Document, Message, parse_conversation, render_conversation
from data_pipeline.filters import personal_data, secrets
from data_pipeline.text.lexical import LITERALS
from data_pipeline.text.parsers import parses
from specs.schema.filters import Redact

KEY, EMAIL = "<KEY>", "<EMAIL>"
IPV4, IPV6 = "192.0.2.1", "2001:db8::1"
BROKEN = "left alone, because the program would not parse"
"""Under which name replacements are counted that were left out."""


def loosened(pattern: str) -> str:
    """A pattern of which every match of `pattern` holds a match, for RE2: repeated 8 times or more where 8 or more are
    needed, else as often as needed or more, because RE2 unrolls what is counted."""
    return re.sub(r"\{(\d+)(?:,\d*)?\}", lambda match: f"{{{min(int(match[1]), 8)},}}", pattern)


# What a line holds where something is found in it, for RE2, which is many times as fast as Python's; loose. Three
# searches, because RE2 is slow once it has too many states. Python's digits are not only those of ASCII.
_MORE = r"\x{80}-\x{10ffff}"
_TOKEN = (
    rf"PRIVATE KEY|AKC[a-zA-Z0-9]|AP[0-9A-F{_MORE}][a-zA-Z0-9]{{8}}|A(?:3T[A-Z0-9]|[BCKS][CI]A)[0-9A-Z]{{16}}|"
    r"(?i:aws[^\n]*[\"'][0-9a-z/+]{40}[\"'])|AccountKey=|"
    r"(?i:cl(?:ou|oudant)?[_-]?(?:api)?(?:key|pw|pass|token)|cloudant\.com)|"
    r"gh[opusr]_[A-Za-z0-9]|gl[a-z]{2,6}-[A-Za-z0-9_-]{20}|GR1348941|eyJ[A-Za-z0-9_=-]+\.|-us[0-9]|:_authToken|"
    r"T3BlbkFJ|pypi-AgE|SG\.[a-zA-Z0-9_-]{22}|(?i:xox[abposr]-|hooks\.slack\.com)|"
    r"(?i:sl[_-]?(?:api)?[_-]?(?:key|pwd|pass|token)|softlayer)|sq0csp-|k_live_|"
    rf"[0-9{_MORE}]{{8}}:[0-9A-Za-z_-]{{8}}|(?:AC|SK)[a-z0-9]{{32}}|"
    rf"\.[a-zA-Z0-9_{_MORE}-]{{6}}\.[a-zA-Z0-9_{_MORE}-]{{27}}|{loosened(secrets.TOKENS)}"
)
_ASSIGNED = rf"://[^\s/@\"'<>]*:[^\s/@\"'<>]*@|{loosened(secrets.ASSIGNED)}"
_PERSONAL = (
    r"(?:[A-Za-z0-9_%+.-]|[^\x00-\x7f])@[A-Za-z0-9][A-Za-z0-9-]*\.[A-Za-z0-9]|"
    r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]|[23][0-9a-fA-F]{3}:[0-9a-fA-F]{0,4}:"
)
_FORMATTED = re.compile(r"(?<![A-Za-z0-9_])(?:[fFtT][rR]?|[rR][fFtT])[\"']")
_PLAIN = re.compile(r"[^\"'\\\n]*")
_PARSES = 40
"""How often a program is parsed at most, to learn which of its replacements break it; a further one is left out."""


@dataclass(frozen=True)
class Suspicion:
    """Where a text may hold what is redacted: begins of lines, ascending; in other lines there is none."""

    secrets: tuple[int, ...] = ()
    personal: tuple[int, ...] = ()
    """E-mail or network addresses."""
    private_key: bool = False


NOTHING = Suspicion()


@dataclass(frozen=True, order=True)
class Replacement:
    """What takes the place of a part of a text."""

    start: int
    stop: int
    kind: str
    """`secrets`, `emails` or `addresses`."""
    new: str
    counted: int = 1
    """Of a private key, whose lines give way one by one, only the first counts."""


def suspicions(texts: Sequence[str]) -> list[Suspicion]:
    """Where each of many texts may hold what is redacted, much faster than looking for it in one after the other."""
    array = pa.array(texts, pa.large_string())
    tokens, assigned, personal = (_lines(array, texts, pattern) for pattern in (_TOKEN, _ASSIGNED, _PERSONAL))
    result = [NOTHING] * len(texts)
    for number in sorted(tokens.keys() | assigned.keys() | personal.keys()):
        starts = tuple(sorted({*tokens.get(number, ()), *assigned.get(number, ())}))
        result[number] = Suspicion(starts, personal.get(number, ()), "PRIVATE KEY" in texts[number])
    return result


def redact(text: str, language: str, section: Redact, suspicion: Suspicion | None = None) -> tuple[str, Counter[str]]:
    """The text with everything redacted that the section names, and how much of each kind.

    `suspicion` is what `suspicions` says of this text; it saves time where many texts are searched at once.
    """
    [suspicion] = [suspicion] if suspicion else suspicions([text])
    counts: Counter[str] = Counter()
    if suspicion == NOTHING or not (found := replacements(text, language, section, suspicion)):
        return text, counts
    kept = _harmless(text, language, found)
    for replacement in kept:
        counts[replacement.kind] += replacement.counted
    if len(kept) < len(found):
        counts[BROKEN] += len(found) - len(kept)
    return _replaced(text, kept), counts


def redact_document(document: Document, section: Redact, suspicion: Suspicion) -> tuple[str, Counter[str]]:
    """`redact` for a document; in a conversation, for the contents of its messages."""
    if document.language != "conversation":
        return redact(document.text, document.language, section, suspicion)
    counts: Counter[str] = Counter()
    turns = []
    messages = parse_conversation(document.text)
    for message, own in zip(messages, suspicions([message.content for message in messages]), strict=True):
        content, more = redact(message.content, document.language, section, own)
        counts += more
        turns.append(Message(message.role, content))
    return (render_conversation(turns) if counts else document.text), counts


def replacements(text: str, language: str, section: Redact, suspicion: Suspicion) -> list[Replacement]:
    """Everything that is to be replaced in a text, in its order; no two overlap."""
    found: list[Replacement] = []
    if section.secrets and suspicion.private_key:
        for body in secrets.key_bodies(text):
            found += [Replacement(*extent, "secrets", KEY, int(extent == body[0])) for extent in body]
    if section.secrets:
        for start, line in _texts(text, suspicion.secrets):
            found += [
                Replacement(start + first, start + last, "secrets", KEY)
                for first, last in secrets.secrets(line, language)
            ]
    if suspicion.personal and (section.emails or section.addresses):
        found += _personal(text, language, section, suspicion.personal)
    return _apart(found)


def _personal(text: str, language: str, section: Redact, starts: Sequence[int]) -> list[Replacement]:
    found: list[Replacement] = []
    for start, line in _texts(text, starts):
        if section.emails:
            extents = personal_data.emails(text, start, start + len(line))
            found += [Replacement(*extent, "emails", EMAIL) for extent in extents]
        for new, search in ((IPV4, personal_data.ipv4), (IPV6, personal_data.ipv6)) if section.addresses else ():
            found += [Replacement(start + first, start + last, "addresses", new) for first, last in search(line)]
    # In code an address stands in a comment or a string; elsewhere it is an expression.
    inside = _in_literals(text, language, found)
    return found if inside is None else [each for each in found if each in inside]


def _in_literals(text: str, language: str, found: Sequence[Replacement]) -> set[Replacement] | None:
    """Which replacements stand in a comment or a string, by a lexical scan; None in languages that have no scan."""
    if (pattern := LITERALS.get(language)) is None:
        return None
    inside: set[Replacement] = set()
    waiting = sorted(found, reverse=True)
    for literal in pattern.finditer(text) if waiting else ():
        while waiting and waiting[-1].start < literal.start():
            waiting.pop()
        while waiting and waiting[-1].stop <= literal.end():
            inside.add(waiting.pop())
        if not waiting:
            break
    return inside


def _apart(found: list[Replacement]) -> list[Replacement]:
    """Without those that lie within an earlier or a longer one."""
    result: list[Replacement] = []
    for each in sorted(found, key=lambda replacement: (replacement.start, -replacement.stop)):
        if not result or each.start >= result[-1].stop:
            result.append(each)
    return result


def _harmless(text: str, language: str, found: list[Replacement]) -> list[Replacement]:
    """The replacements after which a text that parsed still parses."""
    if language == "python" and _are_plain(text, found):
        return found
    after = parses(language, _replaced(text, found))
    if after is not False or not parses(language, text):
        return found
    parsed = 0

    def accepted(done: list[Replacement], more: list[Replacement]) -> list[Replacement]:
        nonlocal parsed
        parsed += 1
        if parsed > _PARSES:
            return done
        if parses(language, _replaced(text, done + more)):
            return done + more
        if len(more) == 1:
            return done
        half = len(more) // 2
        return accepted(accepted(done, more[:half]), more[half:])

    half = len(found) // 2
    return accepted(accepted([], found[:half]), found[half:]) if half else []


def _are_plain(text: str, found: Sequence[Replacement]) -> bool:
    """Whether all replacements stand in comments and strings of Python, so that no token begins or ends elsewhere.

    Outside of strings and comments, a quote always begins a string: the scan is that of Python's tokenizer, up to the
    first formatted string, which may hold others. Neither what goes nor what comes holds a quote or a backslash.
    """
    formatted = _FORMATTED.search(text)
    if formatted is not None and found[-1].stop > formatted.start():
        return False
    plain = all(_PLAIN.fullmatch(text, each.start, each.stop) for each in found)
    return plain and _in_literals(text, "python", found) == set(found)


def _replaced(text: str, found: Sequence[Replacement]) -> str:
    done = 0
    pieces: list[str] = []
    for each in found:
        pieces += text[done : each.start], each.new
        done = each.stop
    return "".join([*pieces, text[done:]])


def _texts(text: str, starts: Sequence[int]) -> Iterator[tuple[int, str]]:
    """The lines that begin at `starts`, with their beginnings."""
    for start in starts:
        stop = text.find("\n", start)
        yield start, text[start : len(text) if stop < 0 else stop]


def _lines(array: pa.LargeStringArray, texts: Sequence[str], pattern: str) -> dict[int, tuple[int, ...]]:
    """By the number of a text in which RE2 finds a pattern that matches no line break: where its lines begin."""
    numbers = np.flatnonzero(pc.match_substring_regex(array, pattern=pattern)).tolist()
    split = [texts[number].split("\n") for number in numbers]
    # At once: to prepare the pattern takes longer than to search a text.
    lines = pa.array(itertools.chain.from_iterable(split), pa.large_string())
    matched = pc.match_substring_regex(lines, pattern=pattern).to_numpy(zero_copy_only=False)
    result: dict[int, tuple[int, ...]] = {}
    last = 0
    for number, own in zip(numbers, split, strict=True):
        first, last = last, last + len(own)
        lengths = np.fromiter(map(len, own), np.int64, len(own)) + 1
        result[number] = tuple((lengths.cumsum() - lengths)[matched[first:last]].tolist())
    return result
