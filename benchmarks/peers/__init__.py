"""Side by side with what people use instead: same work, same run, each peer installed in an environment of its own.

    python -m benchmarks.peers install
    python -m benchmarks.peers run --json measured/peers.json
    python -m benchmarks.peers table measured/peers.json --page docs/performance.md

A peer script is a module here with a click `main` that measures this project and its peers in turn, by processor time
where work is done by processes of its own, and hands what it found to `tell`.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TypeVar

import click

from specs.common.tables import number, table

T = TypeVar("T")
OURS = "twice"
MARK = "result: "
"""Begins the line of a peer script's output that a program reads."""


@dataclass(frozen=True)
class Found:
    """One piece of work, done by this project and by others."""

    what: str
    unit: str
    rates: dict[str, list[float]]
    """Units a second of each, this project's under `twice`, in rounds that were taken in turn."""
    limit: tuple[str, float] | None = None
    """What the machine could do in this run, as a name and units a second."""
    notes: dict[str, str] = field(default_factory=dict)
    """What a reader must know about one of them, such as a checksum that it does not verify."""

    def ratio(self, peer: str) -> float:
        """How many times as fast as a peer this project is: the median over rounds."""
        return median(mine / theirs for mine, theirs in zip(self.rates[OURS], self.rates[peer], strict=True))


def tell(found: Found) -> None:
    """Print a table for people and one line for programs."""
    rows = [[found.what, f"{found.unit}/s", "twice is"]]
    for name, rates in found.rates.items():
        ratio = "" if name == OURS else f"{found.ratio(name):.2f}x"
        rows.append([name, shown(median(rates)), ratio, found.notes.get(name, "")])
    if found.limit:
        rows.append([found.limit[0], shown(found.limit[1]), f"{median(found.rates[OURS]) / found.limit[1]:.1%}"])
    click.echo("\n".join(table(rows, (1, 2))))
    click.echo(MARK + json.dumps(asdict(found)))


def heard(output: str) -> list[Found]:
    """What a script told, from its output."""
    found = [json.loads(line.removeprefix(MARK)) for line in output.splitlines() if line.startswith(MARK)]
    return [Found(**(each | {"limit": tuple(each["limit"]) if each["limit"] else None})) for each in found]


def shown(rate: float) -> str:
    """A rate in three digits or whole units."""
    return number(round(rate)) if rate >= 100 else f"{rate:.3g}"


def in_turn(rounds: int, timed: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """What each measured in so many rounds, a round of each after the other, after one that does not count."""
    taken: dict[str, list[T]] = {name: [] for name in timed}
    for index in range(rounds + 1):
        for name, measure in timed.items():
            value = measure()
            if index:
                taken[name].append(value)
    return taken
