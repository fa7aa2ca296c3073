"""Kernels with the same bits on any processor, beside stock ones: `pytest benchmarks -k portable`."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.measuring.cost import cost
from benchmarks.measuring.measure import CLOCK, measure
from benchmarks.workloads.inputs import Inputs
from benchmarks.workloads.workloads import sampling
from specs.loading.settings import ROOT

pytestmark = pytest.mark.benchmark(timer=CLOCK)

PATHS = {
    "here": {},
    "no-bf16": {"TWICE_PROCESSOR": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "avx2": {
        "TWICE_PROCESSOR": "avx2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
}
"""Environments that keep either kind of kernels from some instructions."""


def told(what: str, path: str) -> dict[str, float]:
    """What `benchmarks.measuring.kernels` prints in such an environment."""
    environment = os.environ | PATHS[path] | {"TWICE_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.measuring.kernels", what]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    return dict(json.loads(done.stdout))


def note(benchmark: BenchmarkFixture, multiple: float, limit: str, **facts: object) -> None:
    """Hold a multiple of the limit's time, as `measure` does."""

    def run() -> None:
        CLOCK.now += multiple

    benchmark.pedantic(run, rounds=1)  # type: ignore[no-untyped-call]
    benchmark.extra_info |= {"efficiency": 1 / multiple, "limit": limit} | facts


@pytest.mark.parametrize("size", ["smoke", "17m"])
@pytest.mark.parametrize("path", ["here", "avx2"])
def test_step(benchmark: BenchmarkFixture, size: str, path: str) -> None:
    """Forward and backward of a micro-batch in bf16."""
    if (size, path) == ("17m", "avx2"):
        pytest.skip("stock kernels take minutes")
    seconds = told(size, path)
    note(benchmark, seconds["portable"] / seconds["stock"], "stock bf16", seconds=seconds)


@pytest.mark.parametrize("path", PATHS)
def test_product(benchmark: BenchmarkFixture, path: str) -> None:
    shares = told("products", path)
    note(benchmark, 1 / statistics.median(shares.values()), "peak of fp32 FMA", shares=shares)


def test_sample(benchmark: BenchmarkFixture, inputs: Inputs, tmp_path: Path) -> None:
    """Sampling at level portable beside sampling with stock kernels."""
    with sampling(inputs, tmp_path) as stock, sampling(inputs, tmp_path, portable=True) as portable:
        measure(benchmark, portable, lambda: cost(stock.run).cpu, "stock kernels")
