"""Two states of a project, as they are named on a command line, into the differences of their experiments."""

from collections.abc import Sequence
from pathlib import Path

from specs.common.errors import UserError
from specs.review.impact import Difference, difference
from specs.review.revisions import at_revision, experiments, from_text, side


def compare(states: Sequence[str]) -> list[Difference]:
    """Differences between two experiments (`FILE`, `REV:FILE`), or of every experiment between `REV..REV`.

    Between revisions, experiments without any difference are left out, and so are those that `one_sided` names.
    Raises UserError where a state cannot be read.
    """
    match states:
        case [only] if (ends := _range(only)) is not None:
            return between(*ends)
        case [old, new]:
            return [difference(side(old), side(new))]
    raise UserError("give two states (FILE or REV:FILE), or one range REV..REV")


def one_sided(states: Sequence[str]) -> list[str]:
    """For `REV..REV`: a line for each experiment that only one of the revisions holds."""
    ends = _range(states[0]) if len(states) == 1 else None
    if ends is None:
        return []
    before, after = experiments(ends[0]), experiments(ends[1])
    added = [f"{path} is new in {ends[1]}" for path in after if path not in before]
    return added + [f"{path} is gone in {ends[1]}" for path in before if path not in after]


def _range(state: str) -> tuple[str, str] | None:
    if ".." not in state or Path(state).exists():
        return None
    old, _, new = state.partition("..")
    return old or "HEAD", new or "HEAD"


def between(old: str, new: str) -> list[Difference]:
    """Differences of every experiment that both revisions hold."""
    before, after = experiments(old), experiments(new)
    found = [difference(at_revision(old, path), at_revision(new, path)) for path in after if path in before]
    return [each for each in found if not each.empty]


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
