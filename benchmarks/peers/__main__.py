"""Installs the peers, runs their scripts, and writes what they found into a page."""

import json
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from benchmarks.measuring.machine import facts
from benchmarks.peers import MARK, Found, environments, heard
from benchmarks.peers.environments import BESIDE, ENVIRONMENTS, VARIABLE
from benchmarks.peers.page import write_into
from runner.commands.options import Group
from specs.common.errors import UserError
from specs.common.files import write_json
from specs.loading.settings import ROOT

FOLDER = click.option(
    "--into",
    "folder",
    type=click.Path(path_type=Path),
    envvar=VARIABLE,
    help="Folder that holds the environments, unless peers/ in the folder `scratch`.",
)


def scripts() -> list[str]:
    """Names of the scripts: the other environments are those of processes that scripts start."""
    started = {other for others in BESIDE.values() for other in others}
    return [name for name in ENVIRONMENTS if name not in started]


def chosen(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """The names asked for; all where none is. Raises UserError for one that is not there."""
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"there is no peer script {unknown[0]!r}; there are: {', '.join(known)}")
    return list(names) or list(known)


@click.group(cls=Group, epilog="Example: python -m benchmarks.peers install tokenizing")
def main() -> None:
    """Measure this project beside its peers."""


@main.command(epilog="Example: python -m benchmarks.peers install tokenizing reading streaming")
@click.argument("names", nargs=-1)
@FOLDER
def install(names: tuple[str, ...], folder: Path | None) -> None:
    """Make the named environments, or all; each is tried, and those that fail are named at the end."""
    _use(folder)
    failed = []
    for name in chosen(names, list(ENVIRONMENTS)):
        try:
            environments.install(name)
        except UserError as error:
            failed.append(str(error))
            continue
        click.echo(f"{name}: {' '.join(ENVIRONMENTS[name])}")
    if failed:
        raise UserError("; ".join(failed))


@main.command(epilog="Example: python -m benchmarks.peers run tokenizing --json measured/peers.json")
@click.argument("names", nargs=-1)
@click.option("--json", "out", type=click.Path(path_type=Path), default="measured/peers.json", show_default=True)
@FOLDER
def run(names: tuple[str, ...], out: Path, folder: Path | None) -> None:
    """Run the named scripts, or all, each in its environment; results are added to those in the file.

    One that fails leaves the others' results as they are; those that failed are named at the end.
    """
    _use(folder)
    failed = {}
    for name in chosen(names, scripts()):
        began = time.monotonic()
        try:
            results = json.loads(out.read_bytes()) if out.exists() else {}
            write_json(out, results | {name: _measured(name)})
        except UserError as error:
            failed[name] = str(error)
        click.echo(f"{name}: {failed.get(name, 'done')} ({time.monotonic() - began:.0f} s)", err=True)
    if failed:
        raise UserError("; ".join(f"{name}: {why}" for name, why in failed.items()))


def _measured(name: str) -> dict[str, Any]:
    """What a script found, and in what circumstances. Raises UserError where it failed."""
    python = environments.ready(name)
    done = subprocess.run(
        [str(python), "-m", f"benchmarks.peers.{name}"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=False,
    )
    found = heard(done.stdout)
    click.echo("\n".join(line for line in done.stdout.splitlines() if not line.startswith(MARK)))
    if done.returncode or not found:
        raise UserError(f"ended with code {done.returncode} and {len(found)} results; what it said stands above")
    return {
        "command": f"python -m benchmarks.peers run {name}",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": facts(),
        "versions": [pin for each in (name, *BESIDE.get(name, ())) for pin in ENVIRONMENTS[each]],
        "found": [asdict(each) for each in found],
    }


def _use(folder: Path | None) -> None:
    """Have this process, and those it starts, find the environments there."""
    if folder is not None:
        os.environ[VARIABLE] = str(folder.resolve())


@main.command(
    name="table", epilog="Example: python -m benchmarks.peers table measured/peers.json --page docs/performance.md"
)
@click.argument("results", type=click.Path(path_type=Path, exists=True))
@click.option("--page", type=click.Path(path_type=Path, exists=True), required=True, help="Page to write into.")
def write_table(results: Path, page: Path) -> None:
    """Write the results as a table between the page's markers, and as a plot beside the page."""
    told = json.loads(results.read_bytes())
    write_into(page, told, {name: [Found(**each) for each in entry["found"]] for name, entry in told.items()})


if __name__ == "__main__":
    main()
