"""Files that nobody of a project wrote: vendored ones by their path, generated ones by path or content.

Both by the published rules of GitHub's Linguist, which lie beside this module as data.
"""

import functools
import re
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.documents.documents import Document
from data_pipeline.filters.quality import KEPT, Verdict
from specs.schema.filters import Filter

_FOLDER = Path(__file__).parent
_NUMBER = re.compile(r"#\d+(\.\d+)?\Z")
"""At the end of a path: where a document stands in a file that holds several."""


@dataclass(frozen=True)
class Rule:
    """What one tool leaves: a path, and lines of which one holds an expression."""

    tool: str
    path: re.Pattern[str]
    lines: slice | None = None
    """None: the path is enough."""
    content: re.Pattern[str] | None = None

    def fits(self, lines: list[str]) -> bool:
        """Whether a file of such a path is by the tool, by its lines."""
        if self.lines is None or self.content is None:
            return True
        return any(map(self.content.search, lines[self.lines]))


def vendored(document: Document, limits: Filter) -> Verdict:
    """Not copied from another project, if the spec asks: Linguist's vendor.yml, by the path in the repository."""
    if not limits.drop_vendored or document.language == "conversation" or not _vendored().search(path_of(document)):
        return KEPT
    return False, "vendored"


def generated_by_tool(document: Document, limits: Filter) -> Verdict:
    """Not written by a tool, if the spec asks: Linguist's generated.rb."""
    if not limits.drop_generated or document.language == "conversation":
        return KEPT
    path = path_of(document)
    rules = [rule for rule in generators() if rule.path.search(path)]
    lines = document.text.removesuffix("\n").split("\n") if rules else []
    tool = next((rule.tool for rule in rules if rule.fits(lines)), None)
    return KEPT if tool is None else (False, f"generated: {tool}")


def path_of(document: Document) -> str:
    """Path of the file in its repository, without the place of a document in it."""
    return document.file or _NUMBER.sub("", document.path)


@functools.cache
def _vendored() -> re.Pattern[str]:
    # Most begin with a part of the path: together they are tried at parts alone, at a tenth of the cost.
    start, lines = "(^|/)", _lines("vendored.txt")
    parts = [line.removeprefix(start) for line in lines if line.startswith(start)]
    others = [line for line in lines if not line.startswith(start)]
    return re.compile("|".join([f"(?:^|/)(?:{'|'.join(parts)})", *others]))


@functools.cache
def generators() -> tuple[Rule, ...]:
    """The rules of `generated.tsv`, in its order."""
    return tuple(_rule(*line.split("\t")) for line in _lines("generated.tsv"))


def _rule(tool: str, path: str, lines: str = "", content: str = "") -> Rule:
    if not lines:
        return Rule(tool, re.compile(path))
    start, _, stop = lines.partition(":")
    return Rule(tool, re.compile(path), slice(int(start), int(stop) if stop else None), re.compile(content))


def _lines(name: str) -> list[str]:
    lines = (_FOLDER / name).read_text("utf-8").split("\n")
    return [line for line in lines if line and not line.startswith("#")]
