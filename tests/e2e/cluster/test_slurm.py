"""Training through a real SLURM of two nodes, under all that a scheduler does to a job. `make test-cluster` runs this.

Each case ends in the weights of a run on this machine that nobody disturbed, or in one line that says why not.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from specs.common.files import tree_digests

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

STAGE = "pretrain@tiny"
STEPS = 240
RUN = "artifacts/runs/tiny/pretrained"


@pytest.fixture(scope="session")
def trained(fresh: Any) -> Any:
    """The tiny project with a longer pretraining, done on this machine."""
    fresh.edit("specs/experiments/tiny.yaml", "tokens: 8192", f"tokens: {STEPS * 256}")
    fresh.edit("specs/experiments/tiny.yaml", "checkpoints: {every: 4}", "checkpoints: {every: 20}")
    fresh.lock()
    fresh.repro(STAGE)
    return fresh


class Stage:
    """The stage as somebody starts it on the login node, and its job in the cluster."""

    def __init__(self, project: Any, cluster: Any, folder: Path, **profile: Any) -> None:
        self.project, self.cluster = project, cluster
        self.profile = folder / "slurm.yaml"
        values = {"kind": "slurm", "partition": "low", "port": 29533, "poll_seconds": 1, "save_seconds": 40}
        values |= {"ranks_per_node": 1, "join_seconds": 100, "last_call_seconds": 3, "lost_after_seconds": 6}
        self.profile.write_text(json.dumps(values | profile), "utf-8")
        self.process: subprocess.Popen[str] | None = None

    def start(self, *command: str) -> None:
        """Start the stage, by `twice launch` where no other command is given."""
        own = {"TWICE_CLUSTER": str(self.profile), "TWICE_STALL_SECONDS": "40"}
        self.process = subprocess.Popen(
            command or ("twice", "launch", STAGE),
            cwd=self.project.root,
            env=self.project.environment | own | {"SLURM_CONF": self.cluster.environment["SLURM_CONF"]},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def end(self) -> tuple[int, str]:
        """Exit code and everything printed."""
        assert self.process
        try:
            output = self.process.communicate(timeout=240)[0]
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"it does not end:\n{self.process.communicate()[0]}\n{self.logs()}") from None
        assert "Traceback" not in output, output
        print(output, file=sys.stderr)
        return self.process.returncode, output

    @property
    def scratch(self) -> Path | None:
        return next((path.parent for path in self.project.root.glob("scratch/**/submitted.json")), None)

    @property
    def job(self) -> str:
        """Number of the job; empty before it is handed in."""
        folder = self.scratch
        return json.loads((folder / "submitted.json").read_bytes())["name"] if folder else ""

    def steps(self) -> int:
        path = self.scratch and self.scratch / "steps.jsonl"
        return path.read_bytes().count(b"\n") if path and path.exists() else 0

    def logs(self) -> str:
        paths = sorted(self.project.root.glob("scratch/**/logs/*.log"))
        return "".join(f"--- {path.name}\n{path.read_text('utf-8', 'replace')}" for path in paths)

    def until(self, condition: Callable[[], object], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert self.process
            said = self.process.communicate()[0] if self.process.poll() is not None else ""
            assert self.process.poll() is None, f"the stage has ended: {said}\n{self.logs()}"
            assert time.monotonic() < end, f"waited in vain, at step {self.steps()}:\n{self.logs()}"
            time.sleep(0.1)


@pytest.fixture
def stage(trained: Any, cluster: Any, tmp_path: Path) -> Iterator[Callable[..., Stage]]:
    """Makes the stage of a case, from a clean state; nothing of it outlives the case."""
    cluster.wait_for_nodes()
    shutil.rmtree(trained.root / "scratch", ignore_errors=True)
    stages: list[Stage] = []

    def make(**profile: Any) -> Stage:
        stages.append(Stage(trained, cluster, tmp_path, **profile))
        return stages[-1]

    yield make
    for one in stages:
        if one.process and one.process.poll() is None:
            os.killpg(one.process.pid, signal.SIGKILL)
            one.process.communicate()
        if one.job:
            cluster.run("scancel", one.job)
    cluster.run("scancel", "--user=root")
    time.sleep(1)


@pytest.fixture(scope="session")
def reference(trained: Any) -> dict[str, str]:
    return tree_digests(trained.root / RUN)


def test_dvc_repro_end_to_end_with_an_interruption(stage: Any, reference: dict[str, str], trained: Any) -> None:
    """DVC's own variables go to the job with its environment; Ctrl-C ends the waiting, and the job goes on."""
    one = stage()
    one.start("dvc", "repro", "-f", "-s", STAGE)
    one.until(lambda: one.steps() >= 5)
    os.killpg(one.process.pid, signal.SIGINT)
    code, output = one.end()
    assert code != 0 and f"interrupted by SIGINT; slurm job {one.job} goes on alone" in output
    job = one.job
    one.start("dvc", "repro", "-f", "-s", STAGE)
    code, output = one.end()
    assert code == 0, output
    assert f"attached to slurm job {job}" in output and f"{STEPS}/{STEPS} steps" in output
    assert tree_digests(trained.root / RUN) == reference
    environment = json.loads((trained.root / f"measured/{STAGE}/environment.json").read_bytes())
    assert environment["ranks"] == 2 and environment["ranks_per_node"] == 1
