"""Anybody's samples scored as their harness would: whole programs, no protocol, no experiment."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from data_pipeline.problems import Problem
from evaluation.completions.sample_files import Sample
from evaluation.protocols.program import Program
from evaluation.protocols.protocol import program_of
from evaluation.sandbox.dialogue import Outcome, Verdict
from evaluation.sandbox.sandbox import Tier
from evaluation.score import DIGITS, Scored, run_programs
from evaluation.scoring.pass_at_k import pass_at_k, score_interval
from specs.schema.experiment import Limits

KS = (1, 10, 100)


@dataclass(frozen=True)
class SampleScores:
    """Samples and what became of each."""

    benchmark: str
    problems: int
    """How many the benchmark has: samples may be of some only."""
    samples: Sequence[Sample]
    scored: Scored

    def summary(self) -> dict[str, object]:
        """pass@k for each k that the problems have samples for, with 95% intervals over problems, and what was run.

        Of an extended benchmark, figures of its base beside them.
        """
        counts = Counter(sample.problem.task_id for sample in self.samples)
        summary: dict[str, object] = {
            "benchmark": self.benchmark,
            "problems": len(counts),
            "problems_of_benchmark": self.problems,
            "samples": len(self.samples),
            "samples_for_each_problem": {"fewest": min(counts.values()), "most": max(counts.values())},
            **self._figures(self.scored.outcomes),
            "interpreter": self.scored.interpreter,
            "sandbox": self.scored.tier,
        }
        if self.scored.base is not None:
            summary["base"] = self._figures(self.scored.base)
        if self.scored.split is not None:
            summary["split_checker_disagrees"] = len(self.disagreements())
        return summary

    def _figures(self, outcomes: Sequence[Outcome]) -> dict[str, object]:
        passed: dict[str, list[bool]] = {}
        for sample, outcome in zip(self.samples, outcomes, strict=True):
            passed.setdefault(sample.problem.task_id, []).append(outcome.verdict == "passed")
        pass_at, intervals = {}, {}
        for k in (k for k in KS if k <= min(map(len, passed.values()))):
            values = [pass_at_k(len(verdicts), sum(verdicts), k) for verdicts in passed.values()]
            low, high = score_interval(values, seed=f"{self.benchmark} {k}")
            pass_at[str(k)] = round(sum(values) / len(values), DIGITS)
            intervals[str(k)] = {"low": round(low, DIGITS), "high": round(high, DIGITS)}
        counts = Counter(outcome.verdict for outcome in outcomes)
        classes = {verdict: counts[verdict] for verdict in get_args(Verdict) if verdict != "extraction"}
        return {"pass_at": pass_at, "interval": intervals, "classes": classes}

    def disagreements(self) -> list[tuple[Sample, Outcome, Outcome]]:
        """Samples that pass under one of the comparable verdict and the split checker only, with both."""
        assert self.scored.split is not None
        return [
            (sample, outcome, split)
            for sample, outcome, split in zip(self.samples, self.scored.outcomes, self.scored.split, strict=True)
            if (outcome.verdict == "passed") != (split.verdict == "passed")
        ]

    def rows(self) -> list[dict[str, object]]:
        """Task, sample, class and message of each sample."""
        rows: list[dict[str, object]] = [
            {
                "task_id": sample.problem.task_id,
                "sample": sample.number,
                "class": outcome.verdict,
                "message": outcome.message,
            }
            for sample, outcome in zip(self.samples, self.scored.outcomes, strict=True)
        ]
        if self.scored.base is not None:
            rows = [row | {"base_class": base.verdict} for row, base in zip(rows, self.scored.base, strict=True)]
        return rows


def program(problem: Problem, code: str) -> Program:
    """What decides about a program: it as it stands, then the tests."""
    return program_of(problem, f"{code}\n")


def score_samples(
    benchmark: str,
    problems: Sequence[Problem],
    samples: Sequence[Sample],
    limits: Limits,
    *,
    tier: Tier = "T0",
    audit: bool = False,
    workers: int | None = None,
    verdicts: Path | None = None,
) -> SampleScores:
    """Run each sample against its problem's tests; `audit`: a second time under the split checker.

    Verdicts that the file `verdicts` holds are taken from it, and each new one is added to it. Raises UserError where
    the sandbox cannot start.
    """
    programs = [program(sample.problem, sample.code) for sample in samples]
    scored = run_programs(programs, limits, tier=tier, audit=audit, workers=workers, verdicts=verdicts)
    return SampleScores(benchmark, len(problems), samples, scored)
