"""`twice lock`: which experiments this checkout reproduces, and what becomes of results when that changes."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from specs.common.errors import UserError

if TYPE_CHECKING:
    from specs.pipeline.dvc_lock import Change


@click.command(epilog="Examples: twice lock smoke code-34b; twice lock --add mine; twice lock --check")
@click.argument("names", nargs=-1)
@click.option("--add", multiple=True, metavar="NAME", help="Lock this experiment too.")
@click.option("--remove", multiple=True, metavar="NAME", help="Lock this experiment no more; its results are kept.")
@click.option("--check", is_flag=True, help="Verify instead of writing: exit code 2 if the lock is stale.")
@click.option("--stamp", type=click.Path(path_type=Path), help="With --check: write this file once the lock is fresh.")
@click.option("--forget", is_flag=True, help="Keep no more the results of experiments that are not locked.")
def lock(
    names: tuple[str, ...],
    add: tuple[str, ...],
    remove: tuple[str, ...],
    check: bool,
    stamp: Path | None,
    forget: bool,
) -> None:
    """Resolve the experiments NAMES into specs/lock.yaml, which DVC reads; without names, those it holds.

    Says what enters the lock, what changes and what leaves. Results of what leaves stay where they are, and in DVC's
    cache: archive.dvc holds them until --forget. A renamed experiment keeps its results under its new name.
    """
    from specs.common.checkout import require_inside
    from specs.pipeline.dvc_lock import change_lock
    from specs.pipeline.lock import read_lock

    require_inside()
    if (bool(names) + bool(add or remove) + check + forget) > 1 and not (check and names and not (add or remove)):
        raise UserError("give one of: NAMES, --add and --remove, --check (with NAMES or without), --forget")
    if check:
        _check(names, stamp)
    elif forget:
        _forget()
    else:
        locked = [] if names else [str(name) for name in read_lock()["experiments"]]
        if absent := [name for name in remove if name not in locked]:
            raise UserError(f"the lock does not hold {', '.join(absent)}; it holds {', '.join(locked)}")
        chosen = sorted({*names, *locked, *add} - set(remove))
        if not chosen:
            raise UserError("a lock holds one experiment at least: --add another one")
        change = change_lock(chosen)
        click.echo(f"specs/lock.yaml {'written' if change.written else 'unchanged'}: {', '.join(chosen)}")
        for line in describe(change):
            click.echo(line)


def describe(change: "Change") -> Iterator[str]:
    """What a change of the lock did, for people."""
    for verb, nodes in (("adds", change.added), ("changes", change.changed), ("leaves out", change.left)):
        if any(nodes.values()):
            listed = "; ".join(f"{kind.replace('_', ' ')} {', '.join(of)}" for kind, of in nodes.items() if of)
            yield f"  {verb} {listed}"
    results = change.results
    if results.carried:
        pairs = ", ".join(f"{old} is now {new}" for old, new in results.carried.items() if old != new)
        yield f"  keeps the results of {len(results.carried)} stages under new names: {pairs}"
    if results.kept:
        yield f"  {len(results.kept)} finished outputs of what is not locked are kept (archive.dvc; see --forget)"
    for path in results.exposed:
        yield f"  {path} is made by no stage any more, and lies in what one reads: move it away to keep it"


def _check(names: tuple[str, ...], stamp: Path | None) -> None:
    from specs.common.files import write_bytes
    from specs.pipeline.lock import check_lock

    held = check_lock()
    if names and sorted(names) != held["experiments"]:
        raise UserError(f"the lock holds {', '.join(held['experiments'])}; run `twice lock {' '.join(names)}`")
    if stamp is not None:
        write_bytes(stamp, b"fresh\n")
    click.echo(f"specs/lock.yaml is fresh: {', '.join(held['experiments'])}")


def _forget() -> None:
    from specs.loading.settings import ROOT
    from specs.pipeline.dvc_lock import forget
    from specs.pipeline.lock import check_lock

    gone = forget(ROOT, check_lock())
    click.echo(f"forgotten: {', '.join(gone)}; `dvc gc --workspace` frees the space" if gone else "nothing to forget")
