import ast
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.documents.documents import Document
from data_pipeline.text.python_syntax import dump, equal, nodes

STATEMENTS = (
    "x = 1", "x = True", "x = 1.0", "x = 0.0", "x = -0.0", "x = 1e999 - 1e999", "x = 1j", "x = None", "x = ...", "pass",
    "x = 'a'", "x = b'a'", "x = u'a'", "x: int = 1", "x = f'{y!r:>{z}}'", "def f(a, /, b=1, *c, d, **e): return a",
    "def f(a, b=1, *c, d=2, **e): return a", "async def f(): await x", "x = {**y, 'a': 1}", "x = [a for a in b if a]",
    "match x:\n    case [1, *_]: pass", "match x:\n    case {'a': b, **c}: break_ = 1", "del x", "global x", "y = x",
    "try:\n    pass\nexcept E as e:\n    pass", "import a.b as c", "from . import d", "x @ y", "x and y or z", "x < y < z",  # noqa: E501
)  # fmt: skip


@given(st.lists(st.sampled_from(STATEMENTS), max_size=4), st.lists(st.sampled_from(STATEMENTS), max_size=4))
def test_trees_are_equal_where_their_dumps_are(one: list[str], other: list[str]) -> None:
    left, right = (ast.parse("\n".join(lines)) for lines in (one, other))
    assert equal(left, right) == (dump(left) == dump(right))
    assert equal(left, ast.parse("\n\n# here\n".join(one)))


@pytest.mark.parametrize(("one", "other"), [(one, other) for one in STATEMENTS for other in STATEMENTS if one < other])
def test_what_differs_is_told_apart(one: str, other: str) -> None:
    assert equal(ast.parse(one), ast.parse(other)) == (ast.dump(ast.parse(one)) == ast.dump(ast.parse(other)))


def test_renamed_names_count_as_what_they_were() -> None:
    assert equal(ast.parse("a = b"), ast.parse("c = b"), {"c": "a"})
    assert not equal(ast.parse("a = b"), ast.parse("c = b"), {"c": "b"})
    assert not equal(ast.parse("a.x = b"), ast.parse("a.c = b"), {"c": "x"}), "an attribute is no name"


def test_nodes_are_those_of_ast_walk(library: list[Document]) -> None:
    for document in random.Random(1).sample(library, 6):
        tree = ast.parse(document.text)
        assert nodes(tree) == list(ast.walk(tree))


def test_a_deep_tree_is_compared_without_recursion() -> None:
    deep = "x = " + "-" * 90 + "1"
    tree: ast.AST = ast.parse(deep)
    for _ in range(20_000):
        tree = ast.Expr(tree)
    assert equal(tree, tree) and dump(tree) is None
