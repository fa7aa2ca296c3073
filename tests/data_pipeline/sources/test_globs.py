"""Globs choose members as people write them, and today's specs choose what they always chose."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from data_pipeline.sources.globs import matches
from specs.common.errors import UserError
from specs.loading.settings import ROOT

SOURCES = [
    source
    for path in sorted((ROOT / "specs" / "corpora").glob("*.yaml"))
    for source in YAML(typ="safe", pure=True).load(path)["sources"]
]
GLOBS = sorted(
    {glob for source in SOURCES for kind in ("include", "exclude") for glob in source.get(kind, ())} | {"**"}
)
# Names that the globs speak of, and some beside them.
WORDS = sorted(
    {word for glob in GLOBS for word in glob.split("/") if "*" not in word} | {"a", "mytests", "tests2", ".x"}
)
FILES = [*WORDS, "a.py", "b.txt", "README"]


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("**", ["a", "a/b/c.py"], []),
        ("*.py", ["a.py"], ["a/b.py", "a.pyx", "apy"]),
        ("**/*.py", ["a.py", "a/b/c.py"], ["a.txt"]),
        ("a/**", ["a/b", "a/b/c"], ["ab/c", "a"]),
        ("**/tests/**", ["tests/x", "a/tests/b/c"], ["a/mytests/x", "tests"]),
        ("a?[bc].md", ["a1b.md", "axc.md"], ["a/b.md", "a1d.md", "ab.md"]),
        ("[!a]*", ["b", "ba"], ["a", "ab"]),
        ("a.(b)+", ["a.(b)+"], ["axb"]),
        ("a/b", ["a/b", "a/b/c.py"], ["b", "a/bc", "x/a/b"]),
        ("!a", ["!a"], ["a", "b"]),
        ("#a", ["#a"], ["a"]),
    ],
)
def test_globs_read_as_people_write_them(glob: str, yes: list[str], no: list[str]) -> None:
    assert all(matches(path, [glob]) for path in yes)
    assert not any(matches(path, [glob]) for path in no)


def by_hand(glob: str) -> "re.Pattern[str]":
    """What a glob means, written independently for the parts of globs that the specs use."""
    meanings = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*"}
    pieces = re.split(r"(\*\*/|\*\*|\*)", glob)
    return re.compile("".join(meanings.get(piece) or re.escape(piece) for piece in pieces), re.DOTALL)


@given(folders=st.lists(st.sampled_from([word for word in WORDS if "." not in word[1:]]), max_size=4), name=st.data())
def test_the_globs_of_the_specs_choose_the_same_members_as_a_regular_expression(
    folders: list[str], name: st.DataObject
) -> None:
    path = "/".join([*folders, name.draw(st.sampled_from(FILES))])
    # A file named as a folder is no member below it: both mean the same by a whole path.
    for glob in GLOBS:
        assert matches(path, [glob]) == bool(by_hand(glob).fullmatch(path)), (glob, path)


def test_a_glob_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"glob '\[z-a\]' is not valid \(bad character range"):
        matches("a", ["[z-a]"])
