"""YAML files to plain values, those that they include in place, and where in which file each value stands."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from specs import ROOT
from specs.common.errors import UserError
from specs.common.files import read_text
from specs.loading.messages import yaml_fault

Read = Callable[[Path], str]
Tree = list[Any]
"""Line and column, counted from 1, a kind, and a content: `value` plain; `error` a message; `list` trees; `mapping`
pairs of trees, those of keys first."""

_MAX_DEPTH = 50
_MAX_VALUES = 100_000


class Position(NamedTuple):
    """A place in a YAML file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass
class Document:
    """Plain values of a YAML file, its included files in place, and where each value and key stands."""

    value: Any = None
    values: dict[tuple[str | int, ...], Position] = field(default_factory=dict)
    keys: dict[tuple[str | int, ...], Position] = field(default_factory=dict)
    included: dict[tuple[str | int, ...], Position] = field(default_factory=dict)
    """Where a file is included, by the path of the section that it holds; outer files before inner ones."""


def read_document(path: Path, read: Read = read_text) -> Document:
    """Read a YAML 1.2 file into plain values with positions. Raises UserError where it is not valid YAML.

    A value that starts with `./` or `../` and ends with `.yaml` is replaced by what that file holds.
    """
    document = Document()
    reader = _Reader(document, read)
    try:
        document.value = reader.file(path, (), ())
    except RecursionError as error:
        raise UserError(f"{_display(path)}: nested too deeply") from error
    return document


class _Reader:
    """One pass over a file and the files that it includes."""

    def __init__(self, document: Document, read: Read) -> None:
        self.document, self.read = document, read
        self.count = 0

    def file(self, path: Path, at: tuple[str | int, ...], including: tuple[Path, ...]) -> Any:
        name = _display(path)
        try:
            text = self.read(path)
        except FileNotFoundError as error:
            raise UserError(f"{self._place(at, name)}: there is no file {name}") from error
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self._place(at, name)}: cannot read {name}: {error}") from error
        tree = _tree(text)
        if isinstance(tree, str):
            origin = f" (included at {self.document.values[at]})" if at in self.document.values else ""
            raise UserError(f"{name}{tree}{origin}")
        self.document.values.setdefault(at, Position(name, 1, 1))
        return self._value(tree, at, name, (*including, path))

    def _value(self, tree: Tree, at: tuple[str | int, ...], name: str, including: tuple[Path, ...]) -> Any:
        line, column, kind, content = tree
        position = self.document.values[at] = Position(name, line, column)
        self.count += 1
        if len(at) > _MAX_DEPTH or self.count > _MAX_VALUES:
            raise UserError(f"{position}: nested too deeply, or too many values: is an anchor inside itself?")
        if kind == "mapping":
            return self._mapping(content, at, name, including)
        if kind == "list":
            return [self._value(item, (*at, index), name, including) for index, item in enumerate(content)]
        if kind == "error":
            raise UserError(f"{position}: {content}")
        if isinstance(content, str) and content.startswith(("./", "../")) and content.endswith(".yaml"):
            target = Path(_normal(including[-1].parent / content))
            if target in including:
                raise UserError(f"{position}: {content} includes itself")
            self.document.included[at] = position
            return self.file(target, at, including)
        return content

    def _mapping(
        self, entries: list[list[Tree]], at: tuple[str | int, ...], name: str, including: tuple[Path, ...]
    ) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for (line, column, kind, key), tree in entries:
            position = Position(name, line, column)
            if kind == "error":
                raise UserError(f"{position}: {key}")
            if key in values:
                first = self.document.keys[(*at, key)].line
                raise UserError(f"{position}: duplicate key {key!r}, first given on line {first}")
            self.document.keys[(*at, key)] = position
            values[key] = self._value(tree, (*at, key), name, including)
        return values

    def _place(self, at: tuple[str | int, ...], name: str) -> str:
        return str(self.document.values[at]) if at in self.document.values else name


@lru_cache(maxsize=64)
def _tree(text: str) -> Tree | str:
    """The values of a text, or what is wrong with it as YAML, to follow the name of its file."""
    # The slow part; experiments include one file several times, and two sides of a comparison the same files.
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        root = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        problem = str(error.problem or error.context)
        # What is not closed is told where it begins, not where the file ends.
        opened = "end of stream" in problem or "',' or" in problem
        mark = (error.context_mark if opened else None) or error.problem_mark or error.context_mark
        location = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        return f"{location}: {yaml_fault(problem)}"
    except (YAMLError, ValueError) as error:
        return f": {' '.join(str(error).split())}"
    return ":1:1: the file is empty" if root is None else _Planter().plant(root)


class _Planter:
    """Nodes of a YAML text, as ruamel.yaml composes them, to trees."""

    def __init__(self) -> None:
        from ruamel.yaml import YAML

        self.construct = YAML(typ="safe", pure=True).constructor.construct_object
        # An anchor may be used many times, even inside itself.
        self.planted: dict[int, Tree] = {}

    def plant(self, node: Any) -> Tree:
        if (known := self.planted.get(id(node))) is not None:
            return known
        pairs: list[list[Tree]] = []
        items: list[Tree] = []
        tree: Tree = [node.start_mark.line + 1, node.start_mark.column + 1]
        self.planted[id(node)] = tree
        match node.id:
            case "mapping":
                tree += "mapping", pairs
                pairs += ([self._key(key), self.plant(value)] for key, value in node.value)
            case "sequence":
                tree += "list", items
                items += (self.plant(item) for item in node.value)
            case "scalar":
                tree += self._scalar(node)
            case _:
                tree += "error", "neither a mapping, nor a list, nor a value"
        return tree

    def _key(self, node: Any) -> Tree:
        start = [node.start_mark.line + 1, node.start_mark.column + 1]
        return [*start, "value", node.value] if node.id == "scalar" else [*start, "error", "a key must be plain text"]

    def _scalar(self, node: Any) -> tuple[str, Any]:
        from ruamel.yaml.error import YAMLError

        if node.tag == "tag:yaml.org,2002:timestamp":
            return "value", node.value
        try:
            value = self.construct(node, deep=True)
        except (YAMLError, ValueError, OverflowError, LookupError):
            return "error", f"cannot read {node.value!r}"
        if isinstance(value, bytes | set | tuple):
            return "error", f"tag {node.tag!r} is not allowed"
        return "value", value


def _normal(path: Path) -> str:
    # Like resolve(), but without following links or needing the file: the path may belong to another revision.
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and parts and parts[-1] not in ("..", "/"):
            parts.pop()
        else:
            parts.append(part)
    return str(Path(*parts))


def _display(path: Path) -> str:
    absolute = path if path.is_absolute() else Path.cwd() / path
    return str(absolute.relative_to(ROOT)) if absolute.is_relative_to(ROOT) else str(path)
