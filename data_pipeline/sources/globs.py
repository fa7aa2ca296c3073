"""Globs over member paths, as `.gitignore` has them, but each from the archive's root and none negated."""

import functools
import re
from collections.abc import Sequence

from pathspec import PathSpec, Pattern

from specs.common.errors import UserError


def matches(path: str, globs: Sequence[str]) -> bool:
    """Whether one of the globs fits a path. Raises UserError where one is not valid."""
    return any(pattern(glob).match_file(path) for glob in globs)


@functools.cache
def pattern(glob: str) -> PathSpec[Pattern]:
    """`*`, `?` and `[ab]` stay within a path part, `**` spans parts; a folder stands for all that lies below it."""
    try:
        return PathSpec.from_lines("gitignore", [f"/{glob}"])
    except (ValueError, re.error) as error:
        raise UserError(f"glob {glob!r} is not valid ({error}); correct include or exclude") from error
