"""Debugging tasks: a seeded defect in a real function, and the function as it was for an answer.

Only functions whose docstring holds examples can be used, because the examples are the proof: they hold for the
function (else the defect may be its own) and fail with the defect. They are run (`doctest_runner`), so only
functions are taken that reach nothing: no name beyond their own, harmless built-ins and a few modules of pure
functions, and no attribute beyond those of text, numbers and containers.
"""

import ast
import doctest
import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.documents.documents import Message
from data_pipeline.sources import doctest_runner
from data_pipeline.sources.docstring_pairs import Pair, dedented, functions
from data_pipeline.text.python_syntax import dump, parse

MAX_CHARS = 3_000
ATTEMPTS = 6
"""Defects that are tried until the examples notice one."""

_MODULE_NAMES = {
    "bisect": {"bisect", "bisect_left", "bisect_right", "insort"},
    "collections": {"Counter", "OrderedDict", "defaultdict", "deque"},
    "functools": {"reduce"},
    "heapq": {"heapify", "heappop", "heappush", "merge", "nlargest", "nsmallest"},
    "itertools": {name for name in dir(__import__("itertools")) if not name.startswith("_")},
    "math": {name for name in dir(__import__("math")) if not name.startswith("_")},
    "string": {"ascii_letters", "ascii_lowercase", "ascii_uppercase", "digits", "hexdigits", "punctuation"},
}
_ATTRIBUTES = frozenset(
    name
    for kind in (str, bytes, int, float, complex, list, tuple, dict, set, frozenset)
    for name in dir(kind)
    # Format strings reach attributes of any name.
    if not name.startswith("_") and not name.startswith("format")
) | {"most_common", "elements", "appendleft", "popleft", "rotate", "maxlen", "move_to_end", "default_factory"}
_REFUSED = (
    *(ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Global, ast.Nonlocal, ast.Await, ast.With),
    *(ast.AsyncWith, ast.AsyncFor, ast.Yield, ast.YieldFrom, ast.JoinedStr, ast.Match, ast.Delete),
)
_COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
}
_OPERATORS: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "+"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "//"),
}


@dataclass(frozen=True)
class _Task:
    line: int
    name: str
    source: str
    imports: str
    mutants: tuple[str, ...]


def debugging_tasks(text: str, seed: str) -> Iterator[Pair] | None:
    """A pair for each function of a module whose docstring holds examples, in order of lines; others are passed over.

    The request shows the function with its defect, the answer is the function. `seed` decides which defect comes first.
    None where the module cannot be parsed.
    """
    tree = parse(text)
    if tree is None:
        return None
    return _pairs(tree, text.split("\n"), seed) if ">>>" in text else iter(())


def _pairs(tree: ast.Module, lines: list[str], seed: str) -> Iterator[Pair]:
    tasks: list[_Task | Pair] = []
    imports = _imports(tree)
    for function in functions(tree):
        if ">>>" not in (ast.get_docstring(function) or "") or function not in tree.body:
            continue
        first = function.lineno
        source = dedented(lines[first - 1 : function.end_lineno])
        trouble = _trouble(function, source, imports)
        if trouble:
            tasks.append(Pair(first, (), trouble))
            continue
        used = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
        needed = "".join(line for name, line in imports.items() if name in used)
        mutants = tuple(_mutants(source, f"{seed}:{first}:{function.name}"))
        tasks.append(_Task(first, function.name, source, needed, mutants))
    programs = [
        task.imports + source for task in tasks if isinstance(task, _Task) for source in (task.source, *task.mutants)
    ]
    outcomes = iter(_outcomes(programs))
    for task in tasks:
        yield task if isinstance(task, Pair) else _judged(task, [next(outcomes) for _ in (task.source, *task.mutants)])


def _judged(task: _Task, outcomes: Sequence[str]) -> Pair:
    if outcomes[0] != "pass":
        return Pair(task.line, (), "examples do not hold alone")
    broken = next((source for source, end in zip(task.mutants, outcomes[1:], strict=True) if end != "pass"), None)
    if broken is None:
        return Pair(task.line, (), "examples notice no defect")
    request = (
        f"The Python function `{task.name}` has a defect: the examples in its docstring do not hold. Find it, and "
        f"write the function without it.\n\n{broken}"
    )
    return Pair(task.line, (Message("user", request), Message("assistant", task.source)))


def _outcomes(programs: list[str]) -> list[str]:
    if not programs:
        return []
    done = subprocess.run(
        [sys.executable, "-P", "-s", "-S", str(Path(doctest_runner.__file__))],
        input=json.dumps(programs).encode(),
        capture_output=True,
        check=True,
        # Nothing of this process's environment, and one order of sets.
        env={"PATH": "/nowhere", "PYTHONHASHSEED": "0"},
    )
    outcomes: list[str] = json.loads(done.stdout)
    return outcomes


def _imports(tree: ast.Module) -> dict[str, str]:
    """Lines that import pure functions on the top level of a module, by the name that each binds."""
    lines = {}
    for node in tree.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in _MODULE_NAMES and alias.asname is None:
                    lines[alias.name] = f"import {alias.name}\n"
        elif isinstance(node, ast.ImportFrom) and node.module in _MODULE_NAMES and not node.level:
            for alias in node.names:
                if alias.name in _MODULE_NAMES[node.module]:
                    name = f" as {alias.asname}" if alias.asname else ""
                    lines[alias.asname or alias.name] = f"from {node.module} import {alias.name}{name}\n"
    return lines


def _trouble(function: ast.FunctionDef | ast.AsyncFunctionDef, source: str, imports: dict[str, str]) -> str:
    if len(source) > MAX_CHARS:
        return "function is too long"
    if isinstance(function, ast.AsyncFunctionDef) or function.decorator_list or len(function.body) < 2:
        return "function cannot stand alone"
    allowed = {*doctest_runner.HARMLESS, *imports, function.name, "True", "False", "None"}
    if not _reaches_nothing(function, allowed):
        return "function reaches further"
    try:
        examples = doctest.DocTestParser().get_examples(ast.get_docstring(function) or "")
    except ValueError:
        return "examples cannot be read"
    for example in examples:
        tree = parse(example.source)
        if tree is None or not _reaches_nothing(tree, allowed | _bound(examples)):
            return "examples reach further"
    return "" if any(example.want for example in examples) else "examples show no result"


def _bound(examples: Sequence[doctest.Example]) -> set[str]:
    trees = (parse(example.source) for example in examples)
    nodes = (node for tree in trees if tree is not None for node in ast.walk(tree))
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _reaches_nothing(tree: ast.AST, allowed: set[str]) -> bool:
    nodes = list(ast.walk(tree))
    own = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    own |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ExceptHandler) and node.name}
    for node in nodes:
        if isinstance(node, _REFUSED) or (isinstance(node, ast.FunctionDef) and node.decorator_list):
            return False
        if isinstance(node, ast.Name) and (node.id not in allowed | own or node.id.startswith("__")):
            return False
        if isinstance(node, ast.Attribute) and not _harmless(node, own):
            return False
    return True


def _harmless(node: ast.Attribute, own: set[str]) -> bool:
    if isinstance(node.value, ast.Name) and node.value.id in _MODULE_NAMES and node.value.id not in own:
        return node.attr in _MODULE_NAMES[node.value.id]
    return node.attr in _ATTRIBUTES


def _mutants(source: str, seed: str) -> Iterator[str]:
    """The function with one defect each, in an order that follows from the seed; none has the function's tree."""
    tree = ast.parse(source)
    before = dump(tree)
    edits = sorted(set(_edits(tree, source.split("\n"))))
    rng = random.Random(hashlib.blake2b(seed.encode(), digest_size=8).hexdigest())
    # Only random() is promised to give the same numbers in every Python.
    for _, (row, start, end, new) in sorted((rng.random(), edit) for edit in edits)[:ATTEMPTS]:
        lines = source.split("\n")
        lines[row] = lines[row][:start] + new + lines[row][end:]
        mutant = "\n".join(lines)
        changed = parse(mutant)
        if changed is not None and dump(changed) != before:
            yield mutant


def _edits(tree: ast.Module, lines: list[str]) -> Iterator[tuple[int, int, int, str]]:
    """Row, start, end and new text of every place where a defect can be put."""
    for node in ast.walk(tree):
        match node:
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARISONS:
                yield from _between(left, right, *_COMPARISONS[type(op)], lines)
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _OPERATORS:
                yield from _between(left, right, *_OPERATORS[type(operator)], lines)
            case ast.BoolOp(op=operation, values=[left, right]):
                swapped = ("and", "or") if isinstance(operation, ast.And) else ("or", "and")
                yield from _between(left, right, *swapped, lines)
            case ast.Constant(value=int(value)) if type(value) is int and node.end_lineno == node.lineno:
                if lines[node.lineno - 1].isascii():
                    yield node.lineno - 1, node.col_offset, node.end_col_offset or 0, str(value + 1)


def _between(
    left: ast.expr, right: ast.expr, old: str, new: str, lines: list[str]
) -> Iterator[tuple[int, int, int, str]]:
    line = lines[left.lineno - 1]
    if left.end_lineno != right.lineno or left.end_col_offset is None or not line.isascii():
        return
    row = right.lineno - 1
    between = lines[row][left.end_col_offset : right.col_offset]
    if lines[row].isascii() and between.strip(" ()") == old:
        start = left.end_col_offset + between.index(old)
        yield row, start, start + len(old), new
