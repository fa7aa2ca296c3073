"""Globs over member paths, as people write them."""

import functools
import re
from collections.abc import Sequence

from specs.common.errors import UserError


def matches(path: str, globs: Sequence[str]) -> bool:
    """Whether one of the globs fits a path. Raises UserError where one is not valid."""
    return any(pattern(glob).fullmatch(path) for glob in globs)


@functools.cache
def pattern(glob: str) -> re.Pattern[str]:
    """A glob as people write it: `*` and `?` stay within a path part, `**` spans parts, `[ab]` is one of these."""
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]/]+\])", glob)
    meanings = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    expression = "".join(meanings.get(p) or (_class(p) if p[:1] == "[" else re.escape(p)) for p in pieces)
    try:
        return re.compile(expression, re.DOTALL)
    except re.error as error:
        raise UserError(f"glob {glob!r} is not valid ({error}); correct include or exclude") from error


def _class(piece: str) -> str:
    inner = piece[1:-1].replace("\\", r"\\")
    return f"[^{inner[1:]}]" if inner.startswith("!") else f"[{inner}]"
