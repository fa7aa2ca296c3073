"""Starting the ranks of a phase where the cluster profile says, and waiting for them: here, or through a scheduler."""

import shlex
import sys
from pathlib import Path

from runner.launching.cluster import Elastic, Kubernetes, Local, Nodes, Profile, Slurm
from runner.launching.kubernetes import KubernetesScheduler
from runner.launching.node import node_command
from runner.launching.scheduler import Scheduler, job_name, run_on, submitted
from runner.launching.slurm import SlurmScheduler
from runner.launching.supervise import StoppedError, run_agent
from runner.launching.torchrun import Group
from runner.training.job import Job
from specs.common.errors import UserError
from specs.common.run_folder import RunFolder

__all__ = ["StoppedError", "dispatch", "launch", "ranks_of_node", "render"]


def launch(job: Path, ranks: int, threads: int, max_restarts: int = 0) -> None:
    """Run the job at a path with so many ranks on this machine, and wait for them; raises what `run_agent` raises."""
    run_agent(job, threads, Group(ranks, Elastic(max_restarts=max_restarts)))


def dispatch(path: Path, job: Job, ranks: int, per_node: int, profile: Profile) -> None:
    """Run the job at a path on so many ranks where a profile says, and wait for them.

    per_node: ranks of a node where there are several. SIGTERM, SIGUSR1 and SIGINT stop ranks that this process started,
    which save their state; ranks of a scheduler's job go on, and the next call attaches to it.
    Raises StoppedError after such a signal, UserError where a rank refused its input or failed, or where the run is
    already at work elsewhere.
    """
    _require_free(path.parent, profile)
    match profile:
        case Local():
            launch(path, ranks, job.threads, profile.max_restarts)
        case Nodes():
            count = ranks // per_node
            command = shlex.join(_joining(profile, path, job, count, per_node))
            print(
                f"{job.stage} {job.name}: {count} nodes meet at {profile.rendezvous}. On each other node:\n  {command}"
            )
            sys.stdout.flush()
            group = Group(per_node, profile, count, profile.rendezvous, job_name(job), profile.address)
            run_agent(path, job.threads, group)
        case Slurm() | Kubernetes():
            scheduler = _scheduler(profile)
            assert scheduler is not None
            run_on(scheduler, job, path, ranks, per_node)


def render(path: Path, job: Job, ranks: int, per_node: int, profile: Profile) -> str:
    """What `launch` would hand to the scheduler, or the command that every node would run."""
    scheduler = _scheduler(profile)
    if scheduler is not None:
        return scheduler.render(job, path, ranks, per_node)
    if isinstance(profile, Nodes):
        return shlex.join(_joining(profile, path, job, ranks // per_node, per_node)) + "\n"
    return shlex.join(node_command(path, ranks, sys.executable)) + "\n"


def ranks_of_node(profile: Profile, ranks: int, devices_per_node: int) -> int:
    """Ranks of a node. Raises UserError where they do not fill nodes."""
    if isinstance(profile, Local):
        return ranks
    per_node = min(ranks, profile.ranks_per_node or devices_per_node)
    if ranks % per_node:
        raise UserError(
            f"{ranks} ranks do not fill nodes of {per_node}: ranks_per_node of the cluster profile must divide them"
        )
    return per_node


def _joining(profile: Nodes, path: Path, job: Job, nodes: int, per_node: int) -> list[str]:
    command = node_command(path, per_node, sys.executable)
    return [*command, "--nodes", str(nodes), "--rendezvous", profile.rendezvous, "--run-id", job_name(job)]


def _scheduler(profile: Profile) -> Scheduler | None:
    if isinstance(profile, Slurm):
        return SlurmScheduler(profile)
    return KubernetesScheduler(profile) if isinstance(profile, Kubernetes) else None


def _require_free(folder: Path, profile: Profile) -> None:
    """Raise UserError where a scheduler's job that another profile handed in may still be at work on the run."""
    held = submitted(folder)
    if held and held["kind"] != profile.kind:
        raise UserError(
            f"{held['kind']} job {held['name']} was started for this run: attach to it with its cluster profile, "
            f"or end it and remove {RunFolder(folder).submitted}"
        )
