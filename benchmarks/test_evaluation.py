"""Programs to verdicts, in the sandbox that scores are made in."""

from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.measuring import roofline
from benchmarks.measuring.measure import CLOCK, measure
from benchmarks.workloads import workloads
from benchmarks.workloads.inputs import PROBLEMS, Inputs
from data_pipeline.problems import read_problems
from evaluation.protocols.registry import find_protocol
from evaluation.score import canonical

pytestmark = pytest.mark.benchmark(timer=CLOCK)


def test_score(benchmark: BenchmarkFixture, inputs: Inputs, tmp_path: Path) -> None:
    protocol = find_protocol("completion-v1", "mbpp")
    answers = canonical(read_problems(PROBLEMS, "mbpp"), protocol)
    programs = [protocol.program(problem, answer.completion) for problem, answer in answers]
    texts = [f"{each.candidate}\n{each.tests}" for each in programs if each]
    with workloads.scoring(inputs, tmp_path) as each:
        copies = each.amount / len(texts)
        measure(benchmark, each, lambda: copies * roofline.running(texts), "the programs themselves, unprotected")
