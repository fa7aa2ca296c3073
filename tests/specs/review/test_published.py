"""Artifacts beside those that a commit published."""

import subprocess
from pathlib import Path

import pytest

from specs.common import git
from specs.common.errors import UserError
from specs.review import published

LOCK = """schema: '2.0'
stages:
  one: {{cmd: a, outs: [{{path: artifacts/one, md5: aaa}}]}}
  two@x: {{cmd: b, outs: [{{path: artifacts/two, md5: {second}}}, {{path: artifacts/three, md5: ccc}}]}}
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that has published three artifacts."""
    for module in (git, published):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    (tmp_path / "dvc.lock").write_text(LOCK.format(second="bbb"), "utf-8")
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "publish"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def test_what_was_made_again_alike_is_the_published(repository: Path) -> None:
    assert published.told(published.artifacts()) == ["every artifact is the published one (3 of 3)"]


def test_another_artifact_is_named(repository: Path) -> None:
    text = LOCK.format(second="other") + "  four: {cmd: d, outs: [{path: artifacts/four, md5: ddd}]}\n"
    (repository / "dvc.lock").write_text(text, "utf-8")
    told = published.told(published.artifacts())
    assert told[0] == "2 of 4 artifacts are the published ones; these are not:"
    assert told[1:3] == ["  artifacts/two", "  artifacts/four (not published)"]


def test_a_missing_lock_is_told(repository: Path) -> None:
    (repository / "dvc.lock").unlink()
    with pytest.raises(UserError, match=r"dvc\.lock cannot be read"):
        published.artifacts()
