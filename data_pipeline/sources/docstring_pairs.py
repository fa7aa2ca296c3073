"""Docstring pairs: Python functions as an instruction and its answer, in the manner of CodeSearchNet.

Husain et al. (2019), section 2, keep a function where its docstring has three tokens or more, it has three lines or
more, its name does not contain `test`, and it is no constructor or other special method. Those limits are kept here.
Added to them: an upper limit of size, and that the body does something beyond raising NotImplementedError.
"""

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass

from data_pipeline.documents.documents import Message
from data_pipeline.text.python_syntax import dump, parse

MIN_DOCSTRING_WORDS = 3
MIN_LINES = 3
MAX_CHARS = 3_000
"""Of the whole function: longer ones would not fit the context of a small model."""

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Pair:
    """A function as a conversation, or why it makes none."""

    line: int
    """First line of the function in its module, decorators included; counts from 1."""
    messages: tuple[Message, ...]
    """The request (signature and docstring) and the answer (the whole function); empty where refused."""
    trouble: str = ""


def docstring_pairs(text: str) -> Iterator[Pair] | None:
    """A pair for each documented function on the top level of a module or of its classes, in order of lines.

    None where the module cannot be parsed.
    """
    tree = parse(text)
    if tree is None:
        return None
    lines = text.split("\n")
    return (_pair(function, lines) for function in functions(tree) if ast.get_docstring(function))


def functions(parent: ast.Module | ast.ClassDef) -> Iterator[_Function]:
    """Functions on the top level of a module or of its classes, in order of lines."""
    for child in parent.body:
        if isinstance(child, _Function):
            yield child
        elif isinstance(child, ast.ClassDef):
            yield from functions(child)


def _pair(function: _Function, lines: list[str]) -> Pair:
    first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
    docstring_end = function.body[0].end_lineno
    assert docstring_end is not None and function.end_lineno is not None
    trouble = _trouble(function, function.end_lineno - first + 1)
    if trouble:
        return Pair(first, (), trouble)
    source = dedented(lines[first - 1 : function.end_lineno])
    if len(source) > MAX_CHARS:
        return Pair(first, (), "function is too long")
    if not _same(function, source):
        return Pair(first, (), "function cannot be moved to the margin")
    signature = "\n".join(source.split("\n")[: docstring_end - first + 1])
    request = f"Write the Python function `{function.name}`.\n\n{signature}"
    return Pair(first, (Message("user", request), Message("assistant", source)))


def _trouble(function: _Function, length: int) -> str:
    name, docstring, body = function.name, ast.get_docstring(function) or "", function.body[1:]
    if name.startswith("__") and name.endswith("__"):
        return "special method"
    if "test" in name.lower():
        return "name contains test"
    if len(docstring.split()) < MIN_DOCSTRING_WORDS:
        return "docstring is too short"
    if length < MIN_LINES:
        return "function is too short"
    if all(_does_nothing(statement) for statement in body):
        return "function does nothing"
    if body[0].lineno <= (function.body[0].end_lineno or 0):
        return "body begins on the line of the docstring"
    return ""


def _does_nothing(statement: ast.stmt) -> bool:
    match statement:
        case ast.Pass() | ast.Expr(value=ast.Constant()):
            return True
        case ast.Raise(exc=ast.Name(id="NotImplementedError") | ast.Call(func=ast.Name(id="NotImplementedError"))):
            return True
    return False


def dedented(lines: list[str]) -> str:
    """Lines of a function, moved to the margin, with a line feed at the end."""
    margin = lines[0][: len(lines[0]) - len(lines[0].lstrip())]
    return "\n".join(line.removeprefix(margin) if line.strip() else "" for line in lines) + "\n"


def _same(function: _Function, source: str) -> bool:
    """Whether the moved source is still this function: its docstring may lose its margin, other strings may not."""
    tree = parse(source)
    if tree is None or len(tree.body) != 1 or not isinstance(moved := tree.body[0], _Function):
        return False
    if inspect.cleandoc(ast.get_docstring(moved) or "") != inspect.cleandoc(ast.get_docstring(function) or ""):
        return False
    ours, theirs = ([dump(part) for part in _without_docstring(each)] for each in (moved, function))
    return None not in ours and ours == theirs


def _without_docstring(function: _Function) -> list[ast.AST]:
    returns = [function.returns] if function.returns else []
    return [function.args, *function.decorator_list, *returns, *function.body[1:]]
