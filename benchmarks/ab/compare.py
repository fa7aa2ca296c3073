"""A/B against another revision: which workloads have become slower, by how much, and how sure that is.

Both sides run in fresh processes that take turns, a round of one and then a round of the other, on processor time. A
ratio is worse when it exceeds its case's tolerance and its interval excludes equality.
"""

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.ab.revisions import NoSuchWork, Process, Side, checkout, workloads_of
from benchmarks.ab.statistics import Ratio, Visit, ratio
from benchmarks.workloads.inputs import Inputs, prepare
from benchmarks.workloads.workloads import CASES
from specs.common.errors import UserError
from specs.common.files import write_json
from specs.common.progress import Progress
from specs.common.tables import number, table

COUNTED_ROUNDS = (1, 2)
"""Runs of so many rounds are counted; their difference is free of what starting up takes."""


@dataclass(frozen=True)
class Compared:
    """One case on both sides."""

    case: str
    tolerance: float
    unit: str
    rates: tuple[float, float]
    """Of base and head: units for each second of processor time, in the median round."""
    cpu: Ratio
    """Of processor time; this decides."""
    wall: Ratio
    """Of wall-clock time, for what waits."""
    instructions: float | None
    """Ratio of instruction counts; none where they were not counted."""
    visits: list[Visit]
    """What was measured: processor seconds of base and head, pair by pair."""

    @property
    def worse(self) -> bool:
        """Whether this is an alarm."""
        return self.cpu.worse_than(self.tolerance)


def compare_case(name: str, base: Side, head: Side, inputs: Inputs, visits: int, rounds: int, count: bool) -> Compared:
    """Measure one case. Raises NoSuchWork where a side cannot run it, or the sides would do different work."""
    case, seconds, walls, told = CASES[name], [], [], {}
    for number_of_visit in range(visits):
        with Process(base, name, inputs.folder) as a, Process(head, name, inputs.folder) as b:
            told, other = a.hello(), b.hello()
            if told != other:
                raise NoSuchWork(f"a round is {told} in the base and {other} in the head")
            pairs = []
            for number_of_round in range(rounds):
                # Turns alternate, so that neither side always comes second.
                if (number_of_visit + number_of_round) % 2:
                    second, first = b.round(), a.round()
                else:
                    first, second = a.round(), b.round()
                pairs.append((first, second))
        seconds.append([(first.cpu, second.cpu) for first, second in pairs])
        walls.append([(first.wall, second.wall) for first, second in pairs])
    flat = [pair for visit in seconds for pair in visit]
    typical = [sorted(pair[side] for pair in flat)[len(flat) // 2] for side in range(2)]
    counted = None
    if count and case.pure and shutil.which("valgrind"):
        counted = instructions(head, name, inputs) / instructions(base, name, inputs)
    rates = (told["amount"] / typical[0], told["amount"] / typical[1])
    return Compared(name, case.tolerance, told["unit"], rates, ratio(seconds), ratio(walls), counted, list(seconds))


def instructions(side: Side, case: str, inputs: Inputs) -> int:
    """Instructions of one round, counted by valgrind: hardly any noise, at some thirty times the time."""
    totals = []
    for rounds in COUNTED_ROUNDS:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "counts"
            # Counting alone: without a simulated cache and a call graph it takes a quarter of the time.
            tool = ["valgrind", "--tool=cachegrind", "--cache-sim=no", f"--cachegrind-out-file={out}", "--"]
            command = [*tool, *side.command(case, inputs.folder, "--rounds", str(rounds))]
            done = subprocess.run(
                command, env=side.environment, cwd=side.code, capture_output=True, encoding="utf-8", check=False
            )
            totals.append(total_of(out.read_text("utf-8")) if done.returncode == 0 and out.exists() else None)
            if totals[-1] is None:
                raise NoSuchWork(f"valgrind: {' '.join(done.stderr.split())[-300:]}")
    first, last = (total for total in totals if total is not None)
    return (last - first) // (COUNTED_ROUNDS[1] - COUNTED_ROUNDS[0])


def total_of(profile: str) -> int | None:
    """Instructions in all, from a profile as cachegrind writes it; none where it states none."""
    stated = [line.split()[1] for line in profile.splitlines() if line.startswith("summary:")]
    return int(stated[-1]) if stated else None


def lines(base: str, head: str, compared: list[Compared], missing: dict[str, str]) -> list[str]:
    """The comparison as text."""
    rows = [["case", "base", "head", "", "time of head", "95% interval", "allowed", "wall", "instructions", ""]]
    for each in compared:
        rows.append(
            [
                each.case,
                *(number(round(rate, 1 if rate >= 10 else 3)) for rate in each.rates),
                f"{each.unit}/s",
                f"{each.cpu.value:.3f}",
                f"{each.cpu.low:.3f} to {each.cpu.high:.3f}",
                f"{1 + each.tolerance:.2f}",
                f"{each.wall.value:.3f}",
                "-" if each.instructions is None else f"{each.instructions:.4f}",
                "SLOWER" if each.worse else "faster" if each.cpu.high < 1 - each.tolerance else "",
            ]
        )
    left_out = [f"  {name} not compared: {reason}" for name, reason in missing.items()]
    slower = [each.case for each in compared if each.worse]
    verdict = f"slower than allowed: {', '.join(slower)}" if slower else "nothing is slower than allowed"
    return [
        f"base {base}, head {head}; processor time, as a multiple of the base's",
        *table(rows, (1, 2, 4)),
        *left_out,
        verdict,
    ]


def as_json(base: str, head: str, compared: list[Compared], missing: dict[str, str]) -> dict[str, Any]:
    """The comparison, with every time measured."""
    cases = {
        each.case: {
            "tolerance": each.tolerance,
            "unit": each.unit,
            "rates": each.rates,
            "cpu": vars(each.cpu),
            "wall": vars(each.wall),
            "instructions": each.instructions,
            "worse": each.worse,
            "visits": each.visits,
        }
        for each in compared
    }
    return {"base": base, "head": head, "cases": cases, "not_compared": missing}


def compare(
    base: str, head: str, names: tuple[str, ...], *, visits: int, rounds: int, count: bool
) -> tuple[list[Compared], dict[str, str]]:
    """Every case on both sides, and why some could not be compared. `head` is a revision, or empty for this checkout.

    The head's workloads measure both sides, so both do the same work; where they do not fit the base's code, which had
    another form, the base brings its own.
    """
    compared, missing = [], {}
    with contextlib.ExitStack() as stack:
        code = stack.enter_context(checkout(base))
        inputs = prepare()
        here = Path(__file__).resolve().parents[2]
        mine = stack.enter_context(checkout(head)) if head else here
        workloads = stack.enter_context(workloads_of(here))
        first, second = Side(base, code, workloads), Side(head or "this checkout", mine, workloads)
        progress = stack.enter_context(Progress("compare", len(names), "cases"))
        for name in names:
            try:
                compared.append(_with_fallback(name, first, second, inputs, visits, rounds, count))
            except NoSuchWork as error:
                missing[name] = str(error)
            progress.advance(note=name)
    return compared, missing


def _with_fallback(
    name: str, base: Side, head: Side, inputs: Inputs, visits: int, rounds: int, count: bool
) -> Compared:
    try:
        return compare_case(name, base, head, inputs, visits, rounds, count)
    except NoSuchWork:
        if not (base.code / "benchmarks" / "worker.py").is_file():
            raise
    with workloads_of(base.code) as own:
        return compare_case(name, Side(base.label, base.code, own), head, inputs, visits, rounds, count)


@click.command(epilog="Example: python -m benchmarks.ab.compare --base main --case tokenize --case step")
@click.option("--base", required=True, help="Revision to compare with.")
@click.option("--head", default="", help="Revision to judge; default: this checkout as it stands.")
@click.option("--case", "cases", multiple=True, type=click.Choice(list(CASES)), help="Compare these only.")
@click.option("--visits", default=3, show_default=True, type=click.IntRange(1), help="Pairs of fresh processes.")
@click.option("--rounds", default=8, show_default=True, type=click.IntRange(1), help="Pairs of rounds in each visit.")
@click.option("--instructions", "count", is_flag=True, help="Count instructions as well, where valgrind is (slow).")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write every time measured to this file.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", help="Output format.")
def main(
    base: str, head: str, cases: tuple[str, ...], visits: int, rounds: int, count: bool, out: Path | None, form: str
) -> None:
    """Compare the speed of two revisions. Exit code 1 if a case is slower than allowed, 2 for bad input."""
    try:
        compared, missing = compare(base, head, cases or tuple(CASES), visits=visits, rounds=rounds, count=count)
        if not compared:
            raise UserError(f"nothing could be compared; {next(iter(missing))}: {next(iter(missing.values()))}")
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    plain = as_json(base, head or "this checkout", compared, missing)
    if out is not None:
        write_json(out, plain)
    told = lines(base, head or "this checkout", compared, missing)
    click.echo(json.dumps(plain, indent=2) if form == "json" else "\n".join(told))
    sys.exit(1 if any(each.worse for each in compared) else 0)


if __name__ == "__main__":
    main()
