"""What pytest-benchmark compares are multiples of the limit: a slower machine is no regression, wasted work is."""

import subprocess
import sys
from pathlib import Path

import pytest

from specs.loading.settings import ROOT

SUITE = """
import os
import pytest
from benchmarks.measuring.cost import Cost
from benchmarks.measuring.measure import CLOCK, measure
from benchmarks.workloads.workloads import Work

pytestmark = pytest.mark.benchmark(timer=CLOCK)

def test_work(benchmark):
    work, limit = float(os.environ["WORK"]), float(os.environ["LIMIT"])
    found = measure(benchmark, Work(lambda: None, 10, "MB"), lambda: limit, "a limit", by=lambda cost: work)
    assert found == pytest.approx(limit / work)
    assert benchmark.extra_info["rate"] == pytest.approx(10 / work)
    assert benchmark.extra_info["peak_memory"] > 1_000_000
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "test_work.py").write_text(SUITE, "utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", "utf-8")
    return tmp_path


def run(suite: Path, work: str, limit: str, *options: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    environment = {"PATH": "", "PYTHONPATH": str(ROOT), "WORK": work, "LIMIT": limit}
    done = subprocess.run(command, cwd=suite, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_comparison_is_by_efficiency(suite: Path) -> None:
    code, told = run(suite, "2.0", "1.0", "--benchmark-json=baseline.json")
    assert code == 0, told
    against = ("--benchmark-compare=baseline.json", "--benchmark-compare-fail=median:20%")
    code, told = run(suite, "6.0", "3.0", *against)  # a machine a third as fast
    assert code == 0, told
    code, told = run(suite, "3.0", "1.0", *against)  # as fast a machine, half as much again of work
    assert code != 0
    assert "has regressed" in told
