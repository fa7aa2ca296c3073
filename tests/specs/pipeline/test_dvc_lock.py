"""Finished work survives renames, and sets of experiments that come and go: judged by DVC itself."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from specs.common.errors import UserError
from specs.common.files import tree_digests
from specs.pipeline.dvc_lock import ARCHIVE, Results, forget, relock

BIN = Path(sys.executable).parent
# As the real pipeline is: corpora are shared, runs read them, an evaluation reads a run, a report reads all of one.
PIPELINE = """
vars:
  - specs/lock.yaml
stages:
  lock:
    cmd: mkdir -p artifacts && echo fresh > artifacts/lock.fresh # --stamp artifacts/lock.fresh
    deps:
      - specs
    outs:
      - artifacts/lock.fresh:
          cache: false
  corpus:
    foreach: ${corpora}
    do:
      cmd: python make.py artifacts/corpora/${key} ${item.text}
      deps:
        - artifacts/lock.fresh
      params:
        - specs/lock.yaml:
            - corpora.${key}.text
      outs:
        - artifacts/corpora/${key}
  train:
    foreach: ${runs}
    do:
      cmd: python make.py artifacts/runs/${key}/trained artifacts/corpora/${item.corpus} ${item.lr}
      deps:
        - artifacts/lock.fresh
        - artifacts/corpora/${item.corpus}
      params:
        - specs/lock.yaml:
            - runs.${key}.lr
      outs:
        - artifacts/runs/${key}/trained
  score:
    foreach: ${evaluations}
    do:
      cmd: python make.py artifacts/evaluations/${item.run}/${key} artifacts/runs/${item.run}/trained
      deps:
        - artifacts/lock.fresh
        - artifacts/runs/${item.run}/trained
      params:
        - specs/lock.yaml:
            - evaluations.${key}.k
      outs:
        - artifacts/evaluations/${item.run}/${key}
  report:
    foreach: ${runs}
    do:
      meta:
        tells_its_name: true
      cmd: python make.py artifacts/reports/${key} ${key}
      deps:
        - artifacts/lock.fresh
        - artifacts/runs/${key}
        - artifacts/evaluations/${key}
      params:
        - specs/lock.yaml:
            - runs.${key}
      outs:
        - artifacts/reports/${key}
"""
# Writes what it was told into its output, and its output's name into a log.
MAKE = """
import pathlib, sys
out, text = pathlib.Path(sys.argv[1]), sys.argv[2]
out.mkdir(parents=True, exist_ok=True)
given = pathlib.Path(text)
words = [(given / "content").read_text() if given.is_dir() else text, *sys.argv[3:]]
(out / "content").write_text("+".join(words))
with open("ran", "a") as log:
    print(sys.argv[1], file=log)
"""
Lock = dict[str, Any]


def locked(*names: str, corpus: str = "c", lr: float = 1.0, ks: tuple[int, ...] = (1,)) -> Lock:
    return {
        "corpora": {corpus: {"text": "words"}},
        "runs": {name: {"corpus": corpus, "lr": lr} for name in names},
        "evaluations": {f"{name}-{k}": {"run": name, "k": k} for name in names for k in ks},
    }


class Project:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock: Lock | None = None

    def relock(self, lock: Lock) -> Results:
        def write() -> None:
            (self.root / "specs").mkdir(exist_ok=True)
            with (self.root / "specs" / "lock.yaml").open("w", encoding="utf-8") as file:
                YAML().dump(lock, file)

        results = relock(self.root, self.lock, lock, write)
        self.lock = lock
        return results

    def dvc(self, *commands: str) -> str:
        """What DVC prints of commands, one after the other in one process."""
        script = "import sys; from dvc.cli import main; sys.exit(max(main(line.split()) for line in sys.argv[1:]))"
        environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        command = [sys.executable, "-c", script, *commands]
        done = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def repro(self, *before: str) -> list[str]:
        """Outputs that stages were run for, after other commands; nothing is left to do then."""
        (self.root / "ran").unlink(missing_ok=True)
        *_, status = self.dvc(*before, "repro -q", "status --json").splitlines()
        assert json.loads(status) == {}
        ran = self.root / "ran"
        return [line.removeprefix("artifacts/") for line in ran.read_text("utf-8").split()] if ran.exists() else []

    def artifacts(self) -> dict[str, str]:
        return tree_digests(self.root / "artifacts")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Experiment `a`, done."""
    root = tmp_path_factory.mktemp("pipeline") / "project"
    root.mkdir()
    (root / "dvc.yaml").write_text(PIPELINE, "utf-8")
    (root / "make.py").write_text(MAKE, "utf-8")
    project = Project(root)
    project.dvc("init --no-scm -q", "config core.analytics false")
    project.relock(locked("a"))
    assert sorted(project.repro()) == ["corpora/c", "evaluations/a/a-1", "reports/a", "runs/a/trained"]
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    shutil.copytree(finished.root, tmp_path / "project", symlinks=True)
    copy = Project(tmp_path / "project")
    copy.lock = finished.lock
    return copy


def test_a_renamed_experiment_runs_only_what_tells_its_name(project: Project) -> None:
    before = project.artifacts()
    results = project.relock(locked("b"))
    assert results.carried == {"train@a": "train@b", "score@a-1": "score@b-1"}
    assert results.kept == ("artifacts/reports/a",)
    assert project.repro() == ["reports/b"]
    after = project.artifacts()
    assert after["runs/b/trained/content"] == before["runs/a/trained/content"]
    assert "runs/a/trained/content" not in after
    # And back.
    assert set(project.relock(locked("a")).carried) == {"train@b", "score@b-1"}
    assert project.repro() == []


@pytest.mark.parametrize("run", ["a", "b"])
def test_a_renamed_corpus_takes_along_what_is_made_of_it(run: str, project: Project) -> None:
    results = project.relock(locked(run, corpus="d"))
    assert results.carried == {"corpus@c": "corpus@d", "train@a": f"train@{run}"} | (
        {"score@a-1": "score@b-1"} if run == "b" else {}
    )
    # The report prints the spec, which names the corpus.
    assert project.repro() == [f"reports/{run}"]


@pytest.mark.parametrize("new", [locked("b", lr=2.0), locked("b") | {"corpora": {"c": {"text": "others"}}}])
def test_another_experiment_is_no_renamed_one(project: Project, new: Lock) -> None:
    results = project.relock(new)
    assert "train@a" not in results.carried or new["corpora"]["c"]["text"] == "others"
    # Whatever was guessed by values, DVC compares the digests of inputs.
    assert {"runs/b/trained", "reports/b"} <= set(project.repro())


def test_what_leaves_the_lock_survives_checkout_and_gc_and_comes_back(project: Project) -> None:
    before = project.artifacts()
    results = project.relock(locked("b", lr=3.0))
    of_a = ("artifacts/evaluations/a/a-1", "artifacts/reports/a", "artifacts/runs/a/trained")
    assert results == Results({}, of_a)
    assert "runs/b/trained" in project.repro()
    project.dvc("checkout", "gc --workspace --force")
    assert before.items() <= project.artifacts().items()
    # Even where the workspace is emptied: what the archive names is in the cache.
    shutil.rmtree(project.root / "artifacts" / "runs" / "a")
    project.dvc("checkout")
    assert "artifacts/runs/b/trained" in project.relock(locked("a")).kept
    assert project.repro() == []
    assert before.items() <= project.artifacts().items()


def test_without_the_archive_dvc_would_remove_finished_work(project: Project) -> None:
    """The control: what the archive is for."""
    project.relock(locked("b", lr=3.0))
    (project.root / ARCHIVE).unlink()
    project.repro()
    project.dvc("gc --workspace --force")
    shutil.rmtree(project.root / "artifacts" / "runs" / "a")
    project.relock(locked("a"))
    assert "runs/a/trained" in project.repro()


def test_what_is_forgotten_is_gone(project: Project) -> None:
    project.relock(locked("b", lr=3.0))
    assert project.lock is not None
    assert sorted(forget(project.root, project.lock)) == ["report@a", "score@a-1", "train@a"]
    assert not (project.root / ARCHIVE).exists()
    assert project.relock(locked("b", lr=3.0)).kept == ()


def test_an_output_inside_what_a_stage_reads_is_told_and_not_archived(project: Project) -> None:
    project.relock(locked("a", ks=(1, 2)))
    project.repro()
    results = project.relock(locked("a"))
    assert results.exposed == ("artifacts/evaluations/a/a-2",) and results.kept == ()
    project.repro()


@pytest.mark.parametrize("killed_before", ["the moves", "dvc.lock", "the lock", "the archive"])
def test_a_change_that_was_killed_is_completed_by_the_next_one(
    killed_before: str, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    import specs.pipeline.dvc_lock as module

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    old, calls = project.lock, []
    real = module._archive
    with monkeypatch.context() as patch:
        match killed_before:
            case "the moves":
                patch.setattr(module, "_move", kill)
            case "dvc.lock":
                patch.setattr(module, "_write", kill)
            case "the lock":
                patch.setattr(module, "_archive", kill)
            case "the archive":
                patch.setattr(module, "_archive", lambda *given: kill() if calls else calls.append(1) or real(*given))
        with pytest.raises(Killed):
            project.relock(locked("b"))
    # The lock on disk is the old one, or the new one where only the archive was left to write.
    project.lock = locked("b") if killed_before == "the archive" else old
    project.relock(locked("b"))
    assert project.repro() == ["reports/b"]


def test_dvc_at_work_is_not_disturbed(project: Project) -> None:
    held = {"artifacts/runs/a/trained": {"write": {"pid": os.getpid(), "cmd": "dvc repro"}, "read": []}}
    (project.root / ".dvc" / "tmp").mkdir(exist_ok=True)
    (project.root / ".dvc" / "tmp" / "rwlock").write_text(json.dumps(held), "utf-8")
    before = (project.root / "dvc.lock").read_bytes()
    with pytest.raises(UserError, match=rf"process {os.getpid()} \(dvc repro\) works on stages here"):
        project.relock(locked("b"))
    assert (project.root / "dvc.lock").read_bytes() == before
    held["artifacts/runs/a/trained"]["write"]["pid"] = 2**22 + 1  # nobody
    (project.root / ".dvc" / "tmp" / "rwlock").write_text(json.dumps(held), "utf-8")
    assert project.relock(locked("b")).carried
