"""Two states of a project, as they are named on a command line, into the differences of their experiments."""

from collections.abc import Sequence
from pathlib import Path

from specs.common.errors import UserError
from specs.review.impact import Difference, difference
from specs.review.revisions import Side, at_revision, experiments, from_text, side


def pairs(states: Sequence[str]) -> list[tuple[Side, Side]]:
    """Two experiments (`FILE`, `REV:FILE`), or every experiment that both revisions of `REV..REV` hold.

    Raises UserError where a state cannot be read.
    """
    match states:
        case [only] if (ends := ends_of(only)) is not None:
            before, after = experiments(ends[0]), experiments(ends[1])
            return [(at_revision(ends[0], path), at_revision(ends[1], path)) for path in after if path in before]
        case [old, new]:
            return [(side(old), side(new))]
    raise UserError("give two states (FILE or REV:FILE), or one range REV..REV")


def compare(states: Sequence[str]) -> list[Difference]:
    """Differences of the pairs that states name. Of a range, experiments without any difference are left out."""
    differences = [difference(old, new) for old, new in pairs(states)]
    return [one for one in differences if len(states) == 2 or not one.empty]


def one_sided(states: Sequence[str]) -> list[str]:
    """For `REV..REV`: a line for each experiment that only one of the revisions holds."""
    ends = ends_of(states[0]) if len(states) == 1 else None
    if ends is None:
        return []
    before, after = experiments(ends[0]), experiments(ends[1])
    added = [f"{path} is new in {ends[1]}" for path in after if path not in before]
    return added + [f"{path} is gone in {ends[1]}" for path in before if path not in after]


def ends_of(state: str) -> tuple[str, str] | None:
    """The two revisions of a range `REV..REV`; none where it is no range."""
    if ".." not in state or Path(state).exists():
        return None
    old, _, new = state.partition("..")
    return old or "HEAD", new or "HEAD"


def compare_for_git(arguments: Sequence[str]) -> list[Difference]:
    """Difference of one file, from the seven arguments of an external diff driver (see gitattributes).

    git gives contents as temporary files: what an experiment includes is read from the checkout on both sides.
    """
    if len(arguments) < 5:
        raise UserError("--git takes the arguments that git gives a diff driver: PATH OLD HEX MODE NEW HEX MODE")
    path, old, new = Path(arguments[0]), Path(arguments[1]), Path(arguments[4])
    if "/dev/null" in (str(old), str(new)):
        raise UserError(f"{path} exists on one side only; see `git diff --no-ext-diff`")
    return [
        difference(
            from_text(f"a/{path}", old.read_text("utf-8"), path),
            from_text(f"b/{path}", new.read_text("utf-8"), path),
        )
    ]
