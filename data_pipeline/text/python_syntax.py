"""Python source to syntax trees, without warnings and without surprises."""

import ast
import warnings
from collections.abc import Mapping
from typing import Any


def parse(text: str) -> ast.Module | None:
    """Syntax tree of Python source; none where this interpreter cannot parse it."""
    with warnings.catch_warnings():
        # Invalid escapes in other people's code are not our business.
        warnings.simplefilter("ignore")
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def dump(tree: ast.AST) -> str | None:
    """Text that is equal for equal trees, positions aside; none for a tree too deep to walk."""
    try:
        return ast.dump(tree)
    except RecursionError:
        return None


def equal(one: ast.AST, other: ast.AST, names: Mapping[str, str] | None = None) -> bool:
    """Whether two trees are equal, positions aside; a name of `other` in `names` counts as what it maps to."""
    names = names or {}
    waiting: list[tuple[Any, Any]] = [(one, other)]
    while waiting:
        left, right = waiting.pop()
        kind = left.__class__
        if kind is not right.__class__:
            return False
        if kind is list:
            if len(left) != len(right):
                return False
            waiting.extend(zip(left, right, strict=True))
        elif kind is ast.Name:
            if left.id != names.get(right.id, right.id) or left.ctx.__class__ is not right.ctx.__class__:
                return False
        elif isinstance(left, ast.AST):
            for field in left._fields:
                ours, theirs = getattr(left, field, None), getattr(right, field, None)
                if ours is not theirs:
                    waiting.append((ours, theirs))
        # Values as they are written: 0.0 and -0.0 differ, and nan is equal to nan.
        elif (left != right or kind in _WRITTEN) and repr(left) != repr(right):
            return False
    return True


_WRITTEN = (float, complex, tuple, frozenset)


def nodes(root: ast.AST) -> list[ast.AST]:
    """Every node of a tree, as `ast.walk` gives them, in a third of its time."""
    found = [root]
    for node in found:
        for field in node._fields:
            value = getattr(node, field, None)
            if isinstance(value, ast.AST):
                found.append(value)
            elif value.__class__ is list:
                found += [each for each in value if isinstance(each, ast.AST)]
    return found
