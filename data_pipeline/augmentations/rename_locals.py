"""Local variables of Python functions: which may be renamed, where they stand, and the proof of a renaming."""

import ast
import builtins
import keyword
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from data_pipeline.text.python_syntax import equal, nodes, parse

Function = ast.FunctionDef | ast.AsyncFunctionDef

_NEW_NAMES = (
    *("amount", "buffer", "cell", "content", "count", "current", "data", "element", "entry", "field", "found", "group"),
    *("index", "info", "inner", "item", "key", "left", "level", "line", "name", "node", "number", "obj", "outcome"),
    *("outer", "output", "pair", "part", "piece", "place", "point", "position", "record", "result", "right", "row"),
    *("sample", "section", "size", "state", "step", "temp", "text", "token", "total", "unit", "value", "variable"),
)
# Code that looks at variables by name would notice.
_REFLECTIVE = {"locals", "vars", "eval", "exec", "dir", "_getframe", "currentframe", "f_locals"}
_OWN_SCOPE = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.ClassDef, Function)
_WORD = re.compile(r"\w+")
_NO_VARIABLE = (ast.Attribute, ast.keyword, ast.Constant)


@dataclass
class Scope:
    """What one function says about the names in its body, nested scopes aside."""

    nodes: dict[str, list[ast.Name]] = field(default_factory=dict)
    """Every place where a name stands, by name."""
    assigned: dict[str, None] = field(default_factory=dict)
    fixed: set[str] = field(default_factory=set)
    """Names bound or seen in ways that a renaming of these places would miss."""

    @property
    def renamable(self) -> list[str]:
        """Local variables of which every occurrence is among `nodes`, in order of their first assignment."""
        return [name for name in self.assigned if name not in self.fixed and not name.startswith("__")]


def scopes(tree: ast.Module) -> list[Scope]:
    """The scope of each function of a module; an empty one for functions that look at variables by name."""
    return [_scope(node) for node in nodes(tree) if isinstance(node, Function)]


def rename_locals(text: str, rng: random.Random) -> str | None:
    """Give about half of the local variables of each function a name that the text does not hold yet.

    Parameters keep their names, which callers may use; so do variables that nested functions, comprehensions or
    formatted strings see, and those whose names stand in a string of the function. None where the renaming cannot be
    proven.
    """
    tree = parse(text)
    if tree is None:
        return None
    lines = text.split("\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    taken = set(_WORD.findall(text)) | set(dir(builtins)) | set(keyword.kwlist) | set(keyword.softkwlist)
    edits: list[tuple[int, str, str]] = []
    old_names: dict[str, str] = {}
    gone: list[set[str]] = []
    for scope in scopes(tree):
        gone.append(set())
        for old in scope.renamable:
            if rng.random() < 0.5:
                new = _fresh(taken, rng)
                old_names[new] = old
                gone[-1].add(old)
                edits += [(_offset(node, lines, starts), old, new) for node in scope.nodes[old]]
    renamed, end = [], 0
    for start, old, new in sorted(edits):
        if text[start : start + len(old)] != old:
            # Written in another Unicode form than the parser's.
            return None
        renamed += [text[end:start], new]
        end = start + len(old)
    result = "".join([*renamed, text[end:]])
    return result if _restores(tree, result, old_names, gone) else None


def _restores(tree: ast.Module, result: str, old_names: Mapping[str, str], gone: list[set[str]]) -> bool:
    """Whether the inverse renaming gives the tree back, and each function is free of the names that it lost.

    New names are unique in the text, so both together say that every place of a variable was renamed, and no other.
    """
    renamed = parse(result)
    if renamed is None:
        return False
    functions = [node for node in nodes(renamed) if isinstance(node, Function)]
    for function, names in zip(functions, gone, strict=True):
        inside = (node for part in (function.args, *function.body) for node in nodes(part)) if names else ()
        if any(not isinstance(node, _NO_VARIABLE) and names.intersection(_strings(node)) for node in inside):
            return False
    return equal(tree, renamed, old_names)


def _scope(function: Function) -> Scope:
    inside = nodes(function)
    parameters = [node.arg for node in nodes(function.args) if isinstance(node, ast.arg)]
    scope = Scope(fixed=set(parameters))
    if _REFLECTIVE & _identifiers(inside):
        return Scope()
    for statement in function.body:
        _visit(statement, scope)
    scope.fixed |= _words_of_strings(inside)
    return scope


def _words_of_strings(inside: Iterable[ast.AST]) -> set[str]:
    """Every word of the strings among nodes: code may evaluate one, as `frame.query("a > @limit")` does."""
    literals = (node.value for node in inside if isinstance(node, ast.Constant))
    strings = (each for each in literals if isinstance(each, str | bytes))
    texts = (each if isinstance(each, str) else each.decode("latin-1") for each in strings)
    return {word for text in texts for word in _WORD.findall(text)}


def _visit(node: ast.AST, scope: Scope) -> None:
    match node:
        case ast.Name():
            scope.nodes.setdefault(node.id, []).append(node)
            if not isinstance(node.ctx, ast.Load):
                scope.assigned.setdefault(node.id)
            return
        case ast.Global() | ast.Nonlocal() | ast.Import() | ast.ImportFrom() | ast.JoinedStr():
            # Positions inside formatted strings are only right from Python 3.12 on.
            scope.fixed |= _identifiers(nodes(node))
            return
        case ast.ExceptHandler() | ast.MatchAs() | ast.MatchStar() | ast.MatchMapping():
            # Bound by a plain word, not by a node that has a position.
            scope.fixed |= {value for _, value in ast.iter_fields(node) if isinstance(value, str)}
    if isinstance(node, _OWN_SCOPE):
        scope.fixed |= _identifiers(nodes(node))
        return
    for child in ast.iter_child_nodes(node):
        _visit(child, scope)


def _identifiers(inside: Iterable[ast.AST]) -> set[str]:
    """Every word that nodes hold as a plain string: names, attributes, arguments, dotted imports in parts."""
    return {word for node in inside for value in _strings(node) for word in value.split(".")}


def _strings(node: ast.AST) -> Iterator[str]:
    for field_name in node._fields:
        value = getattr(node, field_name, None)
        if value.__class__ is str:
            yield value
        elif value.__class__ is list:
            yield from (each for each in value if each.__class__ is str)


def _fresh(taken: set[str], rng: random.Random) -> str:
    # Only random() is promised to give the same numbers in every Python.
    word = _NEW_NAMES[int(rng.random() * len(_NEW_NAMES))]
    number, name = 1, word
    while name in taken:
        number += 1
        name = f"{word}_{number}"
    taken.add(name)
    return name


def _offset(node: ast.Name, lines: list[str], starts: list[int]) -> int:
    # The parser counts columns in UTF-8 bytes.
    line = lines[node.lineno - 1]
    column = node.col_offset if line.isascii() else len(line.encode()[: node.col_offset].decode())
    return starts[node.lineno - 1] + column
