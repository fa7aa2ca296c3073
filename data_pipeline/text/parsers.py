"""Whether source code parses: Python by its own parser, other languages by grammars of tree-sitter, data by readers."""

import functools
import json
import tomllib
from collections.abc import Callable, Mapping
from types import ModuleType

import tree_sitter_c
import tree_sitter_cpp
import tree_sitter_go
import tree_sitter_java
import tree_sitter_javascript
import tree_sitter_rust
from tree_sitter import Language, Parser, Tree

from data_pipeline.text.python_syntax import parse

GRAMMARS: Mapping[str, ModuleType] = {
    "c": tree_sitter_c,
    "cpp": tree_sitter_cpp,
    "go": tree_sitter_go,
    "java": tree_sitter_java,
    "javascript": tree_sitter_javascript,
    "rust": tree_sitter_rust,
}


def tree(language: str, text: str) -> Tree:
    """The tree of a text in one of the languages of `GRAMMARS`; it holds error nodes where the text does not parse."""
    return _parser(language).parse(text.encode())


def parses(language: str, text: str) -> bool | None:
    """Whether a text parses in its language; None where no parser of that language is here."""
    check = _CHECKS.get(language)
    return None if check is None else check(text)


def _by_grammar(language: str, text: str) -> bool:
    return not tree(language, text).root_node.has_error


def _python(text: str) -> bool:
    return parse(text) is not None


def _by_reader(read: Callable[[str], object], text: str) -> bool:
    try:
        read(text)
    except (ValueError, RecursionError):
        return False
    return True


@functools.cache
def _parser(language: str) -> Parser:
    return Parser(Language(GRAMMARS[language].language()))


_CHECKS: Mapping[str, Callable[[str], bool]] = {
    "python": _python,
    "json": functools.partial(_by_reader, json.loads),
    "toml": functools.partial(_by_reader, tomllib.loads),
    **{language: functools.partial(_by_grammar, language) for language in GRAMMARS},
}
PARSED = tuple(sorted(_CHECKS))
"""Languages that have a parser here."""
