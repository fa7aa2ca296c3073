"""SLURM: a batch script that starts one agent on each node, and the scheduler that runs it."""

import os
import shlex
import sys
from pathlib import Path

from runner.launching.cluster import Slurm
from runner.launching.node import node_command
from runner.launching.scheduler import State, ask, fill, job_name
from runner.training.job import STOPPED, Job
from specs.common.errors import UserError
from specs.common.run_folder import RunFolder
from specs.loading.settings import ROOT

_WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SUSPENDED", "RESIZING"}
_RUNNING = {"RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED"}


class SlurmScheduler:
    """SLURM through its own commands."""

    kind = "slurm"

    def __init__(self, profile: Slurm) -> None:
        self.profile = profile

    def render(self, job: Job, path: Path, ranks: int, per_node: int) -> str:
        """The batch script.

        It is requeued after a preemption (by SLURM) and when the run stopped because its time ran out (by itself, exit
        code 75); it then goes on from the last checkpoint.
        """
        profile, nodes, cpus = self.profile, ranks // per_node, per_node * job.threads
        log = str(RunFolder(path.parent).logs / "slurm-").replace("%", "%%")
        options = [
            f"--job-name={job_name(job)}",
            f"--nodes={nodes if profile.least_nodes is None else f'{profile.least_nodes}-{nodes}'}",
            "--ntasks-per-node=1",
            f"--cpus-per-task={cpus}",
            f"--chdir={ROOT}",
            f"--output={log}%j.log",
            "--open-mode=append",
            "--requeue",
            *(["--no-kill"] if profile.least_nodes else []),
            # To the ranks, not to this script.
            f"--signal=USR1@{profile.save_seconds}",
            *(f"--{name}={value}" for name in ("partition", "account", "time") if (value := getattr(profile, name))),
            *profile.directives,
        ]
        return fill(
            "slurm.sh.j2",
            options=[shlex.quote(option) for option in options],
            setup=profile.setup,
            cpus=cpus,
            command=shlex.join(node_command(path, per_node, sys.executable)),
            port=profile.port,
            stopped=STOPPED,
        )

    def find(self, job: Job) -> str | None:
        """The number of the job of a run that was handed in and has not ended; none where there is none."""
        return next((number for number, state, name in self._jobs() if name == job_name(job) and _alive(state)), None)

    def submit(self, script: Path, job: Job) -> str:
        """Hand in a script; returns the number of the job."""
        RunFolder(script.parent).logs.mkdir(exist_ok=True)
        answer = ask("sbatch", "--parsable", str(script))
        number = answer.strip().split(";")[0]
        if not number.isdigit():
            raise UserError(f"sbatch answered {answer.strip()!r} instead of the number of a job; look at squeue")
        return number

    def state(self, name: str) -> State:
        """Where a job stands, by squeue: it forgets a job some minutes after its end."""
        word = next((state for number, state, _ in self._jobs() if number == name), "")
        return "running" if word in _RUNNING else "waiting" if word in _WAITING else "ended"

    def verdict(self, name: str) -> str:
        """State and exit code, by sacct where accounting is kept."""
        try:
            lines = ask("sacct", "--noheader", "-X", "--parsable2", "--jobs", name, "--format=State,ExitCode")
        except UserError:
            return "SLURM keeps no accounts to say how"
        return lines.strip().splitlines()[-1].replace("|", ", exit code ") if lines.strip() else "no account of it"

    def cancelling(self, name: str) -> str:
        """The command that ends a job."""
        return f"scancel {name}"

    def _jobs(self) -> list[list[str]]:
        """Number, state and name of every job of this user: asked for one that it forgot, squeue would fail."""
        lines = ask("squeue", "--noheader", f"--user={os.getuid()}", "--states=all", "--format=%A|%T|%j")
        return [line.split("|", 2) for line in lines.splitlines()]


def _alive(state: str) -> bool:
    return state in _RUNNING or state in _WAITING
