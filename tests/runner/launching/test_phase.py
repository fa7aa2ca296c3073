"""A store of terabytes is read whole once, not each time that a stage is started again."""

import json
import os
from pathlib import Path

import pytest

from runner.launching.phase import verify_once
from specs.common.errors import UserError
from tests.runner.conftest import write_store


@pytest.fixture
def own_store(tmp_path: Path) -> Path:
    return write_store(tmp_path / "store", rows=8)


def altered(store: Path) -> Path:
    """A file of the store with one other bit, and size and times as they were."""
    name = max(json.loads((store / "manifest.json").read_bytes())["files"])
    path, before = store / name, (store / name).stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return path


def test_a_store_is_verified_once_and_again_when_a_file_of_it_changes(own_store: Path, tmp_path: Path) -> None:
    note = tmp_path / "verified.json"
    verify_once(own_store, note)
    path = altered(own_store)
    verify_once(own_store, note)  # it is not read again: nothing says that it has changed
    os.utime(path)
    with pytest.raises(UserError, match="was altered"):
        verify_once(own_store, note)


def test_a_store_that_is_not_whole_leaves_no_note(own_store: Path, tmp_path: Path) -> None:
    altered(own_store)
    with pytest.raises(UserError, match="was altered"):
        verify_once(own_store, tmp_path / "verified.json")
    assert not (tmp_path / "verified.json").exists()
