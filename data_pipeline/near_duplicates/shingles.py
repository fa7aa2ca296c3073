"""Shingles: the runs of words of a text, as hashes of 64 bits; made for many texts at once."""

import functools
from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from data_pipeline.documents.blocks import batches
from data_pipeline.documents.documents import Document, plain_text
from data_pipeline.text.headers import body_start
from data_pipeline.text.words import spaced

Hashes = npt.NDArray[np.uint64]
Shingles = npt.NDArray[np.uint64]
"""Sorted distinct hashes of a document's runs of words, `[n]`."""

# Conversations of one origin share their system message, which says nothing about how alike they are.
_ROLES = ("user", "assistant")
_CHARACTERS_AT_ONCE = 2**16
_AT_LEAST = 2**18
"""Bytes that powers are at hand for."""


def mixed(values: Hashes) -> Hashes:
    """A bijection of 64 bits in which every input bit reaches the low ones: Stafford's variant 13 of MurmurHash3."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def drawn(count: int, seed: int) -> Hashes:
    """Numbers of 64 bits `[count]` that look random: SplitMix64 (Steele, Lea and Flood, 2014)."""
    start = np.uint64(seed * 0xD1342543DE82EF95 % 2**64)
    return mixed(start + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))


_BASE = 0x9E3779B97F4A7C15
_OF_BYTES = drawn(256, 1)
# A space adds nothing.
_OF_BYTES[ord(" ")] = 0


def shingles(documents: Iterable[Document], length: int, seed: int = 0) -> Iterator[tuple[int, Shingles]]:
    """Of each document how many words it has, and its runs of `length` words; another seed gives other hashes.

    The hash of a word is a polynomial of its bytes, each replaced by a number; that of a run is the sum over its words,
    each times a number for its place, mixed.
    """
    factors = drawn(length, 3 + seed) | np.uint64(1)
    for batch in batches(documents, lambda document: len(document.text), _CHARACTERS_AT_ONCE):
        hashes, starts = _of_words(batch)
        runs = np.zeros(max(0, len(hashes) - length + 1), np.uint64)
        for place, factor in enumerate(factors):
            runs += hashes[place : place + len(runs)] * factor
        runs = mixed(runs)
        for start, stop in pairwise(starts):
            hashes_of_one = np.sort(runs[start : max(start, stop - length + 1)])
            distinct = np.ones(len(hashes_of_one), np.bool_)
            np.not_equal(hashes_of_one[1:], hashes_of_one[:-1], out=distinct[1:])
            yield stop - start, hashes_of_one[distinct]


def jaccard(left: Shingles, right: Shingles) -> float:
    """Size of the intersection over that of the union; 0 where both are empty."""
    smaller, larger = sorted((left, right), key=len)
    common = np.count_nonzero(larger.take(larger.searchsorted(smaller), mode="clip") == smaller) if len(smaller) else 0
    union = len(left) + len(right) - common
    return common / union if union else 0.0


def _of_words(documents: list[Document]) -> tuple[Hashes, list[int]]:
    """Hashes of the words of all documents, one after the other, and where those of each begin, and of the last end."""
    texts = [spaced(_body(document)) for document in documents]
    codes = np.frombuffer(b" %b " % b" ".join(texts), np.uint8)
    inside = codes != ord(" ")
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    befores, lasts = edges[::2], edges[1::2]
    powers, inverses = _powers(_AT_LEAST if len(codes) <= _AT_LEAST else len(codes))
    # From sums over all bytes to those over each word, as if it stood first.
    sums = np.cumsum(_OF_BYTES.take(codes) * powers[: len(codes)])
    hashes = (sums[lasts] - sums[befores]) * inverses[befores]
    ends = np.cumsum([0, *(len(text) + 1 for text in texts)])
    return hashes, np.searchsorted(befores, ends).tolist()


def _body(document: Document) -> str:
    """What a document says for itself: neither a system message nor the header that files of a project share."""
    text = plain_text(document.language, document.text, _ROLES)
    return text if document.language == "conversation" else text[body_start(text) :]


@functools.lru_cache(maxsize=1)
def _powers(count: int) -> tuple[Hashes, Hashes]:
    """Powers of an odd number from 0 up `[count]`, and their inverses modulo 2^64."""
    powers, inverses = (np.full(count, base, np.uint64) for base in (_BASE, pow(_BASE, -1, 2**64)))
    powers[0] = inverses[0] = 1
    return np.cumprod(powers), np.cumprod(inverses)
