"""The lock: every experiment that this checkout reproduces, resolved into the nodes that DVC reads."""

import contextlib
from collections.abc import Iterable
from io import StringIO
from typing import Any, TypeVar

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from specs.common.errors import UserError
from specs.common.files import write_bytes
from specs.loading.load import load_experiment
from specs.loading.settings import ROOT
from specs.pipeline.nodes import KINDS, resolve
from specs.pipeline.reviewed import require_reviewed
from specs.schema.base import Section

S = TypeVar("S", bound=Section)
Lock = dict[str, Any]

LOCK = ROOT / "specs" / "lock.yaml"
EXPERIMENTS = ROOT / "specs" / "experiments"
_HEADER = "# Written by `twice lock` from specs/experiments: do not edit. DVC re-runs what changes here.\n"


def build_lock(names: Iterable[str]) -> Lock:
    """Resolve the named experiments into one lock, as plain values.

    Raises UserError where an experiment is not valid, or two experiments give one name different contents.
    """
    lock: Lock = {"experiments": sorted(set(names))} | {kind: {} for kind in KINDS}
    owners: dict[tuple[str, str], str] = {}
    for experiment_name in lock["experiments"]:
        path = EXPERIMENTS / f"{experiment_name}.yaml"
        if not path.exists():
            raise UserError(_absent(experiment_name, lock["experiments"]))
        experiment = load_experiment(path)
        if experiment.name != experiment_name:
            raise UserError(f"specs/experiments/{path.name}: its name is {experiment.name!r}, the file says otherwise")
        for kind, nodes in resolve(experiment).items():
            for name, section in nodes.items():
                plain = section.model_dump(mode="json")
                owner = owners.setdefault((kind, name), experiment_name)
                if lock[kind].setdefault(name, plain) != plain:
                    where, old, new = _first_difference(lock[kind][name], plain, f"{kind}.{name}")
                    raise UserError(
                        f"experiments {owner!r} and {experiment_name!r} give one name two contents: "
                        f"{where} is {old!r} in the first and {new!r} in the second; rename one"
                    )
    return {key: dict(sorted(value.items())) if isinstance(value, dict) else value for key, value in lock.items()}


def read_lock() -> Lock:
    """Read the committed lock as it is. Raises UserError where it is missing or damaged."""
    try:
        lock = YAML(typ="safe", pure=True).load(LOCK.read_text("utf-8"))
    except FileNotFoundError as error:
        raise UserError("specs/lock.yaml is missing; run `twice lock smoke`") from error
    except YAMLError as error:
        raise UserError("specs/lock.yaml is not valid YAML; run `twice lock`") from error
    if not isinstance(lock, dict) or not isinstance(lock.get("experiments"), list):
        raise UserError("specs/lock.yaml names no experiments; run `twice lock smoke`")
    return lock


def write_lock(lock: Lock) -> bool:
    """Write a lock; says whether it changed."""
    text = render_lock(lock)
    if LOCK.exists() and LOCK.read_text("utf-8") == text:
        return False
    write_bytes(LOCK, text.encode())
    return True


def render_lock(lock: Lock) -> str:
    """The lock as YAML text, the same for equal locks."""
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 120
    stream = StringIO()
    yaml.dump(lock, stream)
    return _HEADER + stream.getvalue()


def check_lock() -> Lock:
    """Return the lock after comparing it with the experiments that it names.

    Raises UserError naming the first difference where the lock is stale, and where the run is bound to another state.
    """
    lock = read_lock()
    fresh = build_lock(str(name) for name in lock["experiments"])
    if lock != fresh:
        where, old, new = _first_difference(lock, fresh, "")
        raise UserError(
            f"specs/lock.yaml is stale: {where} is {_shown(new)} in the specs, {_shown(old)} in the lock; "
            "run `twice lock`"
        )
    require_reviewed()
    return lock


def read_node(address: str, kind: type[S]) -> S:
    """Section at `kind.name` of the lock, such as `corpora.smoke-code`, once the lock is known to be fresh.

    Raises UserError where the lock is stale or missing, or holds no such node.
    """
    lock = check_lock()
    group, _, name = address.partition(".")
    if KINDS.get(group) is not kind:
        expected = next(key for key, value in KINDS.items() if value is kind)
        raise UserError(f"{address!r} is not the address of a node this stage works on; give {expected}.NAME")
    if name not in lock[group]:
        raise UserError(f"the lock holds no {address!r}; in {group} there are: {', '.join(lock[group])}")
    try:
        return kind.model_validate(lock[group][name])
    except ValidationError as error:
        raise UserError(f"specs/lock.yaml: {address} is not valid; run `twice lock`") from error


def _absent(name: str, names: list[str]) -> str:
    """What is said of an experiment that has no file: whether another file holds the same, or which there are."""
    known = sorted(path.stem for path in EXPERIMENTS.glob("*.yaml"))
    locked = None
    with contextlib.suppress(UserError, KeyError):
        locked = read_lock()["runs"][name]
    for other in known if locked else ():
        with contextlib.suppress(UserError, KeyError):
            run = resolve(load_experiment(EXPERIMENTS / f"{other}.yaml"))["runs"][other]
            if other not in names and run.model_dump(mode="json") == locked:
                now = " ".join(sorted(other if each == name else each for each in names))
                return f"{name!r} is gone, and {other!r} is the same: run `twice lock {now}`, and nothing is run again"
    return f"there is no experiment {name!r} in specs/experiments; there are: {', '.join(known)}"


def _first_difference(old: Any, new: Any, where: str) -> tuple[str, Any, Any]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*new, *(key for key in old if key not in new)]:
            if old.get(key) != new.get(key):
                return _first_difference(old.get(key), new.get(key), f"{where}.{key}" if where else str(key))
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (left, right) in enumerate(zip(old, new, strict=True)):
            if left != right:
                return _first_difference(left, right, f"{where}[{index}]")
    return where, old, new


def _shown(value: object) -> str:
    text = "absent" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
