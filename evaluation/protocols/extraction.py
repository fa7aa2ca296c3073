"""Programs in text: which code an answer holds, and what that code defines."""

import ast
import re
import warnings

_FENCED = re.compile(r"^[ \t]*```[ \t]*([A-Za-z0-9_+-]*)[ \t]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)


def extract(answer: str, function: str | None) -> str | None:
    """The program in a chat answer: the first fenced block that defines the function, else the bare answer if it does.

    A block left open ends with the answer. None where nothing that is Python defines the function (or, with no
    function known, where nothing is Python that defines any).
    """
    blocks = [code for language, code in _FENCED.findall(answer) if language.lower() in ("", "py", "python", "python3")]
    candidates: list[str] = [*blocks, answer]
    return next((code for code in candidates if defines(code, function)), None)


def defines(code: str, function: str | None) -> bool:
    """Whether code is Python that defines a function (any, where none is named) or assigns its name."""
    tree = parse(code)
    if tree is None:
        return False
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    names += [
        t.id for node in tree.body if isinstance(node, ast.Assign) for t in node.targets if isinstance(t, ast.Name)
    ]
    return function in names if function else bool(names)


def parse(code: str) -> ast.Module | None:
    """The syntax tree; none where the code is not Python. What the parser warns of (odd escapes) changes nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
