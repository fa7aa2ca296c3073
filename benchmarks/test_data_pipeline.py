"""Documents to token ids to rows: filter, dedup, tokenize, pack, random reads."""

import os
from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.measuring import roofline
from benchmarks.measuring.measure import CLOCK, measure
from benchmarks.workloads import workloads
from benchmarks.workloads.inputs import Inputs, library
from data_pipeline.tokens.shuffle import Order
from data_pipeline.tokens.token_store import TokenStore

pytestmark = pytest.mark.benchmark(timer=CLOCK)


def bare(inputs: Inputs, texts: list[str]) -> float:
    """Seconds of SentencePiece itself, on as many threads."""
    processor, threads = inputs.tokenizer.processor, len(os.sched_getaffinity(0))
    return roofline.best_of(lambda: processor.encode(texts, out_type="numpy", num_threads=threads))


def test_filter(benchmark: BenchmarkFixture, inputs: Inputs, tmp_path: Path) -> None:
    texts = [document.text for document in library(3 * workloads.MB)]
    with workloads.filtering(inputs, tmp_path) as each:
        measure(benchmark, each, lambda: roofline.scanning(texts), "one scan for words")


def test_dedup(benchmark: BenchmarkFixture, inputs: Inputs, tmp_path: Path) -> None:
    texts = [document.text for document in library(3 * workloads.MB)]
    with workloads.deduplicating(inputs, tmp_path) as each:
        measure(benchmark, each, lambda: roofline.scanning(texts), "one scan for words")


def test_tokenize(benchmark: BenchmarkFixture, inputs: Inputs, tmp_path: Path) -> None:
    with workloads.tokenizing(inputs, tmp_path) as each:
        texts = each.extra
        assert isinstance(texts, list)
        measure(benchmark, each, lambda: bare(inputs, texts), "bare SentencePiece", rounds=9)


def test_pack(benchmark: BenchmarkFixture, inputs: Inputs, tmp_path: Path) -> None:
    texts = [document.text for document in library(3 * workloads.MB)]
    with workloads.packing(inputs, tmp_path) as each:
        measure(benchmark, each, lambda: bare(inputs, texts), "bare SentencePiece")


def test_random_reads(benchmark: BenchmarkFixture, inputs: Inputs, tmp_path: Path) -> None:
    with workloads.reading(inputs, tmp_path) as each:
        store = each.extra
        assert isinstance(store, TokenStore)
        width = store.manifest.context_length + 1
        flat = np.memmap(tmp_path / "flat", np.uint8, "w+", shape=(len(store), 5 * width))
        rows = Order(store.shares, seed=1).rows(0, round(each.amount))
        # The same rows from a flat file that is mapped into memory, without a checksum: five bytes for each id.
        least = lambda: roofline.best_of(lambda: [flat[rows[at : at + 8]] for at in range(0, len(rows), 8)])  # noqa: E731
        measure(benchmark, each, least, "memmap without checksums")
