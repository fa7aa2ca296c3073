"""Verdicts of peers are set beside ours without losing a difference."""

import re
from collections.abc import Sequence

import pytest

from benchmarks.peers.samples import few, report, said
from data_pipeline.problems import Problem
from evaluation.completions.sample_files import Sample
from evaluation.sandbox.dialogue import Outcome
from evaluation.score import Scored
from evaluation.score_samples import SampleScores

PROBLEMS = [Problem(f"HumanEval/{n}", n, "", "", "def check(f): pass", "f", "") for n in range(3)]
SAMPLES = [Sample(problem, number, "") for problem in PROBLEMS for number in range(2)]
PASSED, WRONG = Outcome("passed"), Outcome("wrong", "AssertionError")


@pytest.mark.parametrize(
    "words, base, both",
    [
        (["pass", "pass"], "pass", "pass"),
        (["pass", "fail"], "pass", "fail"),
        (["fail", "pass"], "fail", "fail"),
        (["timeout", "pass"], "timeout", "timeout"),
    ],
)
def test_plus_counts_what_passes_both(words: list[str], base: str, both: str) -> None:
    assert (said(words, 0), said(words, 1)) == (base, both)


def test_the_first_samples_of_each_problem_are_taken() -> None:
    assert few(SAMPLES, 1) == SAMPLES[::2]
    assert few(SAMPLES, 9) == SAMPLES


@pytest.mark.parametrize("later, explained", [("passed", True), ("failed", False)])
def test_a_difference_is_listed_and_is_the_clock_s_where_more_time_ends_it(
    later: str, explained: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """The peer ends the third sample, which passes here; alone and with more time it passes there too, or does not."""
    scores = SampleScores("x", 3, SAMPLES, Scored([PASSED, WRONG, PASSED, WRONG, PASSED, WRONG], "T0"))
    theirs = [["passed"], ["failed"], ["timed out"], ["failed"], ["passed"], ["failed"]]
    judged: list[tuple[Sequence[Sample], int, int]] = []

    def judge(samples: Sequence[Sample], more: int, workers: int) -> list[list[str]]:
        judged.append((samples, more, workers))
        return [[later]]

    assert report(scores, theirs, judge) is explained
    assert judged == [([SAMPLES[2]], 10, 1)]
    output = capsys.readouterr().out
    assert re.search(r"peer failed +ours wrong +3\n", output)
    assert output.count("differ") == 1
    assert (
        f"HumanEval/1 sample 0: peer timed out, ours passed (); alone, with 10 times as long, the peer says {later}"
        in output
    )


def test_base_and_plus_are_compared_apart(capsys: pytest.CaptureFixture[str]) -> None:
    """By base all agree; of those that pass it, one fails the added inputs here only."""
    outcomes, base = [PASSED, WRONG, PASSED, WRONG, PASSED, WRONG], [PASSED, WRONG, PASSED, PASSED, PASSED, WRONG]
    scores = SampleScores("x", 3, SAMPLES, Scored(outcomes, "T0", base=base))
    theirs = [
        ["pass", "pass"],
        ["fail", "pass"],
        ["pass", "pass"],
        ["pass", "pass"],
        ["pass", "pass"],
        ["fail", "fail"],
    ]
    assert not report(scores, theirs, lambda samples, more, workers: [["pass", "pass"]])
    output = capsys.readouterr().out
    assert output.count("differ, base:") == 0
    assert output.count("differ, base and plus: HumanEval/1 sample 1: peer pass, ours wrong") == 1
