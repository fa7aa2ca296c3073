"""The checkout that one stands in. Commands act on it, or refuse where the code that runs is another checkout's."""

from pathlib import Path

from specs import ROOT
from specs.common.errors import UserError

_MARKS = ("dvc.yaml", "specs/experiments")


def stood_in() -> Path | None:
    """Root of the checkout around the current folder, the nearest one upwards, as git and DVC find theirs; or none."""
    try:
        here = Path.cwd()
    except FileNotFoundError:  # it was removed
        return None
    return next((path for path in (here, *here.parents) if all((path / mark).exists() for mark in _MARKS)), None)


def require_own() -> Path | None:
    """Raise UserError where one stands in a checkout that this code is not part of.

    A second worktree has code and a lock of its own: with the first one's environment, a command would judge and write
    the first. Outside any checkout there is nothing to mistake: the code's own is meant. Returns the one stood in.
    """
    root = stood_in()
    if root is not None and not root.samefile(ROOT):
        raise UserError(
            f"this is the checkout {root}, but the installed code is that of {ROOT}: run `make install` here, and "
            "`source .venv/bin/activate`"
        )
    return root


def require_inside() -> None:
    """As `require_own`, and raise UserError outside any checkout: for commands that write into one."""
    if require_own() is None:
        raise UserError(f"this is no checkout of the project; the installed code is that of {ROOT}: run this there")
