"""What evalplus makes of an answer before it runs it: the longest stretch of lines that is Python, and of that the
imports and the definitions that the function under test needs.

Written from the behaviour of `evalplus.sanitize` (commit 26d6d00bb1fd), on Python's own syntax trees.
"""

import ast
import re
from collections.abc import Iterator

from evaluation.protocols.extraction import parse

_ESCAPE = re.compile(r"\x1B(?:[@-Z\\-_]|\[[0-?]*[ -/]*[@-~])")
"""Terminal colours, which some servers leave in their answers."""


def sanitise(text: str, function: str | None) -> str:
    """The part of a text that evalplus runs. Where it finds no definition, the longest stretch of Python as it is."""
    code = longest_python(text)
    kept = _needed(code, function).strip()
    return kept or code


def longest_python(text: str) -> str:
    """The lines from i to j that parse and hold the most lines that are not blank; of several the first.

    As in the original, a single line that stands alone is no stretch, unless nothing longer is one.
    """
    lines = _ESCAPE.sub("", text).split("\n")
    filled = [0]
    for line in lines:
        filled.append(filled[-1] + bool(line.strip()))
    # Most lines first: the first stretch that parses is the answer, and a whole answer is often one.
    stretches = sorted(
        ((i, j) for i in range(len(lines)) for j in range(i + 1, len(lines)) if filled[j + 1] > filled[i]),
        key=lambda stretch: (filled[stretch[0]] - filled[stretch[1] + 1], stretch),
    )
    for i, j in stretches:
        code = "\n".join(lines[i : j + 1])
        if parse(code) is not None:
            return code
    return lines[0]


def _needed(code: str, function: str | None) -> str:
    # A single line that is indented is none to Python, and is one to the parser of the original.
    code = code if parse(code) is not None else code.strip()
    tree = parse(code)
    if tree is None:
        return ""
    imports, definitions = [], []
    taken: set[str | None] = set()
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports.append(ast.get_source_segment(code, node) or "")
            continue
        name = _defined(node)
        if name is _NOTHING or name in taken:
            continue
        taken.add(name)
        definitions.append((name, node))
    if function:
        uses: dict[str | None, set[str]] = {}
        for name, node in definitions:
            uses[name] = set(_identifiers(node))
        reached, queue = {function}, [function]
        while queue:
            for name in uses.get(queue.pop(), ()):
                if name not in reached:
                    reached.add(name)
                    queue.append(name)
        definitions = [(name, node) for name, node in definitions if name in reached]
    return "\n".join([*imports, *(ast.get_source_segment(code, node) or "" for _, node in definitions)])


_NOTHING = "<nothing>"


def _defined(node: ast.stmt) -> str | None:
    """The name that a statement defines, `_NOTHING` where it is no definition that the original keeps.

    A decorated definition is none to it, nor is a function that nowhere returns.
    """
    match node:
        case ast.ClassDef(name=name, decorator_list=[]):
            return name
        case ast.FunctionDef(name=name, decorator_list=[]) | ast.AsyncFunctionDef(name=name, decorator_list=[]):
            return name if any(isinstance(inner, ast.Return) for inner in ast.walk(node)) else _NOTHING
        case ast.Assign(targets=[*targets], value=value):
            # The first operand that is a plain name, be it on the left or on the right.
            return next((part.id for part in (*targets, value) if isinstance(part, ast.Name)), None)
        case ast.AnnAssign(target=ast.Name(id=name)):
            return name
    return _NOTHING


def _identifiers(node: ast.AST) -> Iterator[str]:
    """Every name that occurs below a node, in whatever role."""
    for inner in ast.walk(node):
        for field in ("id", "attr", "arg", "name", "asname", "module", "rest"):
            if isinstance(value := getattr(inner, field, None), str):
                yield from value.split(".")
        if isinstance(inner, ast.Global | ast.Nonlocal):
            yield from inner.names
