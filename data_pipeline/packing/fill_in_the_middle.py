"""Fill in the middle: documents written with their middle last, so that a model learns to fill a gap.

Bavarian et al., "Efficient Training of Language Models to Fill in the Middle" (2022), as SantaCoder and StarCoder
use it: a document is cut at two places, each uniform over its characters, into prefix, middle and suffix. Each part is
encoded by itself, and control tokens stand before them:

    psm   <fim_prefix> prefix <fim_suffix> suffix <fim_middle> middle
    spm   <fim_prefix> <fim_suffix> suffix <fim_middle> prefix middle

A corpus keeps the text as it is and marks the cut, so no text can forge one; ids are arranged when they are packed.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from data_pipeline.documents.documents import Document
from data_pipeline.tokens.tokenizer import Ids, Special
from specs.common.errors import UserError
from specs.schema.data import FillInTheMiddle

_MARK = re.compile(r"(?:^|.*\+)fim-(psm|spm)@([0-9]+)-([0-9]+)")


@dataclass(frozen=True)
class Cut:
    """Where a document is cut, and how its parts are ordered."""

    order: str
    """`psm` or `spm`."""
    start: int
    """Of the middle, in characters of the text."""
    stop: int

    @classmethod
    def draw(cls, length: int, section: FillInTheMiddle, rng: random.Random) -> Self:
        """The cut of a text of so many characters. Any part may be empty, as in the publication."""
        order = "spm" if rng.random() < section.spm else "psm"
        # Only random() is promised to give the same numbers in every Python.
        start, stop = sorted(int(rng.random() * (length + 1)) for _ in range(2))
        return cls(order, start, stop)

    @property
    def mark(self) -> str:
        """How a document says that it is to be cut, as the last of what it was derived by."""
        return f"fim-{self.order}@{self.start}-{self.stop}"


def cut_of(document: Document) -> Cut | None:
    """The cut that a document is marked with; none where it stays whole. Raises UserError for one outside its text."""
    match = _MARK.fullmatch(document.derived)
    if match is None:
        return None
    cut = Cut(match[1], int(match[2]), int(match[3]))
    if not cut.start <= cut.stop <= len(document.text) or document.language == "conversation":
        raise UserError(f"{document.place}: {cut.mark!r} is no cut of its text; run the augment stage again")
    return cut


def parts(text: str, cut: Cut | None) -> tuple[str, ...]:
    """What is encoded: prefix, middle and suffix, or the whole text."""
    return (text,) if cut is None else (text[: cut.start], text[cut.start : cut.stop], text[cut.stop :])


def arranged(encoded: Sequence[Ids], cut: Cut | None) -> Ids:
    """Ids uint16 `[n]` of a document from those of its `parts`."""
    if cut is None:
        (whole,) = encoded
        return whole
    prefix, middle, suffix = encoded
    if cut.order == "psm":
        pieces = [[Special.FIM_PREFIX], prefix, [Special.FIM_SUFFIX], suffix, [Special.FIM_MIDDLE], middle]
    else:
        pieces = [[Special.FIM_PREFIX, Special.FIM_SUFFIX], suffix, [Special.FIM_MIDDLE], prefix, middle]
    return np.concatenate([np.asarray(piece, np.uint16) for piece in pieces])
