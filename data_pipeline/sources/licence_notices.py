"""Licences that files state: the notice in a file's header, and the text of a licence file.

Whole texts and long notices are recognised by `licenseclassifier`, a port of Google's licensecheck. Notices of one line
("under the GNU GPL, version 2 or any later version"), which it passes over, are recognised here by the licence's name
in a sentence that grants something. docs/decisions/0003-licence-detection.md says why both.
"""

import functools
import itertools
import re
from collections.abc import Iterator

from licenseclassifier import identify_license

from data_pipeline.documents.licences import UNKNOWN, joined, normalised

HEADER_LINES = 40
"""Lines of a file that its notice may stand in."""
_HEADER_CHARACTERS = 8_000
_FILE_CHARACTERS = 60_000
"""Of a licence file: the GPL, the longest of those in use, has 35,000."""

_SIGN = re.compile(
    r"licen[cs]e|\bgnu\b|gpl|redistribut|permi(?:ssion|tted)|apache|mozilla|creativecommons|warrant|liab"
    r"|[\"'`]as[ -]is",
    re.I,
)
_MARK = re.compile(
    r"^[ \t]*(?:#+!?|/{2,}!?|/\*+!?|\*+/?|--+|;+|%+|!+|<!--|\.\.|@?rem\b|dnl\b|'''|\"{3})*[ \t]*", re.I | re.M
)
_HOLDER = re.compile(r"(?:\(c\)|©|copyright:? *(?:\(c\)|©|\d{4}|20|the )|authors?:)", re.I)
_ITEM = re.compile(r"(?:\d+\.|[-*(])")
_GRANT = re.compile(
    r"licen[cs]ed|licen[cs]e[sd]?\s*[:=]|distributed|redistribut|released|subject to|governed|covered"
    r"|under the|under (?:either|both)|according to|terms|free software|available under"
    r"|see (?:the )?(?:file )?(?:copying|licen[cs]e)|dual",
    re.I,
)
_EITHER = re.compile(
    r"\bdual|\beither (?:of|the)\b|\b(?:select|choose|choice of)\b|at your option,? (?:one|either)", re.I
)
_LATER = re.compile(r"^\W{0,3}\+|\b(?:or|and)\b.{0,30}\b(?:later|newer|above|higher)\b", re.I)
_GNU = re.compile(
    r"\b(?:(?P<short>[AL]?GPL)|(?:GNU )?(?P<long>affero |lesser |library )?general public licen[cs]e)"
    r"(?:[ ,.\-(]*(?:gnu|[AL]?GPL|licen[cs]e|as published by the free software foundation|either|version|ver\.?|v|r"
    r"|\)))*[ ,.\-(]*(?P<version>[123](?:\.[01])?)?",
    re.I,
)
_GNU_NAMES = {"a": ("AGPL", "3.0"), "l": ("LGPL", "2.1"), "": ("GPL", "1.0")}
"""Family, and the version that is meant where none is stated: the oldest, or later."""
_OTHERS = tuple(
    (re.compile(pattern, re.I), name)
    for pattern, name in (
        (r"\bapache(?: software)? licen[cs]e,?(?: v(?:ersion)?\.? ?)?2\.0|\bapache[- ]2(?:\.0)?\b", "Apache-2.0"),
        (r"\bmozilla public licen[cs]e,?(?: v(?:ersion)?\.? ?| ?)2\.0|\bMPL[- v]*2\.0", "MPL-2.0"),
        (r"\bmozilla public licen[cs]e,?(?: v(?:ersion)?\.? ?| ?)1\.1|\bMPL[- v]*1\.1", "MPL-1.1"),
        (r"\beclipse public licen[cs]e,?[ -]*(?:v(?:ersion)?\.? ?)?2\.0|\bEPL[- v]*2\.0", "EPL-2.0"),
        (r"\beclipse public licen[cs]e,?[ -]*(?:v(?:ersion)?\.? ?)?1\.0|\bEPL[- v]*1\.0", "EPL-1.0"),
        (r"\bboost software licen[cs]e", "BSL-1.0"),
        (r"\bzope public licen[cs]e|\bZPL\b", "ZPL-2.1"),
        (r"\bbusiness source licen[cs]e", "BUSL-1.1"),
        (r"\bserver side public licen[cs]e|\bSSPL\b", "SSPL-1.0"),
        (r"\b(?:2-clause|simplified|freebsd) bsd|\bbsd[- ]2|\btwo[- ]clause bsd", "BSD-2-Clause"),
        (
            r"\b(?:3-clause|modified|new|revised) bsd|\bbsd[- ]3|\bbsd(?:[- ]style)?,? ?licen[cs]e"
            r"|\blicen[cs]e[:=]? ?bsd\b",
            "BSD-3-Clause",
        ),
        (r"\bPSF licen[cs]e|\bpython software foundation licen[cs]e", "PSF-2.0"),
        (
            r"\bMIT(?=/)|\bMIT(?:[- ]style|/expat)?,? (?:software )?licen[cs]e|\blicen[cs]e[:=]? ?MIT\b|licenses/MIT\b",
            "MIT",
        ),
        (r"\bISC licen[cs]e", "ISC"),
    )
)
_VAGUE = {"GPL-1.0-or-later", "LGPL-2.1-or-later", "AGPL-3.0-or-later", "BSD-3-Clause"}
"""What a name without version stands for: the oldest version, and for BSD the usual one."""
_COMMONS = re.compile(
    r"creativecommons\.org/(?:licenses/(by(?:-nc)?(?:-nd|-sa)?)/([1-4]\.[05])|publicdomain/zero/(1\.0))", re.I
)


def header_licence(text: str) -> str | None:
    """SPDX expression of the notice that begins in the first `HEADER_LINES` lines of a file; none where none does."""
    head = text[:_HEADER_CHARACTERS]
    if not _SIGN.search(head):
        return None
    lines = _MARK.sub("", "\n".join(head.split("\n", 2 * HEADER_LINES)[: 2 * HEADER_LINES])).split("\n")
    # Who holds the copyright, and when, differs from file to file; the notice is the same.
    lines = ["" if _HOLDER.match(line) else line for line in lines]
    signs = [number for number, line in enumerate(lines) if _SIGN.search(line)]
    if not signs or signs[0] >= HEADER_LINES:
        return None
    first, last = _paragraph(lines, signs[0], -1), _paragraph(lines, signs[-1], 1)
    while last + 2 < len(lines) and _ITEM.match(lines[last + 2]):
        last = _paragraph(lines, last + 2, 1)
    return _notice("\n".join(lines[first : last + 1]))


def _paragraph(lines: list[str], number: int, step: int) -> int:
    """The first line of the paragraph that a line stands in, or with a step of 1 the last."""
    while 0 <= number + step < len(lines) and lines[number + step]:
        number += step
    return number


def file_licences(text: str) -> tuple[str, ...]:
    """SPDX ids of the licences whose text a licence file holds, or that it names where it holds none."""
    known = tuple(dict.fromkeys(match.id for match in identify_license(text[:_FILE_CHARACTERS], 0)))
    named = known or tuple(dict.fromkeys(name for name, _ in _named(" ".join(text[:_HEADER_CHARACTERS].split()))))
    return tuple(name for name in map(normalised, named) if name != UNKNOWN)


@functools.lru_cache(maxsize=4_096)
def _notice(text: str) -> str | None:
    known = list(dict.fromkeys(match.id for match in identify_license(text, 0)))
    flat = " ".join(text.split())
    # A name that the text itself explains is not told twice: a long notice of the LGPL names the GPL too.
    named = [(name, at) for name, at in _named(flat) if not _same_family(name, known)]
    names = list(dict.fromkeys([*known, *(name for name, _ in named)]))
    if len(names) > 1 and named and _either(flat, named):
        return " OR ".join(names)
    return joined(names) if names else None


def _named(flat: str) -> list[tuple[str, int]]:
    """SPDX id and position of each licence that is named in a sentence that grants something."""
    gnu = [
        (_gnu(match, flat[match.end() : match.end() + 60]), match.start())
        for match in _GNU.finditer(flat)
        if _granted(flat, match.start())
    ]
    others = [
        (name, match.start())
        for pattern, name in _OTHERS
        if (match := pattern.search(flat)) and _granted(flat, match.start())
    ]
    commons = [
        ("CC0-1.0" if match[3] else f"CC-{match[1].upper()}-{match[2]}", match.start())
        for match in _COMMONS.finditer(flat)
    ]
    return sorted(_precise([*gnu, *others, *commons]), key=lambda entry: entry[1])


def _precise(named: list[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """Without what another name says better: `GPL` beside `GPL v2`, a page's address beside `v3 or later`."""
    exact = {name for name, _ in named if name not in _VAGUE}
    families = {name.split("-")[0] for name in exact}
    for name, at in named:
        family, later = name.split("-")[0], f"{name.removesuffix('-only')}-or-later"
        if later not in exact if name in exact else family not in families:
            yield name, at


def _granted(flat: str, position: int) -> bool:
    return _GRANT.search(flat, max(0, position - 160), position + 80) is not None


def _gnu(match: re.Match[str], rest: str) -> str:
    letter = (match["short"] or match["long"] or "")[0:1].lower() if not match["short"] else match["short"][0].lower()
    family, oldest = _GNU_NAMES["l" if letter == "l" else "a" if letter == "a" else ""]
    version = match["version"]
    if version is None:
        return f"{family}-{oldest}-or-later"
    version = {"1": "1.0", "2": "2.1" if family == "LGPL" and oldest == "2" else "2.0", "3": "3.0"}.get(
        version, version
    )
    return normalised(f"{family}-{version}-{'or-later' if _LATER.search(rest) else 'only'}")


def _same_family(name: str, known: list[str]) -> bool:
    gnu = "GPL" in name and any("GPL" in other for other in known)
    return gnu or any(name.split("-")[0] == other.split("-")[0] for other in known)


def _either(flat: str, named: list[tuple[str, int]]) -> bool:
    """Whether the licences named are offered for choice."""
    positions = [at for _, at in named]
    if _EITHER.search(flat, max(0, positions[0] - 80), positions[-1] + 250):
        return True
    between = (flat[start:stop] for start, stop in itertools.pairwise(positions))
    return any(re.search(r"(?:\bor\b[^.;]{0,25}|/)$", text, re.I) for text in between)
