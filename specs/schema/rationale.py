"""What is said of a field, read from the text beneath it: what it means, and why a reviewer should care."""

import ast
import inspect
import sys
from functools import cache


@cache
def description(owner: type, field: str) -> str:
    """The text under a field of a section, or under that of the nearest base that has one; empty where none has."""
    for kind in owner.__mro__:
        if text := _texts(kind).get(field):
            return text
    return ""


def reason(owner: type, field: str) -> str:
    """Why a field matters: the first sentence of its description."""
    return description(owner, field).partition(". ")[0].removesuffix(".") + "." if description(owner, field) else ""


@cache
def _texts(owner: type) -> dict[str, str]:
    # Read from the source when a text is wanted: pydantic's own way (`use_attribute_docstrings`) parses every section
    # at every start.
    node = _classes(owner.__module__).get(owner.__name__)
    pairs = zip(node.body, node.body[1:], strict=False) if node else ()
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairs
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


@cache
def _classes(module: str) -> dict[str, ast.ClassDef]:
    if not module.startswith("specs."):
        return {}
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
