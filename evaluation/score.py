"""Score: every completion run against its problem's tests in the sandbox; pass@k with its uncertainty."""

import platform
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

import click

from data_pipeline.numpy_stand_in import NUMPY
from data_pipeline.problems import Problem, content_sha256, contents
from evaluation.completions.completions import FILE, Completion, by_problem, load_problems, read_completions
from evaluation.protocols.program import Program
from evaluation.protocols.protocol import Protocol
from evaluation.protocols.registry import find_protocol
from evaluation.sandbox.dialogue import Outcome, Verdict
from evaluation.sandbox.pool import run_all
from evaluation.sandbox.sandbox import Tier
from evaluation.scoring.pass_at_k import pass_at_k, score_interval
from evaluation.scoring.verdict_log import Verdicts, identity
from specs.common.errors import UserError
from specs.common.files import canonical_json, digest_json, replacing, write_bytes, write_json
from specs.common.progress import Progress
from specs.pipeline import stage
from specs.pipeline.nodes import EvaluationNode
from specs.schema.experiment import BenchmarkRun, Limits

Answers = Sequence[tuple[Problem, Completion]]
DIGITS = 6
"""Decimals of a score: more than any benchmark resolves."""


EXTENDED = Limits(cpu_seconds=60, wall_seconds=180, memory=4 * 2**30)
"""What evalplus's tests need, and evalplus grants: with the usual limits four canonical solutions fail."""


@dataclass(frozen=True)
class Scored:
    """Verdicts in the order of the completions, and what gave them."""

    outcomes: list[Outcome]
    tier: Tier
    split: list[Outcome] | None = None
    """Verdicts of the split checker, where it was asked for."""
    base: list[Outcome] | None = None
    """Verdicts by the benchmark's own tests, where an extended one adds to them: what passes these has to pass both."""

    interpreter: str = platform.python_version()


def score(
    answers: Answers,
    protocol: Protocol,
    limits: Limits,
    *,
    tier: Tier = "T0",
    audit: bool = False,
    workers: int | None = None,
    verdicts: Path | None = None,
) -> Scored:
    """Run every completion as its protocol says; `audit`: a second time under the split checker.

    Verdicts that `verdicts` holds are taken from it, and each new one is added to it. Raises UserError where the
    sandbox cannot start.
    """
    programs = [protocol.program(problem, completion.completion) for problem, completion in answers]
    return run_programs(programs, limits, tier=tier, audit=audit, workers=workers, verdicts=verdicts)


def run_programs(
    programs: Sequence[Program | None],
    limits: Limits,
    *,
    tier: Tier = "T0",
    audit: bool = False,
    workers: int | None = None,
    verdicts: Path | None = None,
) -> Scored:
    """The same for programs; none stands for an answer that holds no program."""
    nothing = Outcome("extraction", "the answer holds no program that defines the function asked for")
    known = Verdicts(verdicts)

    def run(programs: Sequence[Program | None], split: bool) -> list[Outcome]:
        finished = known.outcomes(split)
        with Progress("audit" if split else "score", total=len(programs), unit="programs") as progress:

            def done(program: Program, outcome: Outcome, copies: int) -> None:
                known.add(program, split, outcome)
                finished[identity(program)] = outcome
                progress.advance(copies)

            runnable = [program for program in programs if program is not None and identity(program) not in finished]
            progress.resume(len(programs) - len(runnable))
            run_all(runnable, limits, tier=tier, split=split, workers=workers, done=done)
        return [nothing if program is None else finished[identity(program)] for program in programs]

    def extended(base: list[Outcome], split: bool) -> list[Outcome]:
        """Verdicts after the tests that were added, for what passed the others."""
        more = [
            Program(program.candidate, program.plus, program.helpers)
            if program is not None and program.plus and outcome.verdict == "passed"
            else None
            for program, outcome in zip(programs, base, strict=True)
        ]
        added = run(more, split)
        return [old if program is None else new for program, old, new in zip(more, base, added, strict=True)]

    own = [None if program is None else replace(program, plus="") for program in programs]
    base = run(own, split=False)
    split = run(own, split=True) if audit else None
    if not any(program is not None and program.plus for program in programs):
        return Scored(base, tier, split)
    return Scored(extended(base, split=False), tier, None if split is None else extended(split, split=True), base)


def limits_for(limits: Limits, problems: Sequence[Problem]) -> Limits:
    """The limits that were chosen; where none were and tests are evalplus's, those that suit them."""
    extended = any(problem.inputs or problem.extra or problem.setup.startswith(NUMPY) for problem in problems)
    return EXTENDED if extended and limits == Limits() else limits


def canonical(problems: Sequence[Problem], protocol: Protocol) -> list[tuple[Problem, Completion]]:
    """The answers of a model that gives each problem's own solution."""
    return [(p, Completion(p.task_id, 0, protocol.canonical(p), "end", 0)) for p in problems]


def empty(problems: Sequence[Problem]) -> list[tuple[Problem, Completion]]:
    """The answers of a model that says nothing."""
    return [(problem, Completion(problem.task_id, 0, "", "end", 0)) for problem in problems]


def summarise(answers: Answers, scored: Scored, run: BenchmarkRun) -> dict[str, object]:
    """What `scores.json` holds: pass@k with 95% intervals over problems, counts of classes, and how it was measured.

    Of an extended benchmark, figures of its base beside them.
    """
    figures = _figures(answers, scored.outcomes, run)
    samples = len(answers) // len({problem.task_id for problem, _ in answers})
    summary: dict[str, object] = {
        "benchmark": run.benchmark.name,
        "protocol": run.protocol,
        "temperature": run.temperature,
        "top_p": run.top_p,
        "problems": len(answers) // samples,
        "samples": samples,
        **figures,
        "interpreter": scored.interpreter,
        "sandbox": scored.tier,
    }
    if scored.base is not None:
        summary["base"] = _figures(answers, scored.base, run)
    if scored.split is not None:
        summary["split_checker_disagrees"] = len(disagreements(answers, scored))
    return summary


def _figures(answers: Answers, outcomes: Sequence[Outcome], run: BenchmarkRun) -> dict[str, object]:
    passes: dict[str, list[bool]] = {}
    for (problem, _), outcome in zip(answers, outcomes, strict=True):
        passes.setdefault(problem.task_id, []).append(outcome.verdict == "passed")
    samples = len(answers) // len(passes)
    pass_at, intervals = {}, {}
    for k in sorted(k for k in run.k if k <= samples):
        values = [pass_at_k(samples, sum(verdicts), k) for verdicts in passes.values()]
        low, high = score_interval(values, seed=f"{run.benchmark.name} {k}")
        pass_at[str(k)] = round(sum(values) / len(values), DIGITS)
        intervals[str(k)] = {"low": round(low, DIGITS), "high": round(high, DIGITS)}
    counts = Counter(outcome.verdict for outcome in outcomes)
    return {
        "pass_at": pass_at,
        "interval": intervals,
        "classes": {verdict: counts[verdict] for verdict in get_args(Verdict)},
    }


def disagreements(answers: Answers, scored: Scored) -> list[dict[str, object]]:
    """Completions that pass under one of the comparable verdict and the split checker only."""
    assert scored.split is not None
    return [
        {
            "task_id": problem.task_id,
            "sample": completion.sample,
            "class": outcome.verdict,
            "split_class": split.verdict,
            "split_message": split.message,
        }
        for (problem, completion), outcome, split in zip(answers, scored.outcomes, scored.split, strict=True)
        if (outcome.verdict == "passed") != (split.verdict == "passed")
    ]


def result_lines(answers: Answers, scored: Scored) -> bytes:
    """What `results.jsonl` holds: task, sample, class and message of each completion."""
    return b"".join(
        canonical_json(
            {
                "task_id": problem.task_id,
                "sample": completion.sample,
                "class": outcome.verdict,
                "message": outcome.message,
            }
        )
        + b"\n"
        for (problem, completion), outcome in zip(answers, scored.outcomes, strict=True)
    )


def write(out: Path, answers: Answers, scored: Scored, run: BenchmarkRun, protocol: Protocol) -> None:
    """Fill a folder with `scores.json`, `results.jsonl` and `ledger.json`."""
    out.mkdir()
    write_json(out / "scores.json", summarise(answers, scored, run))
    write_bytes(out / "results.jsonl", result_lines(answers, scored))
    ledger, name = stage.Ledger(), run.benchmark.name
    for (problem, completion), outcome in zip(answers, scored.outcomes, strict=True):
        size = len(completion.completion.encode())
        ledger.take(name, size)
        if outcome.verdict == "passed":
            ledger.keep(name, size)
        else:
            ledger.drop(outcome.verdict, f"{problem.task_id} sample {completion.sample}: {outcome.message}")
    unique = {problem.task_id: problem for problem, _ in answers}.values()
    ledger.state("problems_sha256", digest_json([contents(problem) for problem in unique]))
    ledger.state("protocol", {"name": protocol.name, "schema": protocol.schema, "stops": list(protocol.stops)})
    ledger.state("limits", run.limits.model_dump(mode="json"))
    ledger.state("sandbox", {"tier": scored.tier, "interpreter": scored.interpreter})
    if scored.split is not None:
        ledger.state("split_checker_disagrees", disagreements(answers, scored))
    write_json(out / "ledger.json", ledger.as_json())


@click.command(
    epilog="Example: python -m evaluation.score evaluations.smoke-humaneval --completions completions "
    "--benchmark benchmark --out scored"
)
@click.argument("node")
@click.option("--completions", type=click.Path(path_type=Path, exists=True), help="Folder of the complete stage.")
@click.option("--canonical", "source", flag_value="canonical", help="Score the benchmark's own solutions instead.")
@click.option("--empty", "source", flag_value="empty", help="Score empty completions instead.")
@click.option("--benchmark", type=click.Path(path_type=Path, exists=True), required=True, help="Fetched benchmark.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for scores and verdicts.")
@click.option("--workers", type=click.IntRange(1), help="Sandboxes used at one time; default: one for each core.")
@click.option("--tier", type=click.Choice(["T0", "T1"]), default="T0", help="T1 isolates without namespaces.")
@click.option("--audit", is_flag=True, help="Run all under the split checker too; list what it sees otherwise.")
@click.option("--unsafe-exec", is_flag=True, help="Run programs with no isolation. Never for what a model wrote.")
@stage.command
def main(
    node: str,
    completions: Path | None,
    source: str | None,
    benchmark: Path,
    out: Path,
    workers: int | None,
    tier: Tier,
    audit: bool,
    unsafe_exec: bool,
) -> None:
    """Run every completion against its problem's tests in a sandbox and compute pass@k."""
    evaluation = stage.node(node, EvaluationNode)
    run = evaluation.request
    protocol = find_protocol(run.protocol, run.benchmark.problem_schema)
    if (completions is None) == (source is None):
        raise UserError("give one of --completions DIR, --canonical or --empty")
    problems = load_problems(run.benchmark, benchmark)
    run = run.model_copy(update={"limits": limits_for(run.limits, problems)})
    if completions is not None:
        answers = by_problem(problems, read_completions(completions / FILE), run.samples)
    else:
        answers = canonical(problems, protocol) if source == "canonical" else empty(problems)
    used: Tier = "T2" if unsafe_exec else tier
    section = {"limits": run.limits.model_dump(mode="json"), "tier": used, "python": platform.python_version()}
    inputs = {
        "problems": content_sha256(problems),
        "protocol": protocol.name,
        # Two sets of answers may be scored at one time.
        "answers": digest_json([asdict(completion) for _, completion in answers]),
    }
    with stage.measuring("score", node) as facts, stage.scratch("score", section, inputs) as folder:
        journal = folder / "verdicts.jsonl"
        try:
            scored = score(answers, protocol, run.limits, tier=used, audit=audit, workers=workers, verdicts=journal)
        except KeyboardInterrupt:
            known = len(Verdicts(journal))
            click.echo(f"interrupted with {known} verdicts; they are kept, run again to continue", err=True)
            sys.exit(130)
        with replacing(out) as temporary:
            write(temporary, answers, scored, run, protocol)
        facts["programs"] = len(answers)
        passed = sum(outcome.verdict == "passed" for outcome in scored.outcomes)
    click.echo(f"{passed} of {len(answers)} passed")
    if scored.split is not None:
        click.echo(f"the split checker disagrees about {len(disagreements(answers, scored))}: see ledger.json")


if __name__ == "__main__":
    main()
