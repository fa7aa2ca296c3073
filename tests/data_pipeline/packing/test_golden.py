"""Choices and orders that token stores of older runs rely on, as literals: a formula that changes fails here."""

import random

import numpy as np
import pytest

from data_pipeline.documents.documents import Document, document_id
from data_pipeline.packing.best_fit import best_fit
from data_pipeline.packing.epochs import by_times
from data_pipeline.packing.fill_in_the_middle import Cut
from data_pipeline.sources.source_limit import SourceLimit
from data_pipeline.tokens.shuffle import Order, Share, permute
from data_pipeline.train_tokenizer import sample
from specs.pipeline.stage import Ledger
from specs.schema.data import FillInTheMiddle

TEXTS = [f"text {number}\n" for number in range(12)]
DOCUMENTS = [Document(document_id(text), "s", f"{n}.py", "MIT", "python", text) for n, text in enumerate(TEXTS)]


def paths(documents: list[Document]) -> list[int]:
    return [int(document.path.removesuffix(".py")) for document in documents]


@pytest.mark.parametrize(
    ("size", "key", "image"),
    [
        (10, "cycle/1/0", [0, 5, 3, 8, 9, 2, 1, 6, 7, 4]),
        (16, "held-out/7", [3, 7, 0, 12, 5, 1, 14, 2, 11, 6, 8, 13, 4, 9, 15, 10]),
        (1, "x", [0]),
    ],
)
def test_permutations(size: int, key: str, image: list[int]) -> None:
    assert permute(np.arange(size, dtype=np.uint64), size, key).tolist() == image


def test_a_permutation_of_many() -> None:
    positions = np.array([0, 1, 84_999_999], np.uint64)
    assert permute(positions, 85_000_000, "cycle/1/3").tolist() == [54_179_421, 70_624_388, 55_164_453]


def test_an_order_of_two_sources() -> None:
    order = Order([Share(0, 7, 1), Share(7, 10, 2)], seed=3, held_out=2)
    assert order.held_out.tolist() == [4, 7]
    assert order.rows(0, 14).tolist() == [8, 8, 1, 0, 3, 9, 6, 2, 9, 5, 6, 8, 2, 5]
    assert order.step(1, micro_batches=2, micro_batch_size=2).tolist() == [[3, 9], [6, 2]]


@pytest.mark.parametrize(
    ("epochs", "groups"),
    [
        (0.25, [(3, [0, 7, 10]), (0, [1, 2, 3, 4, 5, 6, 8, 9, 11])]),
        (1.5, [(6, [0, 1, 4, 7, 8, 10]), (3, [2, 3, 5, 6, 9, 11])]),
        (2.0, [(6, list(range(12)))]),
    ],
)
def test_documents_of_a_fraction_of_an_epoch(epochs: float, groups: list[tuple[int, list[int]]]) -> None:
    assert [(times, paths(list(group))) for times, group in by_times("s", lambda: DOCUMENTS, epochs, 3)] == groups


def test_the_sample_of_a_tokenizer() -> None:
    assert paths(sample(DOCUMENTS, 40)) == [2, 9, 8, 3, 1, 10]


def test_cuts_of_fill_in_the_middle() -> None:
    rng = random.Random("golden")
    marks = [Cut.draw(100, FillInTheMiddle(), rng).mark for _ in range(4)]
    assert marks == ["fim-psm@27-49", "fim-spm@37-98", "fim-spm@14-83", "fim-spm@42-85"]


def test_best_fit() -> None:
    assert best_fit([5, 3, 9, 1, 7, 2, 2, 6], 10) == [[0, 3], [1, 4], [2], [5, 6, 7]]


def test_the_limit_of_a_source() -> None:
    limit = SourceLimit(4)
    for document in DOCUMENTS:
        limit.take(document)
    limit.close(Ledger(), "s")
    kept = [document for document in DOCUMENTS if limit.holds(document)]
    assert {document.id for document in kept} == set(sorted(document.id for document in DOCUMENTS)[:4])
    assert paths(kept) == [2, 3, 8, 10]
