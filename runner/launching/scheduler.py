"""A job of a cluster's scheduler: submitted once, followed from any process, attached again after an interruption."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import FrameType
from typing import Literal, Protocol

from runner.launching.torchrun import StoppedError
from runner.training.job import FAILURE, Job
from specs.common.errors import UserError
from specs.common.files import sha256_file, write_bytes, write_json
from specs.common.progress import Progress

State = Literal["waiting", "running", "ended"]
SUBMITTED = "submitted.json"
"""Beside the job: which scheduler was given it, under which name."""


class Scheduler(Protocol):
    """What a launch asks of a cluster."""

    kind: str
    poll_seconds: int

    def render(self, job: Job, path: Path, ranks: int, per_node: int) -> str:
        """The script or manifest that runs the job at a path on so many ranks."""
        ...

    def submit(self, script: Path, job: Job) -> str:
        """Hand in a script; returns the name by which the scheduler knows it."""
        ...

    def state(self, name: str) -> State:
        """Where a job stands; one that the scheduler has forgotten has ended."""
        ...

    def verdict(self, name: str) -> str:
        """How a job ended, in the scheduler's words."""
        ...

    def cancelling(self, name: str) -> str:
        """The command that ends a job."""
        ...


def ask(*command: str) -> str:
    """Standard output of a scheduler's command. Raises UserError with its message where it fails."""
    if shutil.which(command[0]) is None:
        raise UserError(f"{command[0]} is not on the PATH: start this where the cluster's commands are, or --render")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        message = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise UserError(f"{' '.join(command[:2])} failed with code {done.returncode}: {message}")
    return done.stdout


def submitted(folder: Path) -> dict[str, str] | None:
    """What `submitted.json` of a run's scratch folder says; none where nothing was handed in."""
    path = folder / SUBMITTED
    return dict(json.loads(path.read_bytes())) if path.exists() else None


def run_on(scheduler: Scheduler, job: Job, path: Path, ranks: int, per_node: int) -> None:
    """Hand in the job at a path, or attach to it where an earlier process did; wait until it has ended.

    SIGINT, SIGTERM and SIGUSR1 end the waiting, not the job: raises StoppedError, and the next call attaches again.
    Raises UserError with the message of a rank that refused its input, or with what the scheduler says of the end.
    """
    folder = path.parent
    held = submitted(folder)
    if held and scheduler.state(held["name"]) != "ended":
        print(f"{job.stage} {job.name}: attached to {held['kind']} job {held['name']}", flush=True)
        name = held["name"]
    elif held and _over(folder):
        name = held["name"]  # it ended while nobody waited
    else:
        (folder / FAILURE).unlink(missing_ok=True)
        script = folder / f"{scheduler.kind}.{'sh' if scheduler.kind == 'slurm' else 'yaml'}"
        write_bytes(script, scheduler.render(job, path, ranks, per_node).encode())
        name = scheduler.submit(script, job)
        write_json(folder / SUBMITTED, {"kind": scheduler.kind, "name": name, "script": sha256_file(script)})
        print(f"{job.stage} {job.name}: handed to {scheduler.kind} as job {name}", flush=True)
    try:
        _wait(scheduler, name, job, folder)
    except _InterruptedError as error:
        raise StoppedError(
            f"{error}; {scheduler.kind} job {name} goes on alone (`{scheduler.cancelling(name)}` ends it)"
        ) from error
    (folder / SUBMITTED).unlink()
    if (folder / FAILURE).exists():
        raise UserError((folder / FAILURE).read_text("utf-8"))
    if not (folder / "finished").is_dir():
        raise UserError(
            f"{scheduler.kind} job {name} ended without a finished run ({scheduler.verdict(name)}); see {folder}/logs; "
            "run the same command again to go on from the last checkpoint"
        )


class _InterruptedError(Exception):
    """A signal asked this process to end."""


def _over(folder: Path) -> bool:
    return (folder / "finished").is_dir() or (folder / FAILURE).exists()


def _wait(scheduler: Scheduler, name: str, job: Job, folder: Path) -> None:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise _InterruptedError(f"interrupted by {signal.Signals(number).name}")

    signals = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        with Progress(f"{job.stage} {job.name}", job.steps, "steps") as progress:
            done = _steps(folder)[0]
            progress.resume(done)
            while (state := scheduler.state(name)) != "ended":
                now, loss = _steps(folder)
                note = f"{state} as {scheduler.kind} job {name}" + (f", loss {loss:.3f}" if loss is not None else "")
                progress.advance(now - done, note)
                done = now
                time.sleep(scheduler.poll_seconds)
            # A network file system may show the last files of another machine a little later.
            for _ in range(3):
                if _over(folder):
                    break
                time.sleep(scheduler.poll_seconds)
            progress.advance(_steps(folder)[0] - done, f"{scheduler.kind} job {name} has ended")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _steps(folder: Path) -> tuple[int, float | None]:
    """Steps in the journal, and the last loss."""
    try:
        lines = (folder / "steps.jsonl").read_bytes().splitlines(keepends=True)
    except OSError:
        return 0, None
    whole = [line for line in lines if line.endswith(b"\n")]
    return len(whole), (json.loads(whole[-1])["loss"] if whole else None)
