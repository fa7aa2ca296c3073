"""The code of a stage is the files that DVC hashes for it, and state of one code is never continued by another."""

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from specs import ROOT
from specs.common.errors import UserError
from specs.pipeline import code, stage

PIPELINE = """
stages:
  make:
    foreach: ${runs}
    do:
      cmd: python -m tool.make
      deps: [stamp, "made/${key}", tool/room, tool/make.py]
      outs: ["out/${key}"]
  other: {cmd: touch stamp, deps: [tool/other.py], outs: [stamp: {cache: false}]}
"""
FILES = ("tool/make.py", "tool/other.py", "tool/room/a.py", "tool/room/deep/b.py", "tool/near.py")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "project"
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"# {name}\n", "utf-8")
    (root / "dvc.yaml").write_text(PIPELINE, "utf-8")
    shutil.copy(ROOT / ".dvcignore", root)
    monkeypatch.setattr(code, "ROOT", root)
    monkeypatch.setattr(code, "code_of", code.code_of.__wrapped__)  # each test is many processes in one
    monkeypatch.setattr(stage, "code_of", code.code_of)
    return root


def edit(project: Path, name: str) -> None:
    with (project / name).open("a", encoding="utf-8") as file:
        file.write("# a comment\n")


def test_the_digest_is_that_of_the_named_files_alone(project: Path) -> None:
    own = code.code_of("make")
    assert own.paths == ("tool/room", "tool/make.py")
    assert list(own.files) == ["tool/make.py", "tool/room/a.py", "tool/room/deep/b.py"]
    edit(project, "tool/near.py")
    edit(project, "tool/other.py")
    (project / "tool" / "room" / "__pycache__").mkdir()
    (project / "tool" / "room" / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"compiled")
    assert code.code_of("make").digest == own.digest
    seen = {own.digest}
    for change in (
        lambda: edit(project, "tool/make.py"),
        lambda: edit(project, "tool/room/deep/b.py"),
        lambda: (project / "tool" / "room" / "new.py").write_text("", "utf-8"),
        lambda: (project / "tool" / "room" / "new.py").rename(project / "tool" / "room" / "newer.py"),
        lambda: (project / "tool" / "room" / "deep" / "b.py").unlink(),
    ):
        change()
        seen.add(code.code_of("make").digest)
    assert len(seen) == 6


def test_a_stage_that_is_not_there_and_a_file_that_is_missing_are_named(project: Path) -> None:
    with pytest.raises(UserError, match="no stage 'bake'; it has make, other"):
        code.code_of("bake")
    (project / "tool" / "make.py").unlink()
    with pytest.raises(UserError, match=r"depend on tool/make\.py, which is missing"):
        code.code_of("make")


def test_the_files_are_those_that_dvc_hashes() -> None:
    pipeline = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")
    with Repo(str(ROOT)) as repo:
        for name in pipeline["stages"]:
            own = code.code_of(name)
            found = {path for path in own.paths if (ROOT / path).is_file()}
            for folder in (path for path in own.paths if (ROOT / path).is_dir()):
                listed = repo.dvcignore.find(repo.fs, str(ROOT / folder))
                found |= {Path(file).relative_to(ROOT).as_posix() for file in listed}
            assert sorted(found) == list(own.files), name
            assert own.files, name


def run(*, accept: bool | None = None, during: Callable[[], object] = lambda: None, fail: bool = False) -> list[str]:
    """A stage that adds a line to its state; the lines that it saw."""
    with stage.scratch("make", {"value": 1}, {"input": "0"}, accept_code_change=accept) as folder:
        journal = folder / "lines"
        lines = journal.read_text("utf-8").splitlines() if journal.exists() else []
        journal.write_text("\n".join([*lines, code.code_of("make").digest[:4]]), "utf-8")
        during()
        if fail:
            raise KeyboardInterrupt
    return lines


def interrupted() -> None:
    with pytest.raises(KeyboardInterrupt):
        run(fail=True)


def test_the_same_code_goes_on_and_what_is_finished_leaves_nothing(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted()
    edit(project, "tool/near.py")
    assert len(run()) == 1
    assert run() == []
    assert [path for path in (tmp_path / "scratch").iterdir() if path.is_dir()] == []
    assert capsys.readouterr().err == ""


def test_other_code_starts_anew_and_says_so_once(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted()
    before = (project / "tool" / "room" / "a.py").read_bytes()
    edit(project, "tool/room/a.py")
    interrupted()
    said = capsys.readouterr().err
    assert said.startswith("make: tool/room/a.py has changed since it was interrupted (its state stays in ")
    assert said.endswith("): starting anew\n") and said.count("\n") == 1
    assert len(run()) == 1
    assert capsys.readouterr().err == ""
    # The state of the old code is still there for the old code.
    (project / "tool" / "room" / "a.py").write_bytes(before)
    assert len(run()) == 1
    assert not list((tmp_path / "scratch").glob("make-*/"))


def test_an_accepted_change_goes_on_and_stays_recorded(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def accepted() -> tuple[str, ...]:
        held = []
        with pytest.raises(KeyboardInterrupt):
            run(fail=True, during=lambda: held.append(code.current()))
        return held[0].accepted

    digests = [code.code_of("make").digest]
    interrupted()
    for name in ("tool/room/a.py", "tool/make.py"):
        edit(project, name)
        with pytest.raises(KeyboardInterrupt):
            run(accept=True, fail=True)
        # The next attempt need not say it again.
        assert accepted() == tuple(digests)
        digests.append(code.code_of("make").digest)
    assert run() == [digest[:4] for digest in (digests[0], digests[1], digests[1], digests[2], digests[2])]
    assert capsys.readouterr().err == ""


def test_which_state_goes_on_is_never_guessed(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    interrupted()
    edit(project, "tool/room/a.py")
    with pytest.raises(KeyboardInterrupt):
        run(accept=False, fail=True)
    assert "--accept-code-change goes on from it" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"state of more than one code lies in .*: remove what shall not go on"):
        run(accept=True)
    assert len(run()) == 1


def test_code_that_changes_under_a_stage_fails_it_and_keeps_its_state(project: Path) -> None:
    before = (project / "tool" / "make.py").read_bytes()
    with pytest.raises(UserError, match=r"make: tool/make\.py in .* is not as it was when the stage started"):
        run(during=lambda: edit(project, "tool/make.py"))
    (project / "tool" / "make.py").write_bytes(before)
    assert len(run()) == 1


def test_a_process_with_other_code_refuses_its_part(project: Path) -> None:
    own = code.code_of("make")
    code.require(None)
    edit(project, "tool/room/a.py")
    with pytest.raises(UserError, match=r"tool/room/a\.py"):
        code.require(own)


def test_two_processes_never_work_on_one_result_whatever_their_code(project: Path, tmp_path: Path) -> None:
    interrupted()
    edit(project, "tool/make.py")
    (path,) = (tmp_path / "scratch").glob("*.lock")
    with path.open("r+", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="is already working in"):
            run()


def test_state_of_other_inputs_is_not_continued(project: Path, tmp_path: Path) -> None:
    folders = set()
    for section, digest in (({"value": 1}, "0"), ({"value": 2}, "0"), ({"value": 1}, "1")):
        with stage.scratch("make", section, {"input": digest}) as folder:
            folders.add(folder)
            assert not (folder / "lines").exists()
            (folder / "lines").write_text("state", "utf-8")
    assert len(folders) == 3
