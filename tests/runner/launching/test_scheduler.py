"""Waiting for a job, against a scheduler that answers as it is told."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.launching.cluster import Slurm
from runner.launching.node import read_job
from runner.launching.scheduler import SilentError, State, job_name, progress_of, run_on
from runner.launching.supervise import StoppedError
from runner.training.job import Job
from specs.common.errors import UserError

MakeJob = Callable[..., Path]
Act = Callable[[], State]


class Scripted:
    """Answers each question of how the job stands by the next act; repeats the last one."""

    kind = "slurm"

    def __init__(self, *acts: Act) -> None:
        self.profile = Slurm(kind="slurm", poll_seconds=1, silent_seconds=5)
        self.acts, self.submissions, self.known = list(acts), 0, ""

    def render(self, job: Job, path: Path, ranks: int, per_node: int) -> str:
        return "#!/bin/sh\n"

    def find(self, job: Job) -> str | None:
        return "7" if self.known == job_name(job) else None

    def submit(self, script: Path, job: Job) -> str:
        self.submissions += 1
        self.known = job_name(job)
        return "7"

    def state(self, name: str) -> State:
        assert name == "7"
        return (self.acts.pop(0) if len(self.acts) > 1 else self.acts[0])()

    def verdict(self, name: str) -> str:
        return "FAILED, exit code 9:0"

    def cancelling(self, name: str) -> str:
        return f"scancel {name}"


@pytest.fixture(autouse=True)
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that passes when somebody sleeps, and only then."""
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setattr("time.monotonic", lambda: sum(slept))
    return slept


@pytest.fixture
def job(make_job: MakeJob) -> Path:
    return make_job()


def running() -> State:
    return "running"


def ended() -> State:
    return "ended"


def silent() -> State:
    raise SilentError("squeue failed with code 1: Unable to contact slurm controller")


def finishing(job: Path) -> Act:
    def act() -> State:
        (job.parent / "finished").mkdir(exist_ok=True)
        return "ended"

    return act


def run(scheduler: Scripted, job: Path) -> None:
    run_on(scheduler, read_job(job), job, 2, 2)


def test_a_scheduler_that_fails_to_answer_is_asked_again_with_growing_pauses(
    job: Path, naps: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    run(Scripted(running, silent, silent, silent, finishing(job)), job)
    assert capsys.readouterr().err.count("Unable to contact slurm controller; trying again") == 3
    assert naps == [1, 1, 2, 2], "the last of them ends where the deadline does"
    assert not (job.parent / "submitted.json").exists()


def test_one_that_stays_silent_is_left_and_the_job_goes_on(job: Path, naps: list[float]) -> None:
    scheduler = Scripted(running, silent)
    with pytest.raises(StoppedError, match=r"no answer for 5 seconds: squeue failed .*; slurm job 7 goes on alone"):
        run(scheduler, job)
    assert sum(naps) == 1 + 5
    scheduler.acts = [running, finishing(job)]
    run(scheduler, job)
    assert scheduler.submissions == 1, "the next call attached"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_ends_the_waiting_alone(job: Path, number: signal.Signals) -> None:
    def interrupted() -> State:
        os.kill(os.getpid(), number)
        return "running"

    before = signal.getsignal(number)
    with pytest.raises(StoppedError, match=f"interrupted by {number.name}; slurm job 7 goes on alone"):
        run(Scripted(running, interrupted), job)
    assert signal.getsignal(number) == before
    assert json.loads((job.parent / "submitted.json").read_bytes())["name"] == "7"


def test_a_job_whose_number_was_lost_is_known_by_its_name(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scheduler = Scripted(running, finishing(job))
    scheduler.known = job_name(read_job(job))
    run(scheduler, job)
    assert scheduler.submissions == 0 and "attached to slurm job 7" in capsys.readouterr().out


def test_runs_of_one_name_in_two_folders_are_two_jobs(make_job: MakeJob) -> None:
    one, other = (read_job(make_job()) for _ in range(2))
    assert one.name == other.name and job_name(one) != job_name(other)
    longest = one.model_copy(update={"name": "a" * 60})
    assert len(job_name(longest)) <= 52


def test_an_end_that_is_only_a_requeue_is_none(job: Path) -> None:
    scheduler = Scripted(running, ended, running, ended, ended, finishing(job))
    run(scheduler, job)
    assert scheduler.submissions == 1 and len(scheduler.acts) == 1


def test_an_end_without_a_run_says_how_and_the_next_call_submits_again(job: Path) -> None:
    scheduler = Scripted(running, ended)
    for submissions in (1, 2):
        with pytest.raises(UserError, match="ended without a finished run \\(FAILED, exit code 9:0\\)"):
            run(scheduler, job)
        scheduler.known = ""
        assert scheduler.submissions == submissions


@given(lines=st.lists(st.integers(1, 20_000), max_size=8), torn=st.booleans())
def test_the_last_step_is_read_from_the_end_of_the_journal(
    lines: list[int], torn: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    entries = [
        json.dumps({"step": step, "loss": step / 2, "more": "x" * length}) for step, length in enumerate(lines, 1)
    ]
    text = "".join(f"{entry}\n" for entry in entries)
    (folder / "steps.jsonl").write_text(text + ('{"step": 99, "lo' if torn else ""), "utf-8")
    assert progress_of(folder) == ((len(lines), len(lines) / 2) if lines else (0, None))
