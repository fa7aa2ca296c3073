import ast
import random
import tokenize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.augmentations.python_layout import TRANSFORMS, blank_lines, comments, indent, proven, quotes
from data_pipeline.augmentations.rename_locals import rename_locals, scopes
from data_pipeline.documents.documents import Document
from data_pipeline.text.python_syntax import parse

CODE = '''\
import os


@decorator
class Table:
    """A "table"."""

    def width(self, rows, *, fill='x'):
        total = 0   # of all
        # about the loop
        for row in rows:
            if row:
                total += len(row,
                             )
        # after the loop
            else:
                text = """
  kept
    as it is"""
        name = "it's"; mark = f"{total}'{fill}'"
        return [part for part in (total, text, name, mark)]

x = 1 + \\
    2
'''.replace("            else:\n                text", "        else:\n            text")


@pytest.mark.parametrize("name", ["quotes", "indent", "blank_lines"])
@pytest.mark.parametrize("seed", range(6))
def test_layout_keeps_the_tree(name: str, seed: int) -> None:
    changed = TRANSFORMS[name](CODE, random.Random(seed))
    assert changed is not None and changed != CODE
    assert ast.dump(ast.parse(changed)) == ast.dump(ast.parse(CODE))
    assert "  kept\n    as it is" in changed


@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_real_modules_are_proven_and_changed(name: str, library: list[Document]) -> None:
    changed = [TRANSFORMS[name](document.text, random.Random(1)) for document in library]
    assert None not in changed
    assert sum(new != document.text for new, document in zip(changed, library, strict=True)) > len(library) // 2


def test_quotes_swap_both_ways_and_leave_risky_strings() -> None:
    text = "a = 'x' + \"y\" + r'z' + 'it\"s' + '\\n' + f'{q}' + f\"{d['k']}\" + '''t''' + b'b'\n"
    swapped = quotes(text, random.Random(0))
    assert swapped == "a = \"x\" + 'y' + r\"z\" + 'it\"s' + '\\n' + f'{q}' + f\"{d['k']}\" + '''t''' + b\"b\"\n"
    assert quotes(swapped, random.Random(0)) == text


def test_indent_moves_blocks_comments_and_continuations() -> None:
    text = (
        "def f(a,\n      b):\n    # one\n    if a:\n        return (a +\n                b)\n    # two\n    return b\n"
    )
    found = {indent(text, random.Random(seed)) for seed in range(9)}
    assert found == {
        "def f(a,\n      b):\n  # one\n  if a:\n    return (a +\n            b)\n  # two\n  return b\n",
        "def f(a,\n      b):\n\t# one\n\tif a:\n\t\treturn (a +\n\t\t        b)\n\t# two\n\treturn b\n",
    }


def test_blank_lines_stay_out_of_statements() -> None:
    text = "x = [\n\n    1,\n]\ny = '''\n\n\n'''\n\n\nz = 2\n" * 20
    for seed in range(5):
        changed = blank_lines(text, random.Random(seed))
        assert changed.count("[\n\n    1,\n]") == changed.count("y = '''\n\n\n'''") == 20


def test_comments_go_in_whole_runs_and_directives_stay() -> None:
    header = "#!/usr/bin/env python\n# Copyright somebody.\n"
    body = 'import os  # kept\n# one\n# two\nx = """\n# text\n"""\n# type: ignore\n# noqa\n# three\ny = 1\n'
    results = {comments(header + body, random.Random(seed)) for seed in range(40)}
    assert results == {
        (header + body).replace("# one\n# two\n", first).replace("# three\n", second)
        for first in ("", "# one\n# two\n")
        for second in ("", "# three\n")
    }


def test_a_transform_that_changes_the_tree_is_refused() -> None:
    assert proven(lambda text, rng: text + "y = 2\n")(CODE, random.Random(0)) is None
    assert proven(lambda text, rng: text + "(")(CODE, random.Random(0)) is None
    assert proven(lambda text, rng: text)("def", random.Random(0)) is None


def raising(text: str, rng: random.Random) -> str:
    raise tokenize.TokenError("no")


def test_trouble_with_tokens_is_no_proof() -> None:
    assert proven(raising)(CODE, random.Random(0)) is None
    assert rename_locals("def", random.Random(0)) is None


@given(st.text(alphabet="ab:=()'\"\n \t#\\if", max_size=60), st.integers(0, 3))
def test_any_text_is_proven_or_left(text: str, seed: int) -> None:
    for transform in TRANSFORMS.values():
        changed = transform(text, random.Random(seed))
        if changed is not None:
            assert parse(text) is not None and parse(changed) is not None


def renamable(body: str, parameters: str = "") -> list[str]:
    indented = "".join(f"    {line}\n" for line in body.split("\n"))
    tree = parse(f"def f({parameters}):\n{indented}")
    assert tree is not None
    return scopes(tree)[0].renamable


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ("a = 1\nfor b in a:\n    c: int = b", ["a", "b", "c"]),
        ("p = 1", []),
        ("global a\na = 1", []),
        ("a = 1\ndef g():\n    return a", []),
        ("a = 1\nb = [a for a in a]", ["b"]),
        ("a = 1\nb = lambda: a", ["b"]),
        ("a = 1\nclass A:\n    a = a", []),
        ("import a\na = 1", []),
        ("import x.y\nx = 1", []),
        ("a = 1\nb = f'{a}'", ["b"]),
        ("try:\n    a = 1\nexcept E as a:\n    b = 2", ["b"]),
        ("match p:\n    case [a, *b]:\n        a = c = 1", ["c"]),
        ("a = 1\nreturn locals()", []),
        ("a = 1\nf(a=a)\nx.a = a", ["a"]),
        ("__a = 1\n_b = 2", ["_b"]),
        ("if (a := p):\n    return a", ["a"]),
        ("with p as (a, b):\n    del a", ["a", "b"]),
    ],
)
def test_only_names_of_which_every_place_is_known_are_renamable(body: str, names: list[str]) -> None:
    assert renamable(body, "p, *q") == names


def test_renaming_changes_names_and_nothing_else() -> None:
    text = "def f(a):\n    größe = a\n    'é'; größe += 1; x = größe; return größe, x\n"
    results = {rename_locals(text, random.Random(seed)) for seed in range(12)}
    assert len(results) > 4 and None not in results
    for result in results:
        scope: dict[str, object] = {}
        exec(result, scope)
        assert scope["f"](1) == (2, 2)  # type: ignore[operator]


def test_a_renaming_that_misses_a_place_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "def f():\n    a = 1\n    return a\n"
    assert {rename_locals(text, random.Random(seed)) for seed in range(8)} != {text}

    def missing(tree: ast.Module) -> object:
        found = scopes(tree)
        for scope in found:
            for nodes in scope.nodes.values():
                del nodes[1:]
        return found

    monkeypatch.setattr("data_pipeline.augmentations.rename_locals.scopes", missing)
    assert {rename_locals(text, random.Random(seed)) for seed in range(8)} == {text, None}


@pytest.mark.parametrize(
    "evaluated",
    [
        "frame.query('a > @limit')",
        'frame.assign_from("b = a + limit", inplace=True)',
        'numexpr.evaluate(f"a < limit")',
        "run(b'print(limit)')",
        "template.render('{{ limit }}')",
        "connection.execute('select :limit')",
        '"""\n    >>> limit\n    """',
    ],
)
def test_a_local_whose_name_stands_in_a_string_is_left_alone(evaluated: str) -> None:
    text = f"def f(frame, g):\n    limit = g()\n    other = g(limit)\n    {evaluated}\n    return other\n"
    results = [rename_locals(text, random.Random(seed)) for seed in range(20)]
    assert all(result is not None and "    limit = g()" in result and evaluated in result for result in results)
    # The control: the other one is renamed.
    assert any("    other = " not in str(result) for result in results)
    plain = text.replace(evaluated, "pass")
    assert any("    limit = " not in str(rename_locals(plain, random.Random(seed))) for seed in range(20))
