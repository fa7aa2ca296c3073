import ast
from textwrap import dedent

import pytest

from data_pipeline.documents.documents import Document
from data_pipeline.sources.docstring_pairs import MAX_CHARS, docstring_pairs


def pairs(text: str):
    return list(docstring_pairs(dedent(text).lstrip("\n")) or [])


def test_a_method_is_moved_to_the_margin() -> None:
    [pair] = pairs('''
        class Table:
            @property
            def width(self) -> int:
                """Number of columns.

                    Deeply indented.
                """
                text = "  kept  "
                return len(text)
    ''')
    user, assistant = pair.messages
    assert (user.role, assistant.role, pair.line) == ("user", "assistant", 2)
    assert assistant.content.startswith('@property\ndef width(self) -> int:\n    """Number of columns.\n')
    assert assistant.content.endswith('    text = "  kept  "\n    return len(text)\n')
    signature = user.content.removeprefix("Write the Python function `width`.\n\n")
    assert assistant.content.startswith(signature) and "return" not in signature


@pytest.mark.parametrize(
    ("body", "trouble"),
    [
        ('def __init__(self):\n    """Makes a new thing."""\n    self.x = 1\n', "special method"),
        ('def test_it():\n    """Tests that it works."""\n    assert 1\n', "name contains test"),
        ('def f():\n    """Too short."""\n    return 1\n', "docstring is too short"),
        ('def f(): "Says one thing twice."; return 1\n', "function is too short"),
        ('def f():\n    """Must be done elsewhere."""\n    raise NotImplementedError("x")\n', "function does nothing"),
        ('def f():\n    """Must be done elsewhere."""\n    ...\n', "function does nothing"),
        ('def f():\n    """Says one thing."""; x = 1\n    return x\n', "body begins on the line of the docstring"),
        (f'def f():\n    """Says one thing twice."""\n    return "{"x" * MAX_CHARS}"\n', "function is too long"),
        (
            'class C:\n    def f(self):\n        """Says one thing twice."""\n        return """\n    text\n    """\n',
            "function cannot be moved to the margin",
        ),
    ],
)
def test_what_makes_no_pair_has_a_reason(body: str, trouble: str) -> None:
    [pair] = pairs(body)
    assert (pair.trouble, pair.messages) == (trouble, ())


def test_nested_and_undocumented_functions_are_no_candidates() -> None:
    code = 'def f():\n    def g():\n        """Says one thing twice."""\n        return 1\n    return g\n'
    assert pairs(code) == []
    assert docstring_pairs("def") is None


def test_every_answer_is_one_function_that_parses(library: list[Document]) -> None:
    found = [pair for document in library for pair in docstring_pairs(document.text) or [] if not pair.trouble]
    assert len(found) > 40
    for pair in found:
        user, assistant = pair.messages
        [function] = ast.parse(assistant.content).body
        assert isinstance(function, ast.FunctionDef) and f"`{function.name}`" in user.content
        assert ast.get_docstring(function)
