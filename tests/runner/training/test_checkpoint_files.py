"""A checkpoint on disk: which is the newest, which may stay, and whether it is noticed that one was changed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from runner.training import checkpoint_files
from runner.training.checkpoint_files import DamagedError
from specs.common.files import digest_json, sha256_file, write_json

STEPS = (2, 9, 10, 100)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints of steps whose names sort otherwise than their numbers, and what a kill and a damage left."""
    for step in STEPS:
        (path := tmp_path / f"step-{step}").mkdir()
        name = checkpoint_files.shard_name(0, 1)
        checkpoint_files.write_tensors({f"value/{step}": torch.full((3,), float(step))}, path / name)
        files = {name: {"sha256": sha256_file(path / name), "bytes": (path / name).stat().st_size}}
        manifest = {"format": checkpoint_files.FORMAT, "step": step, "files": files}
        write_json(path / checkpoint_files.MANIFEST, manifest | {"digest": digest_json(manifest)})
    for name in ("step-101.tmp", "step-102.damaged", "step-"):
        (tmp_path / name).mkdir()
    (tmp_path / "latest").write_text("step-100\n", "utf-8")
    return tmp_path


def test_the_newest_checkpoint_is_that_of_the_highest_step(folder: Path) -> None:
    assert [path.name for path in checkpoint_files.find(folder)] == ["step-100", "step-10", "step-9", "step-2"]


def test_what_outlives_a_run_are_the_checkpoints_of_every_so_many_steps(folder: Path, tmp_path: Path) -> None:
    checkpoint_files.outlive(folder, tmp_path / "kept", 5)
    assert [path.name for path in checkpoint_files.find(tmp_path / "kept")] == ["step-100", "step-10"]
    assert [path.name for path in checkpoint_files.find(folder)] == ["step-9", "step-2"]


def _edit(path: Path) -> None:
    manifest = json.loads(path.read_bytes())
    path.write_text(json.dumps(manifest | {"format": 1}), "utf-8")


def _older(path: Path) -> None:
    manifest = json.loads(path.read_bytes()) | {"format": checkpoint_files.FORMAT - 1}
    del manifest["digest"]
    write_json(path, manifest | {"digest": digest_json(manifest)})


def _flip(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))


SHARD = checkpoint_files.shard_name(0, 1)
DAMAGE: dict[str, Callable[[Path], object]] = {
    "manifest.json is not what was written": lambda step: _edit(step / "manifest.json"),
    "its format is 1, this code reads 2": lambda step: _older(step / "manifest.json"),
    "its manifest is that of step 9": lambda step: shutil.copytree(step.with_name("step-9"), step, dirs_exist_ok=True),
    "has another sha256": lambda step: _flip(step / SHARD),
    "bytes instead of": lambda step: (step / SHARD).write_bytes(b""),
    "is missing": lambda step: (step / SHARD).unlink(),
}


@pytest.mark.parametrize(("message", "damage"), DAMAGE.items(), ids=DAMAGE)
def test_a_checkpoint_that_is_not_what_was_written_says_what_is_wrong(
    message: str, damage: Callable[[Path], object], folder: Path
) -> None:
    step = folder / "step-10"
    assert checkpoint_files.verify(step)["step"] == 10
    damage(step)
    with pytest.raises(DamagedError, match=message):
        checkpoint_files.verify(step)
