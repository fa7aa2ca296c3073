"""A job of a cluster's scheduler: submitted once, followed from any process, attached again after an interruption."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Literal, Protocol, TypeVar

from runner.launching.cluster import Kubernetes, Slurm
from runner.launching.supervise import StoppedError
from runner.training.job import Job
from runner.training.journal import last_step
from runner.training.watchdog import read_failure
from specs.common.errors import UserError
from specs.common.files import sha256_file, write_bytes, write_json
from specs.common.progress import Progress
from specs.common.run_folder import RunFolder

State = Literal["waiting", "running", "ended"]
T = TypeVar("T")
SECONDS_TO_ANSWER = 300
"""How long one command of a scheduler may take; then it counts as failed."""
LONGEST_PAUSE = 16
"""Longest pause between two tries of a command that fails, in intervals of polling."""
LOOKS_AT_THE_END = 4
"""How often a job is seen to have ended before that is believed."""


class Scheduler(Protocol):
    """What a launch asks of a cluster."""

    kind: str

    @property
    def profile(self) -> Slurm | Kubernetes:
        """Where and how its jobs run."""
        ...

    def render(self, job: Job, path: Path, ranks: int, per_node: int) -> str:
        """The script or manifest that runs the job at a path on so many ranks."""
        ...

    def find(self, job: Job) -> str | None:
        """The name of a run's job that was handed in and has not ended; none where there is none."""
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


class SilentError(UserError):
    """A command of the scheduler failed: it may answer the next time."""


def ask(*command: str) -> str:
    """Standard output of a scheduler's command. Raises SilentError with its message where it fails."""
    if shutil.which(command[0]) is None:
        raise UserError(f"{command[0]} is not on the PATH: start this where the cluster's commands are, or --render")
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, timeout=SECONDS_TO_ANSWER)
    except subprocess.TimeoutExpired as error:
        raise SilentError(f"{' '.join(command[:2])} did not answer in {SECONDS_TO_ANSWER} seconds") from error
    if done.returncode:
        message = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise SilentError(f"{' '.join(command[:2])} failed with code {done.returncode}: {message}")
    return done.stdout


def job_name(job: Job) -> str:
    """Name of a run's job in a cluster: its own for every scratch folder, at most 52 letters, so that pods' names fit.

    By it a job is found again whose number was lost when the process that handed it in was killed.
    """
    digest = hashlib.sha256(job.scratch.encode()).hexdigest()[:8]
    return f"{f'twice-{job.stage}-{job.name}'[:43]}-{digest}"


def fill(template: str, **values: object) -> str:
    """Fill a template of this folder."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(values)


def submitted(folder: Path) -> dict[str, str] | None:
    """What `submitted.json` of a run's scratch folder says; none where nothing was handed in."""
    path = RunFolder(folder).submitted
    return dict(json.loads(path.read_bytes())) if path.exists() else None


def run_on(scheduler: Scheduler, job: Job, path: Path, ranks: int, per_node: int) -> None:
    """Hand in the job at a path, or attach to it where an earlier process did; wait until it has ended.

    SIGINT, SIGTERM, SIGUSR1 and SIGHUP end the waiting, not the job: raises StoppedError, and the next call attaches
    again; so does a scheduler that no longer answers. Raises UserError with the message of a rank that refused its
    input, or with what the scheduler says of the end.
    """
    folder, name = path.parent, None
    try:
        with _interruptible():
            name = _attach(scheduler, job, folder) or _submit(scheduler, job, path, ranks, per_node)
            _wait(scheduler, name, job, folder)
    except _InterruptedError as error:
        onward = f"; {scheduler.kind} job {name} goes on alone (`{scheduler.cancelling(name)}` ends it)" if name else ""
        raise StoppedError(f"{error}{onward}") from error
    RunFolder(folder).submitted.unlink(missing_ok=True)
    if reason := read_failure(RunFolder(folder).failure):
        raise UserError(reason)
    if not RunFolder(folder).finished.path.is_dir():
        reason = read_failure(RunFolder(folder).ended)
        raise UserError(
            f"{scheduler.kind} job {name} ended without a finished run ({scheduler.verdict(name)}); "
            + (reason or f"see {RunFolder(folder).logs}; run the same command again to go on from the last checkpoint")
        )


class _InterruptedError(Exception):
    """This process was asked to end, or the scheduler does not answer; the job goes on."""


@contextmanager
def _interruptible() -> Iterator[None]:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise _InterruptedError(f"interrupted by {signal.Signals(number).name}")

    signals = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _attach(scheduler: Scheduler, job: Job, folder: Path) -> str | None:
    """The name of the job that an earlier process handed in, where it is at work or has left its end to be read."""
    earlier = submitted(folder)
    if earlier and _patiently(scheduler, lambda: scheduler.state(earlier["name"])) == "ended":
        return earlier["name"] if _over(folder) else None  # it ended while nobody waited
    # Killed between the two, a process hands a job in and does not note it.
    name = earlier["name"] if earlier else _patiently(scheduler, lambda: scheduler.find(job))
    if name:
        print(f"{job.stage} {job.name}: attached to {scheduler.kind} job {name}", flush=True)
    return name


def _submit(scheduler: Scheduler, job: Job, path: Path, ranks: int, per_node: int) -> str:
    folder = path.parent
    for end in (RunFolder(folder).failure, RunFolder(folder).ended):
        end.unlink(missing_ok=True)
    script = folder / f"{scheduler.kind}.{'sh' if scheduler.kind == 'slurm' else 'yaml'}"
    write_bytes(script, scheduler.render(job, path, ranks, per_node).encode())
    name = scheduler.submit(script, job)
    write_json(RunFolder(folder).submitted, {"kind": scheduler.kind, "name": name, "script": sha256_file(script)})
    print(f"{job.stage} {job.name}: handed to {scheduler.kind} as job {name}", flush=True)
    return name


def _over(folder: Path) -> bool:
    return RunFolder(folder).finished.path.is_dir() or RunFolder(folder).failure.exists()


def _patiently(scheduler: Scheduler, question: Callable[[], T]) -> T:
    """The scheduler's answer, tried again with growing pauses while its commands fail: controllers are restarted.

    Raises _InterruptedError where it is silent for longer than the profile allows.
    """
    profile, pauses = scheduler.profile, 1
    deadline = time.monotonic() + profile.silent_seconds
    while True:
        try:
            return question()
        except SilentError as error:
            left = deadline - time.monotonic()
            if left <= 0:
                raise _InterruptedError(f"no answer for {profile.silent_seconds} seconds: {error}") from error
            print(f"{error}; trying again", file=sys.stderr, flush=True)
            time.sleep(min(pauses * profile.poll_seconds, left))
            pauses = min(2 * pauses, LONGEST_PAUSE)


def _wait(scheduler: Scheduler, name: str, job: Job, folder: Path) -> None:
    with Progress(f"{job.stage} {job.name}", job.steps, "steps") as progress:
        done = progress_of(folder)[0]
        progress.resume(done)
        ends = 0
        # A job that is to run again is seen to have ended for a moment, and a network file system may show the last
        # files of another machine a little later: an end without a finished run is looked at several times.
        while ends < LOOKS_AT_THE_END and not (ends and _over(folder)):
            state = _patiently(scheduler, lambda: scheduler.state(name))
            ends = ends + 1 if state == "ended" else 0
            now, loss = progress_of(folder)
            note = f"{state} as {scheduler.kind} job {name}" + (f", loss {loss:.3f}" if loss is not None else "")
            progress.advance(now - done, note)
            done = now
            if not (ends and _over(folder)):
                time.sleep(scheduler.profile.poll_seconds)
        progress.advance(progress_of(folder)[0] - done, f"{scheduler.kind} job {name} has ended")


def progress_of(folder: Path) -> tuple[int, float | None]:
    """The last step in a run's journal, and its loss, from the end of the file: it may be long."""
    try:
        entry = last_step(RunFolder(folder).steps)
        return (entry["step"], entry["loss"]) if entry else (0, None)
    except (OSError, UserError, KeyError):  # it is being written anew
        return 0, None
