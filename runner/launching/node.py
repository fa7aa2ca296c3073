"""One node's part in a training phase: what a scheduler, or a person, starts on each machine."""

import sys
from pathlib import Path

import click

from runner.launching.cluster import Elastic
from runner.launching.torchrun import Group, StoppedError, run_agent
from runner.training.device import require_devices
from runner.training.job import STOPPED, Job
from specs.common.errors import UserError
from specs.pipeline import stage


def read_job(path: Path) -> Job:
    """The job at a path. Raises UserError where there is none."""
    try:
        return Job.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no job of a training phase that this checkout wrote; run the stage again") from error


def node_command(profile: Elastic, job: Path, ranks: int, python: str) -> list[str]:
    """The command that every node runs, but for how many nodes there are and where they meet."""
    options: dict[str, object] = {
        "ranks": ranks,
        "least-nodes": profile.least_nodes,
        "max-restarts": profile.max_restarts,
        "join-seconds": profile.join_seconds,
        "last-call-seconds": profile.last_call_seconds,
        "lost-after-seconds": profile.lost_after_seconds,
        "save-seconds": getattr(profile, "save_seconds", None),
        "interface": profile.interface,
    }
    given = [part for name, value in options.items() if value is not None for part in (f"--{name}", str(value))]
    return [python, "-m", "runner.launching.node", str(job), *given]


@click.command(
    epilog="Example: python -m runner.launching.node scratch/pretrain-.../job.json --ranks 8 --rendezvous n1:29500"
)
@click.argument("job", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--ranks", type=click.IntRange(min=1), required=True, help="Ranks on this node.")
@click.option("--nodes", type=click.IntRange(min=1), default=1, show_default=True, help="Nodes in all.")
@click.option("--least-nodes", type=click.IntRange(min=1), help="Fewest nodes to go on with; none means all.")
@click.option("--rendezvous", default="localhost:0", show_default=True, help="HOST:PORT where the nodes meet.")
@click.option("--run-id", default="", help="Name of the meeting, the same on all nodes.")
@click.option("--max-restarts", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--join-seconds", type=click.IntRange(min=1), default=600, show_default=True)
@click.option("--last-call-seconds", type=click.IntRange(min=1), default=30, show_default=True)
@click.option("--lost-after-seconds", type=click.IntRange(min=1), default=15, show_default=True)
@click.option("--save-seconds", type=click.IntRange(min=1), default=120, show_default=True)
@click.option("--interface", help="Network interface of the process group.")
@click.option("--address", help="Name under which the other nodes reach this one.")
@stage.command
def main(
    job: Path,
    ranks: int,
    nodes: int,
    least_nodes: int | None,
    rendezvous: str,
    run_id: str,
    max_restarts: int,
    join_seconds: int,
    last_call_seconds: int,
    lost_after_seconds: int,
    save_seconds: int,
    interface: str | None,
    address: str | None,
) -> None:
    """Run this node's ranks of JOB, and wait for them. Exit code 75 after a request to stop: the state is saved."""
    read = read_job(job)
    require_devices(read.device, ranks)
    group = Group(
        ranks,
        least_nodes or nodes,
        nodes,
        rendezvous,
        run_id or "twice",
        max_restarts,
        join_seconds,
        last_call_seconds,
        lost_after_seconds,
        interface,
        address,
        save_seconds,
    )
    try:
        run_agent(job, read.threads, group)
    except StoppedError as error:
        print(f"{read.stage} {read.name}: {error}; its state is saved", file=sys.stderr)
        sys.exit(STOPPED)


if __name__ == "__main__":
    main()
