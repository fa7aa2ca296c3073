"""Every canonical solution of HumanEval and MBPP at each tier, several times: all must pass, each time the same.

`python -m benchmarks.studies.canonical_solutions`. The files are found by digest, as the fetch stage finds them
(`TWICE_MIRRORS`).
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import click

from data_pipeline.fetch import PinnedFile, from_this_machine, write
from data_pipeline.problems import read_problems
from evaluation.protocols.registry import find_protocol
from evaluation.sandbox.sandbox import Tier
from evaluation.score import canonical, score
from specs.loading.load import load_section
from specs.loading.settings import ROOT
from specs.schema.data import Benchmark
from specs.schema.experiment import Limits

TIERS: tuple[Tier, ...] = ("T0", "T1")


@click.command(epilog="Example: python -m benchmarks.studies.canonical_solutions --times 3")
@click.option("--times", type=click.IntRange(1), default=3, show_default=True, help="Runs at each tier.")
@click.option("--workers", type=click.IntRange(1), help="Programs at one time; default: one for each core.")
@click.option("--audit", is_flag=True, help="Under the split checker too, once.")
def main(times: int, workers: int | None, audit: bool) -> None:
    """Score the canonical solutions of whole benchmarks; exit 1 unless all pass every time."""
    right = True
    for name in ("humaneval", "mbpp"):
        benchmark = load_section(ROOT / "specs" / "benchmarks" / f"{name}.yaml", Benchmark)
        protocol = find_protocol("completion-v1", benchmark.problem_schema)
        wanted = [PinnedFile("benchmark", name, benchmark.source)]
        with tempfile.TemporaryDirectory() as folder:
            write(wanted, from_this_machine(wanted), Path(folder))
            # All of them: the range that the benchmark's score counts is no matter here.
            problems = read_problems(Path(folder) / name / benchmark.source.filename, benchmark.problem_schema)
        answers = canonical(problems, protocol)
        seen = set()
        for tier in TIERS:
            for turn in range(times):
                start, load = time.monotonic(), os.getloadavg()[0]
                scored = score(answers, protocol, Limits(), tier=tier, workers=workers, audit=audit and not turn)
                seconds = time.monotonic() - start
                passed = sum(outcome.verdict == "passed" for outcome in scored.outcomes)
                seen.add(tuple(scored.outcomes))
                print(f"{name} {tier}: {passed} of {len(answers)} in {seconds:.0f} s at load {load:.0f}", flush=True)
                right &= passed == len(answers)
                for (problem, _), split in zip(answers, scored.split or (), strict=False):
                    if split.verdict != "passed":
                        print(f"  split checker: {problem.task_id} {split}", flush=True)
        print(f"{name}: {'the same verdicts' if len(seen) == 1 else 'different verdicts'} every time", flush=True)
        right &= len(seen) == 1
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
