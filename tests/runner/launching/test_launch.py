"""Ranks that end by accident, nodes that are lost, and what a run says of where it ran."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.launching.cluster import Local, Nodes, load_profile
from runner.launching.launch import ranks_of_node, render
from runner.launching.node import read_job
from specs.common.errors import UserError

MakeJob = Callable[..., Path]
LONG = {"steps": 48, "training.checkpoints.every": 4, "training.held_out.every": 100}


def forgiving(**elastic: object) -> dict[str, object]:
    """The change of a job whose cluster profile says so."""
    return {"launch": {"profile": {"kind": "local", **elastic}}}


def node(job: Path, *options: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "runner.launching.node", str(job), *map(str, options)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def ranks_of(agent: "subprocess.Popen[str]") -> list[int]:
    """Process ids of an agent's ranks, in their order."""
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text("utf-8").split()
    found = []
    for child in map(int, children):
        try:
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            variables = dict(
                line.split(b"=", 1) for line in Path(f"/proc/{child}/environ").read_bytes().split(b"\0") if line
            )
        except OSError:
            continue
        if b"runner.training.worker" in words:
            found.append((int(variables[b"RANK"]), child))
    return [child for _, child in sorted(found)]


def wait_for_step(job: Path, step: int, process: "subprocess.Popen[str]") -> None:
    journal, end = job.parent / "steps.jsonl", time.monotonic() + 200
    while not journal.exists() or len(journal.read_bytes().splitlines()) < step:
        assert time.monotonic() < end, "waited for minutes"
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def weights(job: Path) -> str:
    return str(json.loads((job.parent / "finished" / "record.json").read_text("utf-8"))["model"])


@pytest.fixture(scope="module")
def uninterrupted(make_job: MakeJob, compute: Callable[..., Any]) -> str:
    job = make_job(LONG)
    compute(job, ranks=1).digests()
    return weights(job)


def test_a_rank_that_is_killed_costs_one_restart_and_no_bit(
    make_job: MakeJob, uninterrupted: str, started: list[Any]
) -> None:
    job = make_job(LONG | forgiving(max_restarts=1))
    started.append(agent := node(job, "--ranks", 2))
    wait_for_step(job, 6, agent)
    os.kill(ranks_of(agent)[1], signal.SIGKILL)
    message = agent.communicate()[1]
    assert agent.returncode == 0, message
    assert weights(job) == uninterrupted
    environment = json.loads((job.parent / "measured" / "environment.json").read_text("utf-8"))
    assert environment["launch"]["torchelastic_restart_count"] == "1"


def test_without_restarts_a_killed_rank_ends_the_run(make_job: MakeJob, started: list[Any]) -> None:
    job = make_job(LONG)
    started.append(agent := node(job, "--ranks", 2))
    wait_for_step(job, 2, agent)
    os.kill(ranks_of(agent)[1], signal.SIGKILL)
    message = agent.communicate()[1]
    assert agent.returncode == 2 and "rank 1 was killed by SIGKILL; run the same command again" in message


@pytest.mark.parametrize(
    ("nodes", "micro_batches", "training"),
    [
        (3, 8, {"steps": 48}),
        # Eight agents of a rank each, as where a device of a machine may break: 32 / (5 x 7) of the speed is left.
        pytest.param(8, 32, {"steps": 24}, marks=pytest.mark.thorough),
    ],
)
def test_a_lost_node_costs_a_restart_and_the_others_train_on(
    nodes: int,
    micro_batches: int,
    training: dict[str, Any],
    make_job: MakeJob,
    compute: Callable[..., Any],
    started: list[Any],
) -> None:
    """Nodes of one rank: all train, on any number of them."""
    quick = {"interface": "lo", "last_call_seconds": 20, "lost_after_seconds": 10, "max_restarts": 2}
    changes = LONG | training | {"training.micro_batches": micro_batches}
    job, reference = make_job(changes | forgiving(least_nodes=nodes - 1, **quick)), make_job(changes)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ("--nodes", nodes, "--rendezvous", f"127.0.0.1:{port}", "--address", "127.0.0.1")
    # Whoever comes first hosts the meeting; without it nobody could meet again.
    started.append(host := node(job, "--ranks", 1, *options))
    while not _listens(port):
        assert host.poll() is None, host.communicate()[1]
        time.sleep(0.05)
    started += [node(job, "--ranks", 1, *options) for _ in range(nodes - 1)]
    wait_for_step(job, 6, host)
    assert ranks_and_restarts(job) == (nodes, "0")
    started[-1].kill()
    for agent in started[:-1]:
        message = agent.communicate()[1]
        assert agent.returncode == 0, message
    assert ranks_and_restarts(job) == (nodes - 1, "1")
    compute(reference, ranks=1).digests()
    assert weights(job) == weights(reference)


def ranks_and_restarts(job: Path) -> tuple[int, str]:
    environment = json.loads((job.parent / "measured" / "environment.json").read_text("utf-8"))
    assert environment["launch"]["world_size"] == str(environment["ranks"])
    return environment["ranks"], environment["launch"]["torchelastic_restart_count"]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_profiles_say_what_is_wrong_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = tmp_path / "cluster.yaml"
    for text, expected in [
        ("kind: slrm\n", "kind: one of local, nodes, slurm, kubernetes, not 'slrm'"),
        ("kind: slurm\npartitoin: a\n", "cluster.yaml:2:1: unknown key 'partitoin'"),
        ("kind: nodes\nrendezvous: somewhere\n", "cluster.yaml:2:13: rendezvous"),
    ]:
        profile.write_text(text, "utf-8")
        with pytest.raises(UserError, match=expected):
            load_profile(profile)
    profile.write_text("kind: local\nmax_restarts: 3\n", "utf-8")
    assert load_profile() == Local()
    monkeypatch.setenv("TWICE_CLUSTER", str(profile))
    assert load_profile() == Local(max_restarts=3)


def test_ranks_fill_nodes_or_are_refused(make_job: MakeJob) -> None:
    nodes = Nodes(kind="nodes", rendezvous="n1:29500")
    assert ranks_of_node(Local(), 8, 2) == 8
    assert ranks_of_node(nodes, 8, 2) == 2
    assert ranks_of_node(nodes.model_copy(update={"ranks_per_node": 4}), 2, 8) == 2
    with pytest.raises(UserError, match="8 ranks do not fill nodes of 3"):
        ranks_of_node(nodes, 8, 3)
    job = make_job()
    words = render(job, read_job(job), 8, 2, nodes).split()
    assert words[1:5] == ["-m", "runner.launching.node", str(job), "--ranks"] and words[5] == "2"
    assert words[words.index("--nodes") + 1] == "4" and words[words.index("--rendezvous") + 1] == "n1:29500"
