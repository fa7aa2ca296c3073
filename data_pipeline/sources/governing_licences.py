"""The licence of each document of a source: what is declared, and what its files state, by the stricter of the two.

A file's own header states a licence, and a licence file governs the folder that it lies in, below as far as the next
one. Whatever is stated beyond the declared expression must be met too: the expression becomes their conjunction.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from license_expression import get_spdx_licensing

from data_pipeline.documents.documents import Document
from data_pipeline.documents.languages import language_of
from data_pipeline.documents.licences import UNKNOWN, joined, stated
from data_pipeline.sources.licence_notices import file_licences, header_licence
from specs.pipeline.stage import EXAMPLES_PER_REASON
from specs.schema.sources import Source

_LICENCE_FILE = re.compile(
    r"(?:un)?licen[cs]es?(?:[-_.].*)?|copying(?:[-_.].*)?|copyright(?:\..*)?|[\w.]+[-_]licen[cs]e(?:\..*)?", re.I
)
_WHOLE = re.compile(
    r"(?:(?:un)?licen[cs]e|copying(?:\.lesser)?|copyright)(?:\.(?:txt|text|md|markdown|rst|html?))?", re.I
)
_LISTS_OTHERS = re.compile(r"third|3rd|bundled|vendor|notice|dependenc", re.I)
_TEXTS = ("other", "text", "markdown", "restructuredtext", "html")


@dataclass(frozen=True)
class Statement:
    """A licence that something states: an SPDX expression, and what states it."""

    expression: str
    origin: str
    """`tag` (SPDX-License-Identifier), `notice` (a file's header) or `file:PATH` (a licence file)."""


def statement_of(text: str) -> Statement | None:
    """What the header of a file states of its licence; none where it states nothing."""
    if (tag := stated(text)) is not None:
        return Statement(tag, "tag")
    notice = header_licence(text)
    return None if notice is None else Statement(notice, "notice")


def is_licence_file(path: str) -> bool:
    """Whether a member of an archive is a text of terms for its folder, by its name."""
    name = path.rsplit("/", 1)[-1]
    return (
        _LICENCE_FILE.fullmatch(name) is not None and _LISTS_OTHERS.search(name) is None and language_of(path) in _TEXTS
    )


class GoverningLicences:
    """Licences of the documents of one source, and where they conflict with what is declared."""

    def __init__(self, source: Source) -> None:
        self._declared, self._listed = source.licence, source.stated_licences == "listed"
        self._folders: dict[str, list[Statement]] = {}
        self._conflicts: dict[str, list[str]] = {}

    def add_file(self, path: str, text: str) -> None:
        """Take the text of a licence file; one that holds no known licence is passed over."""
        folder = path.rpartition("/")[0]
        for name in file_licences(text):
            self._folders.setdefault(folder, []).append(Statement(name, f"file:{path}"))

    def own(self, path: str, statement: Statement | None, row: str | None) -> tuple[str, str]:
        """Expression of a document and its origin: what its row or source declares, and what its header states."""
        base, origin = (self._declared, "source") if row is None else (row, "row")
        return (base, origin) if statement is None else self._combined(path, base, origin, statement)

    def governed(self, document: Document) -> Document:
        """The document under the licence files of its folder too, once `add_file` has been told all of them."""
        folder = document.path.rpartition("/")[0]
        while folder and folder not in self._folders:
            folder = folder.rpartition("/")[0]
        files = self._folders.get(folder)
        if not files:
            return document
        # Where conflicts are only listed, all files are alike.
        if not self._listed and (whole := [file for file in files if _is_of_the_whole(file.origin)]):
            self._list(document, [file for file in files if file not in whole])
            files = whole
        names = sorted({file.expression for file in files})
        beyond = _beyond(document.licence, names)
        # Of several files each may hold one of the licences that the declared expression combines in its own way.
        told = Statement(joined(beyond or names), min(file.origin for file in files))
        if not beyond and document.licence != UNKNOWN:
            return dataclasses.replace(document, licence_from=f"{document.licence_from}+{told.origin}")
        licence, origin = self._combined(document.path, document.licence, document.licence_from, told)
        return dataclasses.replace(document, licence=licence, licence_from=origin)

    def _list(self, document: Document, parts: list[Statement]) -> None:
        """Count licence files of parts of a folder, which do not say of which, as conflicts."""
        for origin in sorted({part.origin for part in parts}):
            names = {part.expression for part in parts if part.origin == origin}
            if beyond := _beyond(document.licence, sorted(names)):
                told = f"{document.licence}, but {joined(beyond)} in its {_words(origin)}, for parts"
                self._conflicts.setdefault(document.path, []).append(told)

    def count(self, document: Document, counts: dict[str, dict[str, Any]]) -> None:
        """Add a document that stays to the counts of origins and of conflicts, with the first examples."""
        origin = re.sub(r"file:[^+]*", "file", document.licence_from)
        counts["from"][origin] = counts["from"].get(origin, 0) + 1
        for conflict in self._conflicts.get(document.path, ()):
            entry = counts["conflicts"].setdefault(conflict, {"documents": 0, "examples": []})
            entry["documents"] += 1
            entry["examples"] = [*entry["examples"], document.path][:EXAMPLES_PER_REASON]

    def _combined(self, path: str, base: str, origin: str, told: Statement) -> tuple[str, str]:
        if base == UNKNOWN:
            return told.expression, told.origin
        if _beyond(base, _keys(told.expression)):
            self._conflicts.setdefault(path, []).append(f"{base}, but {told.expression} in its {_words(told.origin)}")
            if self._listed:
                return base, origin
        return combined(base, told.expression), f"{origin}+{told.origin}"


@functools.lru_cache(maxsize=4_096)
def combined(base: str, stated: str) -> str:
    """Both SPDX expressions as one: the first where it meets the second, else what meets both."""
    if UNKNOWN in (base, stated):
        return UNKNOWN
    licensing = _licensing()
    if " OR " not in base and not _beyond(base, _keys(stated)):
        return base
    both = licensing.parse(f"({base}) AND ({stated})").simplify()
    return base if licensing.is_equivalent(both, base) else str(both)


def _is_of_the_whole(origin: str) -> bool:
    """Whether a licence file is that of its folder: `LICENSE.python` and `LICENSES.txt` beside it speak of parts."""
    name = origin.rsplit("/", 1)[-1].removeprefix("file:")
    return _WHOLE.fullmatch(name) is not None


def _beyond(base: str, names: Iterable[str]) -> list[str]:
    """Which licences go beyond those of an expression. Of one family are a version alone and that version or later."""
    known = {_family(name) for name in _keys(base)}
    names = list(names)
    # The LGPL is written as an addition to the GPL, whose text lies beside its own.
    lesser = any("LGPL" in name for name in (*known, *names))
    return [name for name in names if _family(name) not in known and not (lesser and name.startswith("GPL"))]


def _family(name: str) -> str:
    return name.removesuffix("-only").removesuffix("-or-later").removesuffix("+")


@functools.lru_cache(maxsize=4_096)
def _keys(expression: str) -> tuple[str, ...]:
    return () if expression == UNKNOWN else tuple(_licensing().license_keys(expression))


@functools.cache
def _licensing() -> Any:
    return get_spdx_licensing()


def _words(origin: str) -> str:
    return {"tag": "SPDX-License-Identifier", "notice": "header"}.get(origin, origin.replace("file:", "folder's "))
