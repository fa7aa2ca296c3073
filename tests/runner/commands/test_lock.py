"""`twice lock`: what it says of experiments that enter, change, leave, or have another name."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from runner.cli import main
from specs.loading.settings import ROOT
from specs.pipeline import dvc_lock
from specs.pipeline import lock as locking


@pytest.fixture
def experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the specs and the pipeline that the command then works on: `smoke` is locked, nothing is done."""
    root = tmp_path / "project"
    shutil.copytree(ROOT / "specs", root / "specs", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", root)
    monkeypatch.setattr(locking, "LOCK", root / "specs" / "lock.yaml")
    monkeypatch.setattr(locking, "EXPERIMENTS", root / "specs" / "experiments")
    monkeypatch.setattr(dvc_lock, "ROOT", root)
    return locking.EXPERIMENTS


def lock(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["lock", *arguments])


def said(*arguments: str) -> list[str]:
    result = lock(*arguments)
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


def copy(experiments: Path, name: str, old: str = "", new: str = "") -> None:
    text = (experiments / "smoke.yaml").read_text("utf-8").replace("name: smoke", f"name: {name}")
    assert old in text
    (experiments / f"{name}.yaml").write_text(text.replace(old, new, 1) if old else text, "utf-8")


def test_adding_and_removing_say_what_enters_and_leaves(experiments: Path) -> None:
    copy(experiments, "other", "{lr: 6e-3}", "{lr: 4e-3}")
    evaluations = [f"other-{key}" for key in ("basics", "humaneval")]
    assert said("--add", "other") == [
        "specs/lock.yaml written: other, smoke",
        f"  adds runs other; evaluations {', '.join(evaluations)}",
    ]
    assert said("--add", "other") == ["specs/lock.yaml unchanged: other, smoke"]
    (experiments / "other.yaml").write_text(
        (experiments / "other.yaml").read_text("utf-8").replace("4e-3", "5e-3"), "utf-8"
    )
    assert said() == ["specs/lock.yaml written: other, smoke", "  changes runs other"]
    assert said("--remove", "other") == [
        "specs/lock.yaml written: smoke",
        f"  leaves out runs other; evaluations {', '.join(evaluations)}",
    ]
    assert locking.check_lock()["experiments"] == ["smoke"]


def test_an_experiment_that_was_renamed_is_found_by_its_content(experiments: Path) -> None:
    copy(experiments, "other", "{lr: 6e-3}", "{lr: 4e-3}")
    copy(experiments, "quick")
    (experiments / "smoke.yaml").unlink()
    for arguments in ([], ["--check"], ["--add", "other"]):
        result = lock(*arguments)
        assert result.exit_code == 2 and result.output.count("\n") == 1
        assert "'smoke' is gone, and 'quick' is the same: run `twice lock" in result.output
    assert said("quick")[0] == "specs/lock.yaml written: quick"
    # With nothing that is the same, it is only missing.
    (experiments / "quick.yaml").unlink()
    assert "there is no experiment 'quick'" in lock().output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["smoke", "--add", "smoke"], "give one of"),
        (["--check", "--remove", "smoke"], "give one of"),
        (["--forget", "--check"], "give one of"),
        (["--remove", "absent"], "the lock does not hold absent; it holds smoke"),
        (["--remove", "smoke"], "a lock holds one experiment at least"),
        (["--add", "absent"], "there is no experiment 'absent'"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_changes_nothing(
    arguments: list[str], message: str, experiments: Path
) -> None:
    before = locking.LOCK.read_bytes()
    result = lock(*arguments)
    assert result.exit_code == 2 and message in result.output and result.output.count("\n") == 1
    assert locking.LOCK.read_bytes() == before


def test_there_may_be_nothing_to_forget(experiments: Path) -> None:
    assert said("--forget") == ["nothing to forget"]
