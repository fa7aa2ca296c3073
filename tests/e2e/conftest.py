"""A copy of the project with an experiment so small that the whole pipeline runs in a minute."""

import ctypes
import email
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from specs.loading.settings import ROOT

CORPUS = """
name: {name}
sources:
  - name: library
    locator: {{kind: file, path: library.tar.gz}}
    sha256: {sha256}
    licence: PSF-2.0
    format: {format}
decontaminate: {{against: [../benchmarks/basics.yaml]}}
augment: {{quotes: 20%, rename_locals: 20%}}
"""

EXPERIMENT = """
name: tiny
corpus: ../corpora/tiny-code.yaml
tokenizer: {name: tiny, vocab_size: 640, sample_bytes: 200kB, threads: 1}
architecture:
  d_model: 16
  n_layers: 2
  n_heads: 2
  d_ff: 32
  context_length: 64
  attention: {pattern: interleaved, window: 16, global_every: 2}
pretraining:
  tokens: 8192
  micro_batches: 4
  optimizer: {lr: 1e-3}
  schedule: {warmup_steps: 2}
  precision: {compute: fp32}
  checkpoints: {every: 4}
  held_out: {sequences: 4, every: 8}
finetuning:
  corpus: ../corpora/tiny-instructions.yaml
  micro_batches: 4
  micro_batch_size: 16
  optimizer: {lr: 1e-3}
  schedule: {warmup_steps: 2}
  precision: {compute: fp32}
  checkpoints: {every: 4}
evaluation:
  batch_size: 8
  benchmarks:
    - {benchmark: ../benchmarks/basics.yaml, protocol: completion-v1, samples: 2, max_new_tokens: 8, k: [1]}
cluster: {device: cpu, devices: 2, devices_per_node: 2}
"""


@dataclass
class Project:
    """A checkout of its own: specs may be changed, stages run and killed."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        own = {f"TWICE_{name.upper()}": str(self.root / name) for name in ("store", "scratch", "measured")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return os.environ | own | {"PYTHONPATH": str(self.root), "PATH": path}

    def run(self, *command: str, **extra: str) -> tuple[int, str]:
        """Exit code and everything printed."""
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment | extra,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=800,
        )
        return done.returncode, done.stdout

    def repro(self, *options: str) -> str:
        """What `dvc repro` prints; it must succeed."""
        code, output = self.run("dvc", "repro", *options)
        assert code == 0, output
        return output

    def stages_run(self, *options: str) -> list[str]:
        """Stages that `dvc repro` runs, in order; with `--dry`, would run next."""
        lines = self.repro(*options).splitlines()
        return [line.split("'")[1] for line in lines if line.startswith("Running stage")]

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace text in a file of the project."""
        path = self.root / file
        assert old in path.read_text("utf-8"), f"{old!r} is not in {file}"
        path.write_text(path.read_text("utf-8").replace(old, new, 1), "utf-8")

    def lock(self) -> None:
        """Refresh the lock."""
        code, output = self.run("twice", "lock")
        assert code == 0, output

    def digests(self) -> dict[str, str]:
        """sha256 of every artifact."""
        root = self.root / "artifacts"
        files = (path for path in root.rglob("*") if path.is_file() and path.name != ".gitignore")
        return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(files)}

    def kill_during(self, stage: str, module: str, ready: Callable[[], bool] = lambda: True) -> None:
        """Force a stage under DVC and SIGKILL DVC as soon as the stage's process is there and `ready`.

        The orphan comes to this process instead of process 1, as under systemd, tini and most CI runners.
        """
        pr_set_child_subreaper = 36
        ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1, 0, 0, 0)
        process = subprocess.Popen(
            ["dvc", "repro", "-f", "-s", stage],
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 600
        while not (self.processes(module) and ready()):
            assert process.poll() is None, f"{stage} ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def processes(self, module: str) -> list[int]:
        """Living processes of this project that run a module."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                inside = (entry / "cwd").readlink() == self.root
            except OSError:
                continue
            if inside and module.encode() in words and b"-m" in words:
                found.append(int(entry.name))
        return found


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project with every stage of the tiny experiment done. Not to be changed: see `project`."""
    project = make_project(tmp_path_factory)
    project.repro()
    return project


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project with the tiny experiment locked, and no stage done."""
    return make_project(tmp_path_factory)


def make_project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project with the tiny experiment, locked."""
    root = tmp_path_factory.mktemp("project")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/")) and name != "dvc.lock":
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n    no_scm = true\n", "utf-8")
    with tarfile.open(root / "library.tar.gz", "w:gz") as archive:
        for package in (email, json):
            folder = Path(str(package.__file__)).parent
            for path in sorted(folder.glob("*.py")):
                archive.add(path, f"library-1.0/{folder.name}/{path.name}")
    sha256 = hashlib.sha256((root / "library.tar.gz").read_bytes()).hexdigest()
    for name, form in (("tiny-code", "files"), ("tiny-instructions", "docstring-pairs")):
        text = CORPUS.format(name=name, sha256=sha256, format=form)
        (root / "specs" / "corpora" / f"{name}.yaml").write_text(text, "utf-8")
    (root / "specs" / "experiments" / "tiny.yaml").write_text(EXPERIMENT, "utf-8")
    project = Project(root)
    code, output = project.run("twice", "lock", "tiny")
    assert code == 0, output
    return project


@pytest.fixture
def project(built: Project, tmp_path: Path) -> Project:
    """A copy of the built project, for one test to change."""
    root = tmp_path / "project"
    shutil.copytree(built.root, root, symlinks=True)
    return Project(root)
