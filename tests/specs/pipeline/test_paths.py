"""Paths of the pipeline: which lies in which, and what follows when one is touched."""

import pytest

from specs.pipeline.dvc_graph import expand, overlap, reruns, within


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


PIPELINE = """
stages:
  lock:
    cmd: check --stamp lock.fresh
    deps: [specs]
    outs: [lock.fresh]
  make:
    cmd: make
    deps: [lock.fresh, {dependency}]
    outs: [made]
  use:
    cmd: use
    deps: [lock.fresh, made]
    outs: [used]
"""


@pytest.mark.parametrize(
    ("touched", "changed", "following"),
    [
        # A stamp has the same bytes whenever the check succeeds: nothing follows from it.
        ("specs", {"lock"}, {}),
        ("code", {"make"}, {"use": "make"}),
    ],
)
def test_nothing_follows_from_a_mere_check(touched: str, changed: set[str], following: dict[str, str]) -> None:
    stages = expand(PIPELINE.replace("{dependency}", "code"), {})
    found = reruns(stages, stages, lambda path: path == touched)
    assert (set(found.changed), found.following) == (changed, following)
    assert set(found.checks) == changed & {"lock"} and set(found.reused) == {*stages} - changed - {*following}
