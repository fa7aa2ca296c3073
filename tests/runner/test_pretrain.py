"""The stages themselves, through torchrun: killed, asked to stop, and finished on another number of ranks."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from specs.common.files import tree_digests
from specs.loading.load import load_experiment
from specs.loading.settings import ROOT
from specs.pipeline.nodes import resolve

STEPS = 24
# The stage as it is, but for the node, which is not of the committed lock.
SCRIPT = """
import pathlib, sys
from runner import {module}
node = pathlib.Path(sys.argv.pop(1)).read_bytes()
{module}.stage.node = lambda address, kind: kind.model_validate_json(node)
{module}.main()
"""


@pytest.fixture
def node(make_job: Callable[..., Path], tmp_path: Path) -> Path:
    job = json.loads(make_job({"training.checkpoints.every": 50}).read_text("utf-8"))
    phase = job["training"]
    tokens = STEPS * phase["micro_batches"] * phase["micro_batch_size"] * job["architecture"]["context_length"]
    smoke = resolve(load_experiment(ROOT / "specs" / "experiments" / "smoke.yaml"))["runs"]["smoke"]
    run = smoke.model_dump(mode="json") | {
        "vocab_size": job["vocab_size"],
        "architecture": job["architecture"],
        "pretraining": phase | {"tokens": tokens},
        "finetuning": phase | {"epochs": 1},
    }
    (tmp_path / "node.json").write_text(json.dumps(run), "utf-8")
    return tmp_path / "node.json"


def start(module: str, node: Path, *options: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", SCRIPT.format(module=module), node, "runs.tiny", *map(str, options)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def steps_done(folder: Path) -> int:
    return sum(len(path.read_text("utf-8").splitlines()) for path in folder.glob("pretrain-*/steps.jsonl"))


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[str] | None" = None) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "waited for two minutes"
        assert process is None or process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def ranks_alive(folder: Path) -> bool:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"runner.training.worker" in words and any(word.startswith(str(folder).encode()) for word in words):
            return True
    return False


def test_killed_then_stopped_then_finished_elsewhere(
    node: Path, store: Path, tmp_path: Path, compute: Callable[..., Any], make_job: Callable[..., Path]
) -> None:
    scratch, out = tmp_path / "scratch", tmp_path / "pretrained"

    killed = start("pretrain", node, "--store", store, "--out", out)
    wait_until(lambda: steps_done(scratch) >= 2, killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    wait_until(lambda: not ranks_alive(scratch))

    # Another run is at work in the same scratch: refused, whatever it is.
    (lock_path,) = scratch.glob("pretrain-*.lock")
    with lock_path.open("r+", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = start("pretrain", node, "--store", store, "--out", out)
        message = second.communicate()[1]
    assert second.returncode == 2 and f"process {killed.pid} is already working in" in message
    assert len(message.splitlines()) == 1

    stopped = start("pretrain", node, "--store", store, "--out", out)
    wait_until(lambda: steps_done(scratch) >= 3, stopped)
    stopped.send_signal(signal.SIGUSR1)
    message = stopped.communicate()[1]
    assert stopped.returncode == 75, message
    assert "run the same command to go on" in message and "Traceback" not in message
    assert not out.exists()

    finished = start("pretrain", node, "--store", store, "--out", out, "--ranks", 1)
    message = finished.communicate()[1]
    assert finished.returncode == 0, message
    uninterrupted = compute(make_job({"training.checkpoints.every": 50, "steps": STEPS, "level": "portable"}), ranks=1)
    assert tree_digests(out)["model.safetensors"] == uninterrupted.digests()["model.safetensors"]
    assert not list(scratch.glob("pretrain-*/")), "scratch is removed once the run is finished"
    assert (tmp_path / "measured" / "pretrain@tiny" / "environment.json").exists()


def test_finetuning_takes_its_steps_from_the_store(node: Path, store: Path, tmp_path: Path, reference: Any) -> None:
    out = tmp_path / "finetuned"
    stage = start("finetune", node, "--store", store, "--from", reference.finished, "--out", out)
    message = stage.communicate()[1]
    assert stage.returncode == 0, message
    record = json.loads((out / "record.json").read_text("utf-8"))
    # 75 rows are left beside 5 held out; 8 make a step.
    assert record["last"]["step"] == 10 and set(record["inputs"]) == {"token_store", "weights"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--ranks", 9], "9 ranks for 8 micro-batches: give any number from 1 to 8"),
        (["--ranks", 16], "16 ranks for 8 micro-batches"),
    ],
)
def test_ranks_that_do_not_fit_are_refused(
    options: list[object], expected: str, node: Path, store: Path, tmp_path: Path
) -> None:
    stage = start("pretrain", node, "--store", store, "--out", tmp_path / "out", *options)
    message = stage.communicate()[1]
    assert stage.returncode == 2 and message.startswith("error: ") and expected in message
    assert len(message.splitlines()) == 1
