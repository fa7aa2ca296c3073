"""Commands act on the checkout that one stands in, or refuse: a second worktree, with the first one's environment."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from specs.loading.settings import ROOT

BIN = Path(sys.executable).parent
SPEC = "specs/experiments/smoke.yaml"
FOLDERS = ("specs", "runner", "data_pipeline", "model", "evaluation", ".dvc")
FILES = ("dvc.yaml", ".dvcignore", ".gitignore")
FILTER = ("-m", "data_pipeline.filter", "corpora.smoke-code", "--documents", ".", "--out", "out")


def git(root: Path, *arguments: str) -> None:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "core.hooksPath=/dev/null")
    subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkouts") / "first"
    for folder in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__", "tmp", "cache")
        shutil.copytree(ROOT / folder, root / folder, ignore=ignored)
    for file in FILES:
        shutil.copy(ROOT / file, root)
    git(root, "init", "-q", "-b", "main")
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    return root


@pytest.fixture(scope="module")
def second(first: Path) -> Path:
    """A worktree whose lock is stale, while that of the first is fresh."""
    root = first.with_name("second")
    git(first, "worktree", "add", "-q", str(root), "-b", "other")
    path = root / SPEC
    path.write_text(path.read_text("utf-8").replace("warmup_steps: 20", "warmup_steps: 40"), "utf-8")
    return root


def run(command: tuple[str, ...], at: Path, code: Path) -> subprocess.CompletedProcess[str]:
    """Run a command somewhere, with the environment into which a checkout's code is installed."""
    environment = os.environ | {"PYTHONPATH": str(code), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, cwd=at, env=environment, capture_output=True, text=True, check=False)


def locks(*roots: Path) -> list[bytes]:
    return [(root / "specs" / "lock.yaml").read_bytes() for root in roots]


@pytest.mark.parametrize(
    ("folder", "command"),
    [
        (".", ("twice", "lock", "--check")),
        ("specs/experiments", ("twice", "lock")),
        (".", ("twice", "schema")),
        (".", ("twice", "check", SPEC)),
        ("runner", ("twice", "diff", f"main:{SPEC}", SPEC)),
        (".", ("twice", "launch", "pretrain@smoke", "--render")),
    ],
)
def test_a_command_of_the_first_refuses_in_the_second(
    folder: str, command: tuple[str, ...], first: Path, second: Path
) -> None:
    before = locks(first, second)
    done = run(command, second / folder, code=first)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith(f"error: this is the checkout {second}, but the installed code is that of {first}: ")
    assert done.stderr.count("\n") == 1 and done.stdout == ""
    assert locks(first, second) == before


def test_a_stage_of_the_first_refuses_in_the_second(first: Path, second: Path) -> None:
    done = run((sys.executable, *FILTER), second / "specs", code=first)
    assert done.returncode == 2 and "this is the checkout" in done.stderr and done.stderr.count("\n") == 1
    # `python -m` at the root runs the code that lies there: it is the second's own, and sees the second's lock.
    done = run((sys.executable, *FILTER), second, code=first)
    assert done.returncode == 2 and done.stderr.startswith("error: specs/lock.yaml is stale: runs.smoke.")


def test_dvc_does_not_pass_its_guard_in_the_second(first: Path, second: Path) -> None:
    done = run(("dvc", "repro", "-s", "lock"), second, code=first)
    assert done.returncode != 0
    assert "error: this is the checkout" in done.stderr and "Traceback" not in done.stderr
    assert not (second / "artifacts" / "lock.fresh").exists()


def test_help_needs_no_checkout(first: Path, second: Path) -> None:
    assert run(("twice", "check", "--help"), second, code=first).returncode == 0


def test_each_checkout_is_served_by_its_own_code(first: Path, second: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(first)
    for at in (first, first / "specs" / "experiments", tmp_path / "link"):
        done = run(("twice", "lock", "--check"), at, code=first)
        assert (done.returncode, done.stdout) == (0, "specs/lock.yaml is fresh: smoke\n"), done.stderr
    before = locks(first)
    assert "stale: runs.smoke" in run(("twice", "lock", "--check"), second / "specs", code=second).stderr
    assert (
        run(("twice", "lock"), second / "specs", code=second).stdout
        == "specs/lock.yaml written: smoke\n  changes runs smoke\n"
    )
    assert run(("dvc", "repro", "-s", "lock"), second, code=second).returncode == 0
    assert locks(first) == before != locks(second)


def test_outside_any_checkout_files_are_read_and_nothing_is_written(first: Path, tmp_path: Path) -> None:
    assert run(("twice", "check", str(first / SPEC)), tmp_path, code=first).returncode == 0
    before = locks(first)
    for command in (("twice", "lock"), ("twice", "schema"), ("twice", "launch", "pretrain@smoke")):
        done = run(command, tmp_path, code=first)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert done.stderr.startswith(
            f"error: this is no checkout of the project; the installed code is that of {first}"
        )
    assert locks(first) == before
