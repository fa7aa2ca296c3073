"""Ranks and nodes that fall silent, signals at any time, and a second node on one job."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.launching.supervise import _membership
from runner.launching.torchrun import blame
from runner.training.job import LOST_PEER, STALLED
from specs.common.errors import UserError
from specs.common.run_folder import RunFolder

MakeJob = Callable[..., Path]
LONG = {"steps": 48, "training.checkpoints.every": 4, "training.held_out.every": 100}


def node(job: Path, *options: object, **environment: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "runner.launching.node", str(job), *map(str, options)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | environment)


def worker(agent: "subprocess.Popen[str]") -> int | None:
    """Process id of one of an agent's ranks."""
    for child in Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text("ascii").split():
        if b"runner.training.worker" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
            return int(child)
    return None


def wait_until(condition: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < end, "waited for minutes"
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def steps(job: Path) -> int:
    journal = job.parent / "steps.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def weights(job: Path) -> bytes:
    return (job.parent / "finished" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("ranks", [2, pytest.param(1, marks=pytest.mark.thorough)])
def test_a_rank_that_is_stopped_costs_one_restart_and_no_bit(
    ranks: int, make_job: MakeJob, compute: Callable[..., Any], started: list[Any]
) -> None:
    """SIGSTOP, as a hung disk or device would have it: the process lives, and does nothing more."""
    job = make_job(LONG | {"launch": {"profile": {"kind": "local", "max_restarts": 1}}})
    started.append(agent := node(job, "--ranks", ranks, TWICE_STALL_SECONDS="10"))
    wait_until((job.parent / "agents.lock").exists, agent)
    started.append(second := node(job, "--ranks", ranks))
    wait_until(lambda: steps(job) >= 6, agent)
    pid = worker(agent)
    assert pid
    os.kill(pid, signal.SIGSTOP)
    # Another one on the same job is refused, and does no harm.
    message = second.communicate()[1]
    assert second.returncode == 2 and f"the ranks of twice-{agent.pid} are at work on this run" in message, message
    message = agent.communicate()[1]
    assert agent.returncode == 0, message
    silent, waited = "gave no sign of life for 10 seconds", "lost its connection to another rank, or waited for it"
    assert silent in message or (waited in message and ranks > 1)
    assert "all ranks begin again from the last checkpoint (1 of 1 attempts left)" in message
    reference = make_job(LONG)
    compute(reference, ranks=1).digests()
    assert weights(job) == weights(reference)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_while_nodes_meet_ends_with_the_code_of_a_stop(
    number: signal.Signals, make_job: MakeJob, started: list[Any]
) -> None:
    """From its first line on; 192.0.2.1 is an address that nobody has (RFC 5737), so that nobody hosts the meeting."""
    job = make_job()
    host = "127.0.0.1:0" if number == signal.SIGTERM else "192.0.2.1:29500"
    started.append(agent := node(job, "--ranks", 1, "--nodes", 2, "--rendezvous", host, "--run-id", "one"))
    wait_until((job.parent / "agents.lock").exists, agent)
    agent.send_signal(number)
    message = agent.communicate()[1]
    assert agent.returncode == 75 and f"stopped by {number.name}" in message, message


def test_a_signal_while_it_imports_waits_until_it_can_be_answered(make_job: MakeJob, started: list[Any]) -> None:
    job = make_job()
    started.append(agent := node(job, "--ranks", 1))
    blocked = f"/proc/{agent.pid}/status"
    wait_until(lambda: int(_status(blocked)["SigBlk"], 16) >> (signal.SIGTERM - 1) & 1, agent)
    agent.send_signal(signal.SIGTERM)
    message = agent.communicate()[1]
    assert agent.returncode == 75 and "stopped by SIGTERM" in message, message
    assert "Traceback" not in message


def _status(path: str) -> dict[str, str]:
    return dict(line.split(":", 1) for line in Path(path).read_text("utf-8").splitlines())


def test_agents_of_one_job_work_together_and_those_of_another_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    folder = RunFolder(tmp_path)
    folder.failure.write_text("of an earlier job", "utf-8")
    with _membership(folder, "17"):
        assert not folder.failure.exists()
        folder.failure.write_text("of this one", "utf-8")
        with _membership(folder, "17"):
            assert folder.failure.exists(), "the second agent of a job removes nothing"
        with pytest.raises(UserError, match="the ranks of 17 are at work on this run"), _membership(folder, "18"):
            pass
    with _membership(folder, "18"):
        pass


ENDS = st.sampled_from([None, 0, 1, 2, STALLED, LOST_PEER, -9, -11])


@given(first=st.dictionaries(st.integers(0, 9), ENDS, min_size=1).filter(lambda codes: any(codes.values())))
def test_the_rank_to_blame_is_one_whose_end_was_no_consequence(first: dict[int, int | None]) -> None:
    # Those that ran were ended by the agent.
    last = {rank: -15 if code is None else code for rank, code in first.items()}
    told = blame(first, last, {})
    rank, code = int(told.split()[1]), {rank: code for rank, code in first.items() if code}
    assert rank in code, "one that ended by itself"
    if code[rank] == LOST_PEER:
        assert set(code.values()) == {LOST_PEER}
    if code[rank] == STALLED:
        assert set(code.values()) <= {LOST_PEER, STALLED}
    assert blame(first, last, {rank: "no space"}) == f"rank {rank}: no space"


def test_a_rank_that_says_more_after_the_first_end_is_told_of() -> None:
    """The peer of a rank that fails may be seen to end before that one has written why."""
    assert blame({0: LOST_PEER, 1: None}, {0: LOST_PEER, 1: 2}, {0: "lost", 1: "disk"}) == "rank 1: disk"
    assert blame({0: LOST_PEER, 1: None}, {0: LOST_PEER, 1: -15}, {}) == f"rank 0 failed with code {LOST_PEER}"
    assert blame({0: -40}, {0: -40}, {}) == "rank 0 was killed by signal 40"
