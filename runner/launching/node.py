"""One node's part in a training phase: what a scheduler, or a person, starts on each machine."""

import signal
import sys

if __name__ == "__main__":
    # A request to stop that comes while torch is imported waits until it can be answered.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP})

from pathlib import Path

import click

from runner.launching.cluster import Local, elastic_of
from runner.launching.supervise import StoppedError, run_agent
from runner.launching.torchrun import Group
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


def node_command(job: Path, ranks: int, python: str) -> list[str]:
    """The command that every node runs, but for how many nodes there are and where they meet.

    What they forgive stands in the job, as the cluster profile says.
    """
    return [python, "-m", "runner.launching.node", str(job), "--ranks", str(ranks)]


@click.command(
    epilog="Example: python -m runner.launching.node scratch/pretrain-.../job.json --ranks 8 --rendezvous n1:29500"
)
@click.argument("job", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--ranks", type=click.IntRange(min=1), required=True, help="Ranks on this node.")
@click.option("--nodes", type=click.IntRange(min=1), default=1, show_default=True, help="Nodes in all.")
@click.option("--rendezvous", default="localhost:0", show_default=True, help="HOST:PORT where the nodes meet.")
@click.option("--run-id", default="", help="Name of the meeting, the same on all nodes.")
@click.option("--address", help="Name under which the other nodes reach this one.")
@stage.command
def main(job: Path, ranks: int, nodes: int, rendezvous: str, run_id: str, address: str | None) -> None:
    """Run this node's ranks of JOB, and wait for them. Exit code 75 after a request to stop: the state is saved."""
    read = read_job(job)
    require_devices(read.device, ranks)
    elastic = elastic_of(read.launch.get("profile") or Local().model_dump())
    run_id = run_id or ("twice" if nodes > 1 else "")
    try:
        run_agent(job, read.threads, Group(ranks, elastic, nodes, rendezvous, run_id, address))
    except StoppedError as error:
        print(f"{read.stage} {read.name}: {error}", file=sys.stderr)
        sys.exit(STOPPED)


if __name__ == "__main__":
    main()
