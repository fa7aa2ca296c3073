"""Cost against size: each stage over a sixteenfold range, with the power of the size that its cost grows with.

A cost is the least of its rounds, in processor time: what disturbs only ever adds. The exponent is fitted through all
sizes. Deduplication is also measured on corpora of 2,000 to 64,000 documents that are made to cost it most.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import click

from benchmarks.ab.statistics import exponent
from benchmarks.measuring.cost import adopt_orphans, cost
from benchmarks.measuring.machine import facts
from benchmarks.studies.growth_stages import ADVERSARIAL, STAGES
from benchmarks.workloads.inputs import Inputs, prepare
from runner.training.determinism import environment_of_ranks
from specs.common.files import write_json
from specs.common.progress import Progress
from specs.common.tables import number, table
from specs.loading.settings import ROOT

FACTORS = (1, 2, 4, 8, 16)
ALLOWED = 1.1

ADVERSARIAL_FACTORS = (1, 2, 4, 8, 16, 32)
"""Of 2,000 documents."""
ADVERSARIAL_ALLOWED = 1.15


@dataclasses.dataclass(frozen=True)
class Growth:
    """How the cost of a stage grows with one size."""

    stage: str
    of: str
    """What is counted."""
    sizes: list[float]
    costs: list[float]
    """Least processor seconds at each size."""
    exponent: float


RANKED = ("step, tokens", "step, micro-batches", "step, length", "reduction")
"""What ranks do."""


def grown(name: str, inputs: Inputs, rounds: int) -> Growth:
    """Measure one stage at five sizes."""
    of, make = STAGES[name]
    sizes, costs = [], []
    for factor in ADVERSARIAL_FACTORS if name in ADVERSARIAL else FACTORS:
        with tempfile.TemporaryDirectory(prefix="twice-growth-") as folder:
            with make(inputs, Path(folder), factor) as (size, run):
                run()
                sizes.append(size)
                costs.append(min(cost(run).cpu for _ in range(rounds)))
    return Growth(name, of, sizes, costs, exponent(sizes, costs))


def grown_as_rank(name: str, rounds: int) -> Growth:
    """The same in a process that starts as ranks do: the allocator reads its settings once.

    Without them every large tensor is faulted in anew, so that what is folded in large pieces costs more.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [sys.executable, "-m", "benchmarks.studies.growth", "--stage", name, "--rounds", str(rounds)]
        environment = os.environ | environment_of_ranks(1)
        subprocess.run(
            [*command, "--json", str(out)], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=False
        )
        return Growth(**json.loads(out.read_bytes())["stages"][0])


def allowed(stage: str) -> float:
    """The exponent from which the growth of a stage is too fast."""
    return ADVERSARIAL_ALLOWED if stage in ADVERSARIAL else ALLOWED


def lines(found: list[Growth]) -> list[str]:
    """The growth of each stage as text."""
    rows = [["stage", "against", "from", "to", "seconds", "", "exponent"]]
    for each in found:
        ends = [number(round(each.sizes[0], 2)), number(round(each.sizes[-1], 2))]
        seconds = [f"{each.costs[0]:.3f}", f"{each.costs[-1]:.3f}"]
        above = f"above {allowed(each.stage)}" if each.exponent > allowed(each.stage) else ""
        rows.append([each.stage, each.of, *ends, *seconds, f"{each.exponent:.2f}", above])
    return table(rows, (2, 3, 4, 5, 6))


@click.command(epilog="Example: python -m benchmarks.studies.growth --stage dedup --stage pack")
@click.option("--stage", "stages", multiple=True, type=click.Choice(list(STAGES)), help="Measure these only.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Rounds at each size.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write what was measured to this file.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", help="Output format.")
def main(stages: tuple[str, ...], rounds: int, out: Path | None, form: str) -> None:
    """Measure how the cost of each stage grows. Exit code 1 if one grows too fast: above 1.1, or 1.15."""
    adopt_orphans()
    inputs, found = prepare(), []
    names = stages or tuple(STAGES)
    with Progress("growth", len(names), "stages") as progress:
        for name in names:
            as_rank = name in RANKED and any(os.environ.get(k) != v for k, v in environment_of_ranks(1).items())
            found.append(grown_as_rank(name, rounds) if as_rank else grown(name, inputs, rounds))
            progress.advance(note=name)
    facts_of_run = {"date": datetime.now(UTC).date().isoformat(), "machine": facts()}
    plain = facts_of_run | {"stages": [dataclasses.asdict(each) for each in found]}
    if out is not None:
        write_json(out, plain)
    click.echo(json.dumps(plain, indent=2) if form == "json" else "\n".join(lines(found)))
    raise SystemExit(1 if any(each.exponent > allowed(each.stage) for each in found) else 0)


if __name__ == "__main__":
    main()
