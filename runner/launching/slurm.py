"""SLURM: a batch script that starts one agent on each node, and the scheduler that runs it."""

import shlex
import sys
from pathlib import Path

from runner.launching.cluster import Slurm
from runner.launching.node import node_command
from runner.launching.scheduler import State, ask
from runner.training.job import STOPPED, Job
from specs.common.errors import UserError
from specs.loading.settings import ROOT

_WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SUSPENDED", "RESIZING"}
_RUNNING = {"RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED"}


class SlurmScheduler:
    """SLURM through its own commands."""

    kind = "slurm"

    def __init__(self, profile: Slurm) -> None:
        self.profile = profile
        self.poll_seconds: int = profile.poll_seconds

    def render(self, job: Job, path: Path, ranks: int, per_node: int) -> str:
        """The batch script.

        It is requeued after a preemption (by SLURM) and when the run stopped because its time ran out (by itself, exit
        code 75); it then goes on from the last checkpoint.
        """
        profile, nodes = self.profile, ranks // per_node
        options = [
            f"--job-name=twice-{job.stage}-{job.name}",
            f"--nodes={nodes if profile.least_nodes is None else f'{profile.least_nodes}-{nodes}'}",
            "--ntasks-per-node=1",
            f"--cpus-per-task={per_node * job.threads}",
            f"--chdir={ROOT}",
            f"--output={path.parent}/logs/slurm-%j.log",
            "--open-mode=append",
            "--requeue",
            *(["--no-kill"] if profile.least_nodes else []),
            # To the ranks, not to this script.
            f"--signal=USR1@{profile.save_seconds}",
            *(f"--{name}={value}" for name in ("partition", "account", "time") if (value := getattr(profile, name))),
            *profile.directives,
        ]
        command = node_command(profile, path, per_node, sys.executable)
        return "\n".join(
            [
                "#!/bin/bash",
                *(f"#SBATCH {option}" for option in options),
                "",
                "set -u",
                *profile.setup,
                'head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
                "# Nodes that are lost do not end the others: they go on without them, or wait.",
                "srun --kill-on-bad-exit=0 \\",
                f'  {shlex.join(command)} --nodes "$SLURM_JOB_NUM_NODES" \\',
                f'  --rendezvous "$head:{profile.port}" --run-id "$SLURM_JOB_ID-${{SLURM_RESTART_COUNT:-0}}"',
                "code=$?",
                f'if [ "$code" -eq {STOPPED} ]; then scontrol requeue "$SLURM_JOB_ID"; fi',
                'exit "$code"',
                "",
            ]
        )

    def submit(self, script: Path, job: Job) -> str:
        """Hand in a script; returns the number of the job."""
        (script.parent / "logs").mkdir(exist_ok=True)
        answer = ask("sbatch", "--parsable", str(script))
        number = answer.strip().split(";")[0]
        if not number.isdigit():
            raise UserError(f"sbatch answered {answer.strip()!r} instead of the number of a job; look at squeue")
        return number

    def state(self, name: str) -> State:
        """Where a job stands, by squeue: it forgets a job some minutes after its end."""
        try:
            word = ask("squeue", "--noheader", "--jobs", name, "--states=all", "--format=%T").strip()
        except UserError as error:
            if "Invalid job id" in str(error):
                return "ended"
            raise
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
