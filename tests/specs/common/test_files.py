import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specs.common.files import canonical_json, digest_json, replacing, tree_digests, write_json


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old", "utf-8")
    with pytest.raises(RuntimeError), replacing(target) as temporary:
        temporary.write_text("half", "utf-8")
        raise RuntimeError
    assert target.read_text("utf-8") == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for content in ("one", "two"):
        with replacing(target) as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content, "utf-8")
    assert os.listdir(target) == ["two"]
    assert os.listdir(tmp_path) == ["folder"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    dead, living = 2**22 + 1, 1
    for process in (dead, living):
        (tmp_path / f".file.{process}.tmp").write_text("left", "utf-8")
    write_json(tmp_path / "file", {})
    assert sorted(os.listdir(tmp_path)) == [f".file.{living}.tmp", "file"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=5))
def test_key_order_does_not_change_the_digest(value: dict[str, object]) -> None:
    try:
        canonical_json(value)
    except UnicodeEncodeError:
        return  # lone surrogates are no text
    assert digest_json(value) == digest_json(dict(reversed(value.items())))


def test_not_a_number_has_no_canonical_form() -> None:
    with pytest.raises(ValueError):
        canonical_json(math.nan)


def test_tree_digests_see_every_byte_and_name(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1", "utf-8")
    before = tree_digests(tmp_path)
    (tmp_path / "a" / "x").write_text("2", "utf-8")
    changed = tree_digests(tmp_path)
    (tmp_path / "a" / "x").rename(tmp_path / "a" / "y")
    assert list(before) == ["a/x"]
    assert before != changed
    assert list(tree_digests(tmp_path)) == ["a/y"]
