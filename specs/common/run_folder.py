"""The files of a training run, by name: the one place where the names are spelt.

A finished run holds `weights`, `steps` and `record`. One in progress is a scratch folder: the job, the journal so far,
checkpoints, what the launcher leaves, and at last the finished run. Each checkpoint holds a journal of its own.
"""

from dataclasses import dataclass
from pathlib import Path

ENVIRONMENT = "environment.json"
"""In the measured folder of a run: the machine and the code that computed it."""
THROUGHPUT = "throughput.json"
"""In the measured folder of a run: tokens a second."""


@dataclass(frozen=True)
class RunFolder:
    """Where the files of one run lie. Nothing is read, and nothing need exist."""

    path: Path

    @property
    def weights(self) -> Path:
        """Master weights of a finished run, fp32."""
        return self.path / "model.safetensors"

    @property
    def steps(self) -> Path:
        """The journal: a line for each step, which continues the digest chain."""
        return self.path / "steps.jsonl"

    @property
    def record(self) -> Path:
        """What a finished run computed, and from what."""
        return self.path / "record.json"

    @property
    def job(self) -> Path:
        """What the ranks of a run in progress are told."""
        return self.path / "job.json"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints of a run in progress."""
        return self.path / "checkpoints"

    @property
    def finished(self) -> "RunFolder":
        """The finished run inside the scratch folder of one in progress."""
        return RunFolder(self.path / "finished")

    @property
    def failure(self) -> Path:
        """Why the last attempt of a run in progress ended, where it cannot go on."""
        return self.path / "failure.txt"

    @property
    def stopped(self) -> Path:
        """Exists where the last attempt ended because it was asked to."""
        return self.path / "stopped"

    @property
    def ended(self) -> Path:
        """How the last attempt of a node ended that did not finish, where trying again may help."""
        return self.path / "ended.txt"

    @property
    def agents(self) -> Path:
        """Lock that the launchers hold which work on a run in progress."""
        return self.path / "agents.lock"

    @property
    def verified(self) -> Path:
        """Which files of the token store were found whole, by size, time and inode."""
        return self.path / "verified.json"

    @property
    def submitted(self) -> Path:
        """Which scheduler was given a run in progress, under which name."""
        return self.path / "submitted.json"

    @property
    def logs(self) -> Path:
        """Folder of what the ranks of a run in progress print."""
        return self.path / "logs"
