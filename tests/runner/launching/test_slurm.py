"""SLURM, with commands on the PATH that run jobs as processes of this machine (`fake_slurm`)."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.launching.cluster import Slurm
from runner.launching.launch import dispatch, render
from runner.launching.node import read_job
from specs.common.errors import UserError

MakeJob = Callable[..., Path]
FAKE = Path(__file__).with_name("fake_slurm.py")
COMMANDS = ("sbatch", "srun", "squeue", "sacct", "scontrol", "scancel", "preempt")
# A stage's part, without the token store that it would verify first.
SCRIPT = """
import pathlib, sys
from runner.launching.cluster import load_profile
from runner.launching.launch import StoppedError, dispatch
from runner.launching.node import read_job
from specs.common.errors import UserError
path = pathlib.Path(sys.argv[1])
try:
    dispatch(path, read_job(path), 2, 2, load_profile())
except (StoppedError, UserError) as error:
    sys.exit(str(error))
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Folder of a SLURM whose commands are on the PATH; its jobs end with the test."""
    home, commands = tmp_path / "slurm", tmp_path / "bin"
    home.mkdir()
    commands.mkdir()
    for name in COMMANDS:
        (commands / name).write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} {name} "$@"\n', "utf-8")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(home))
    yield home
    for step in home.glob("*.step"):
        job = step.stem
        if (home / f"{job}.state").read_text("utf-8") in ("RUNNING", "PENDING"):
            subprocess.run(["scancel", job], check=False)


def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **values: Any) -> Slurm:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    made = Slurm(kind="slurm", port=port, poll_seconds=1, partition="gpu", **values)
    path = tmp_path / "cluster.yaml"
    path.write_text(made.model_dump_json(exclude_none=True), "utf-8")
    monkeypatch.setenv("TWICE_CLUSTER", str(path))
    return made


def attach(job: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(job)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_until(condition: Callable[[], bool], waiting: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < end, "waited for minutes"
        assert waiting.poll() is None, waiting.communicate()
        time.sleep(0.02)


def steps(job: Path) -> int:
    journal = job.parent / "steps.jsonl"
    return len(journal.read_bytes().splitlines()) if journal.exists() else 0


def test_preempted_left_alone_attached_again_and_finished(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_job: MakeJob, compute: Callable[..., Any]
) -> None:
    changes = {"steps": 60, "training.checkpoints.every": 50, "training.held_out.every": 100}
    job = make_job(changes)
    profile(tmp_path, monkeypatch)
    # The environment of the stage that hands a job in goes with it; no DVC stands above the job.
    monkeypatch.setenv("DVC_STAGE", "pretrain@tiny")
    first = attach(job)
    wait_until(lambda: steps(job) >= 3, first)
    (slurm / "squeue.failures").write_text("2", "utf-8")
    subprocess.run(["preempt", "1"], check=True)
    wait_until(lambda: (slurm / "1.restarts").exists(), first)
    saved = sorted(path.name for path in (job.parent / "checkpoints").glob("step-*"))
    assert saved and saved != ["step-50"], "it saved when it was told to go, not only on schedule"
    # Ctrl-C on the login node ends the waiting, not the job.
    first.send_signal(signal.SIGINT)
    output, message = first.communicate()
    assert "handed to slurm as job 1" in output
    assert message.count("Unable to contact slurm controller") == message.count("; trying again") == 2
    assert first.returncode == 1 and "slurm job 1 goes on alone (`scancel 1` ends it)" in message
    second = attach(job)
    output, message = second.communicate()
    assert second.returncode == 0, message
    assert "attached to slurm job 1" in output and "pretrain tiny: 60/60 steps" in message
    assert not (slurm / "2.script").exists() and (slurm / "1.state").read_text("utf-8") == "COMPLETED"
    assert (slurm / "1.asked").exists(), "the script asks for the requeue itself too, as when its time is over"
    reference = make_job(changes)
    compute(reference, ranks=1).digests()
    mine, its = ((path.parent / "finished" / "model.safetensors").read_bytes() for path in (job, reference))
    assert mine == its
    environment = json.loads((job.parent / "measured" / "environment.json").read_text("utf-8"))
    assert environment["ranks"] == 2
    # Finished while nobody waited, and forgotten: nothing is handed in again.
    (job.parent / "submitted.json").write_text(json.dumps({"kind": "slurm", "name": "1"}), "utf-8")
    (slurm / "1.forgotten").touch()
    (slurm / "1.forgotten").write_text("yes", "utf-8")
    third = attach(job)
    assert third.communicate() and third.returncode == 0 and not (slurm / "2.script").exists()


def test_a_job_that_ends_without_a_run_says_how(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_job: MakeJob
) -> None:
    profile(tmp_path, monkeypatch, setup=("exit 3",))
    process = attach(make_job())
    message = process.communicate()[1]
    assert process.returncode == 1 and "slurm job 1 ended without a finished run (FAILED, exit code 3:0)" in message


def test_a_job_of_another_kind_of_cluster_is_not_taken_over(make_job: MakeJob) -> None:
    job = make_job()
    (job.parent / "submitted.json").write_text(json.dumps({"kind": "kubernetes", "name": "other"}), "utf-8")
    with pytest.raises(UserError, match="kubernetes job other was started for this run: attach to it"):
        dispatch(job, read_job(job), 2, 2, Slurm(kind="slurm"))


def test_without_slurm_on_the_path_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_job: MakeJob
) -> None:
    """Wherever this machine keeps its commands: the PATH is of one that has no SLURM."""
    profile(tmp_path, monkeypatch)
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))
    process = attach(make_job())
    message = process.communicate()[1]
    assert process.returncode == 1 and "squeue is not on the PATH" in message and "Traceback" not in message


def test_the_script_is_bash_and_asks_for_what_the_profile_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_job: MakeJob
) -> None:
    job = make_job()
    made = profile(
        tmp_path,
        monkeypatch,
        account="nlp",
        time="1-00:00:00",
        directives=("--gpus-per-node=2", "--exclusive"),
        setup=("module load cuda",),
        least_nodes=2,
    )
    script = render(job, read_job(job), 8, 2, made)
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    options = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]
    expected = {"--nodes=2-4", "--no-kill", "--requeue", "--partition=gpu", "--account=nlp", "--time=1-00:00:00"}
    assert expected | {"--gpus-per-node=2", "--exclusive", "--signal=USR1@120", "--ntasks-per-node=1"} <= set(options)
    assert script.index("module load cuda") < script.index("srun") < script.index("scontrol requeue")
    assert f"srun --kill-on-bad-exit=0 --wait=0 --cpus-per-task={2 * read_job(job).threads} " in script
    assert shlex.split(script[script.index(sys.executable) :])[3:6] == [str(job), "--ranks", "2"]


def test_no_name_breaks_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_job: MakeJob) -> None:
    job = tmp_path / "it's 100%j $HOME" / "job.json"
    script = render(job, read_job(make_job()), 2, 2, profile(tmp_path, monkeypatch))
    output = next(line for line in script.splitlines() if "--output" in line).removeprefix("#SBATCH ")
    assert shlex.split(output) == [f"--output={tmp_path}/it's 100%%j $HOME/logs/slurm-%j.log"]
    assert shlex.split(script[script.index(sys.executable) :])[3] == str(job)
