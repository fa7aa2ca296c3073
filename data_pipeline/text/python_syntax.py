"""Python source to syntax trees, without warnings and without surprises."""

import ast
import warnings


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
