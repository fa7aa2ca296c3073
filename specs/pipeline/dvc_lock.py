"""What DVC has finished (`dvc.lock`), when the lock changes: carried over to new names, or kept in an archive.

DVC finds finished work by the name of a stage and the paths of its outputs, and both hold names of the lock. What is
found here is found by content: a stage whose values and inputs are those of one that leaves is that one, renamed. DVC
still compares every digest, so a wrong guess would run a stage again and never keep a wrong result.
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from specs import ROOT
from specs.common.errors import UserError
from specs.common.files import read_text, write_bytes
from specs.pipeline.dvc_graph import Lock, Stage, expand, in_order, overlap, within
from specs.pipeline.lock import build_lock, read_lock, write_lock
from specs.pipeline.nodes import KINDS

ARCHIVE = "archive.dvc"
_HEADER = (
    "# Written by `twice lock`: results of stages that the lock no longer has. `dvc checkout` and `dvc gc` keep them,\n"
    "# until `twice lock --forget`.\n"
)


@dataclass(frozen=True)
class Results:
    """What became of finished work when the lock changed."""

    carried: dict[str, str]
    """Stages that have another name now, or inputs that do, by the name that they had: they do not run again."""
    kept: tuple[str, ...]
    """Outputs in the archive."""
    exposed: tuple[str, ...] = ()
    """Outputs that no stage makes any more, inside a folder that one reads: the archive cannot hold them."""


@dataclass(frozen=True)
class Change:
    """What another set of experiments, or other values, did to the lock; names of nodes by kind."""

    written: bool
    added: dict[str, list[str]]
    changed: dict[str, list[str]]
    left: dict[str, list[str]]
    results: Results


def change_lock(names: Iterable[str]) -> Change:
    """Write the lock of the named experiments; what is finished keeps its results, renamed or not, locked or not.

    Raises UserError as `build_lock` and `relock` do.
    """
    new, old, written = build_lock(names), None, []
    with contextlib.suppress(UserError):
        old = read_lock()
    results = relock(ROOT, old, new, lambda: written.append(write_lock(new)))
    both = {kind: ((old or {}).get(kind) or {}, new[kind]) for kind in KINDS}
    return Change(
        any(written),
        {kind: [name for name in now if name not in was] for kind, (was, now) in both.items()},
        {kind: [name for name in now if name in was and was[name] != now[name]] for kind, (was, now) in both.items()},
        {kind: [name for name in was if name not in now] for kind, (was, now) in both.items()},
        results,
    )


def relock(root: Path, old: Lock | None, new: Lock, write: Callable[[], None]) -> Results:
    """Carry finished work over from one lock to another, which `write` writes, and archive what leaves.

    Killed anywhere, the next call completes it. Raises UserError where DVC is at work meanwhile.
    """
    text = read_text(root / "dvc.yaml")
    after, before = expand(text, new), _expanded(text, old)
    finished = _read(root)
    entries = finished["stages"] if finished else {}
    carried = _renamed(before, after, entries)
    if carried:
        _require_idle(root)
        for name, stage in carried.items():
            for source, target in zip(before[name].outputs, after[stage].outputs, strict=True):
                _move(root / source, root / target)
            entries[stage] = _rewritten(entries.pop(name), before[name], after[stage])
        _write(root, finished)
    # What enters leaves the archive first, what leaves enters it last: no path is ever claimed twice.
    _archive(root, entries, before | after)
    write()
    return Results(carried, *_archive(root, entries, after))


def forget(root: Path, lock: Lock) -> tuple[str, ...]:
    """Drop what `dvc.lock` says of stages that the lock does not have, and the archive. Returns their names."""
    after, finished = expand(read_text(root / "dvc.yaml"), lock), _read(root)
    gone = tuple(name for name in finished["stages"] if name not in after) if finished else ()
    if gone:
        _require_idle(root)
        for name in gone:
            del finished["stages"][name]
        _write(root, finished)
    (root / ARCHIVE).unlink(missing_ok=True)
    return gone


def _expanded(text: str, lock: Lock | None) -> dict[str, Stage]:
    """Stages of an old lock; none where this pipeline cannot be expanded over it."""
    with contextlib.suppress(UserError):
        return expand(text, lock) if lock else {}
    return {}


def _renamed(before: Mapping[str, Stage], after: Mapping[str, Stage], entries: Mapping[str, Any]) -> dict[str, str]:
    """Finished stages by name, and the names that they have now, inputs before what is made of them.

    A stage that is gone has become another one; one that is not may read its inputs from other paths.
    """
    gone = [stage for name, stage in before.items() if name not in after and name in entries]
    paths: dict[str, str] = {}
    renamed: dict[str, str] = {}
    for name in in_order(after):
        new = after[name]
        if new.tells_its_name or (name in entries and before.get(name, new) == new):
            continue
        for old in [before[name]] if name in entries else gone:
            same = old.name not in renamed and _alike(old, new, paths)
            if same and entries[old.name]["cmd"] == old.command:
                renamed[old.name] = name
                paths |= dict(zip(old.outputs, new.outputs, strict=True))
                break
    return renamed


def _alike(old: Stage, new: Stage, paths: Mapping[str, str]) -> bool:
    """Whether two stages do the same with the same inputs; `paths`: where inputs are now, by where they were."""
    if old.template != new.template or old.ordered_values != new.ordered_values:
        return False
    moved = (
        next((now + path[len(was) :] for was, now in paths.items() if within(path, was)), path)
        for path in old.dependencies
    )
    return list(moved) == list(new.dependencies)


def _rewritten(entry: Any, old: Stage, new: Stage) -> Any:
    """An entry of `dvc.lock` under the names of another stage, in DVC's order."""
    entry["cmd"] = new.command
    for kind, names in (
        ("deps", dict(zip(old.dependencies, new.dependencies, strict=True))),
        ("outs", dict(zip(old.outputs, new.outputs, strict=True))),
    ):
        files = [file | {"path": names[file["path"]]} for file in entry.get(kind, ())]
        if files:
            entry[kind] = sorted(files, key=lambda file: str(file["path"]))
    keys = dict(zip(old.keys, new.keys, strict=True))
    for file, values in entry.get("params", {}).items():
        entry["params"][file] = dict(sorted((keys[key], value) for key, value in values.items()))
    return entry


def _move(source: Path, target: Path) -> None:
    if source.exists() and not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
        for folder in source.parents[:3]:
            with contextlib.suppress(OSError):  # something else is in it
                folder.rmdir()


def _archive(root: Path, entries: Mapping[str, Any], stages: Mapping[str, Stage]) -> tuple[tuple[str, ...], ...]:
    """Write the archive of outputs that none of these stages makes; their paths, and those that it cannot hold."""
    made = [path for stage in stages.values() for path in stage.outputs]
    read = {path for stage in stages.values() for path in stage.dependencies}
    kept: dict[str, Any] = {}
    exposed = []
    for out in (out for name, entry in sorted(entries.items()) if name not in stages for out in entry.get("outs", ())):
        path = out["path"]
        if any(overlap(path, other) for other in (*made, *kept)):
            continue
        if any(within(path, folder) for folder in read):
            exposed.append(path)
        else:
            kept[path] = out
    if kept:
        write_bytes(root / ARCHIVE, (_HEADER + _dumped({"outs": [kept[path] for path in sorted(kept)]})).encode())
    else:
        (root / ARCHIVE).unlink(missing_ok=True)
    return tuple(sorted(kept)), tuple(sorted(exposed))


def _require_idle(root: Path) -> None:
    """Raise UserError where a process of DVC works on stages: it writes `dvc.lock` too."""
    try:
        held = json.loads(read_text(root / ".dvc" / "tmp" / "rwlock"))
    except (OSError, ValueError):
        return
    owners = [owner for entry in held.values() for kind in ("write", "read") for owner in _listed(entry.get(kind))]
    for owner in owners:
        if Path(f"/proc/{owner['pid']}").exists():
            raise UserError(f"process {owner['pid']} ({owner['cmd']}) works on stages here: wait for it, and run again")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if value else []


def _read(root: Path) -> Any:
    from ruamel.yaml import YAML

    path = root / "dvc.lock"
    return YAML().load(read_text(path)) if path.exists() else None


def _write(root: Path, finished: Any) -> None:
    write_bytes(root / "dvc.lock", _dumped(finished).encode())


def _dumped(value: Any) -> str:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.default_flow_style = False
    stream = StringIO()
    yaml.dump(value, stream)
    return stream.getvalue()
