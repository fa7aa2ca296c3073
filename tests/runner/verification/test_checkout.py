"""Code that no commit names verifies nothing unasked, and is recorded."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.verification.checkout import Checkout, read_checkout, require_named
from specs.common.errors import UserError

Ask = Callable[..., tuple[int, str]]


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=n", "-c", "user.email=e@e")
    return subprocess.run(
        ["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "room").mkdir(parents=True)
    (root / "room" / "code.py").write_text("x = 1\n", "utf-8")
    (root / ".gitignore").write_text("artifacts\n", "utf-8")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "one")
    return root


def test_a_clean_checkout_is_its_commit(project: Path) -> None:
    (project / "artifacts").mkdir()
    (project / "artifacts" / "run").write_text("made", "utf-8")
    checkout = read_checkout(project)
    assert checkout == Checkout(git(project, "rev-parse", "HEAD").strip(), (), "") and checkout.clean
    require_named(checkout, dirty=False)


def hide(project: Path) -> None:
    """A change that git was told to overlook."""
    git(project, "update-index", "--assume-unchanged", "room/code.py")
    (project / "room" / "code.py").write_text("x = 2\n", "utf-8")
    assert git(project, "status", "--porcelain") == ""


CHANGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "edited": (lambda p: (p / "room" / "code.py").write_text("x = 2\n", "utf-8"), "room/code.py"),
    "hidden": (hide, "room/code.py"),
    "removed": (lambda p: (p / "room" / "code.py").unlink(), "room/code.py"),
    "new": (lambda p: (p / "room" / "more.py").write_text("y = 1\n", "utf-8"), "room/more.py"),
    "made executable": (lambda p: (p / "room" / "code.py").chmod(0o755), "room/code.py"),
    "binary": (lambda p: (p / "room" / "data").write_bytes(bytes(range(256))), "room/data"),
}


@pytest.mark.parametrize(("change", "file"), CHANGES.values(), ids=CHANGES)
def test_every_difference_is_seen_and_recorded_so_that_it_can_be_applied(
    change: Callable[[Path], Any], file: str, project: Path, tmp_path: Path
) -> None:
    before = read_checkout(project).commit
    change(project)
    checkout = read_checkout(project)
    assert (checkout.commit, checkout.files, checkout.clean) == (before, (file,), False)
    with pytest.raises(UserError, match=rf"1 files differ \({file}\); commit them, or give --dirty"):
        require_named(checkout, dirty=False)
    require_named(checkout, dirty=True)
    # The record of it gives the same files on a clone.
    clone = tmp_path / "clone"
    git(project, "clone", "-q", str(project), str(clone))
    (tmp_path / "diff").write_text(checkout.diff, "utf-8")
    git(clone, "apply", str(tmp_path / "diff"))
    there, here = clone / file, project / file
    assert there.exists() == here.exists()
    assert not here.exists() or (there.read_bytes(), there.stat().st_mode) == (here.read_bytes(), here.stat().st_mode)


def test_the_repository_is_left_as_it_was(project: Path) -> None:
    (project / "room" / "more.py").write_text("y = 1\n", "utf-8")
    before = sorted(path for path in (project / ".git").rglob("*"))
    read_checkout(project)
    assert sorted(path for path in (project / ".git").rglob("*")) == before
    assert git(project, "status", "--porcelain") == "?? room/more.py\n"


def test_outside_a_repository_no_commit_names_the_code(tmp_path: Path) -> None:
    checkout = read_checkout(tmp_path)
    assert checkout.commit is None and not checkout.clean
    with pytest.raises(UserError, match="no git repository"):
        require_named(checkout, dirty=False)


def test_a_dirty_checkout_executes_nothing_unless_told_and_then_says_so(
    ask: Ask, run: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dirty = Checkout("f" * 40, ("model/decoder/loss.py",), "--- a\n+++ b\n")
    monkeypatch.setattr("runner.verification.verify.read_checkout", lambda: dirty)
    code, text = ask("verify", run, "--inputs", store.parent)
    assert code == 2 and "this checkout is not commit ffffffffffffffff: 1 files differ (model/decoder/loss.py)" in text
    assert ask("verify", run, "--recorded")[0] == 0, "that executes nothing"
    out = tmp_path / "attestation.json"
    code, text = ask("verify", run, "--inputs", store.parent, "--dirty", "--attestation", out)
    assert code == 0 and "with 1 files that differ from it (model/decoder/loss.py)" in text, text
    recorded = json.loads(out.read_text("utf-8"))["predicate"]["runDetails"]["metadata"]["twice_checkout"]
    assert recorded["diff"] == dirty.diff and recorded["commit"] == "f" * 40
