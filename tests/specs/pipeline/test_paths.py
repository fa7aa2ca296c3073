"""Paths of the pipeline: which lies in which."""

import pytest

from specs.pipeline.dvc_graph import overlap, within


@pytest.mark.parametrize(
    ("path", "folder", "inside"),
    [
        ("a/b", "a/b", True),
        ("a/b/c", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/bc", "a/b", False),
        ("a/b.py", "a/b", False),
        ("b/a", "a", False),
    ],
)
def test_a_path_lies_in_itself_and_in_folders_above(path: str, folder: str, inside: bool) -> None:
    assert within(path, folder) == inside
    assert overlap(path, folder) == overlap(folder, path) == (inside or within(folder, path))
