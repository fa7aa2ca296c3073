"""The pipeline as data: `dvc.yaml` expanded over a lock, and which stages a change of values re-runs.

Nothing is known here of any stage: commands, dependencies, parameters and outputs are read from `dvc.yaml`, so that a
prediction follows the pipeline wherever it goes.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from specs.common.errors import UserError
from specs.common.files import canonical_json
from specs.pipeline.nodes import resolve
from specs.schema.experiment import Experiment

_VARIABLE = re.compile(r"\$\{([^}]+)\}")
Lock = Mapping[str, Any]


@dataclass(frozen=True)
class Stage:
    """One stage of the expanded pipeline."""

    name: str
    command: str
    dependencies: tuple[str, ...]
    outputs: tuple[str, ...]
    values: str
    """Canonical JSON of the values that it reads from the lock, by key."""
    keys: tuple[str, ...]
    constant: tuple[str, ...]
    """Outputs that have the same bytes whenever the stage succeeds: those that its command calls a stamp."""
    tells_its_name: bool = False
    """Whether its outputs hold the name of its node: under another name they would have other bytes."""

    @property
    def template(self) -> str:
        """The stage of `dvc.yaml` that it is an instance of."""
        return self.name.partition("@")[0]

    @property
    def ordered_values(self) -> list[Any]:
        """The values that it reads from the lock, in the order of its keys."""
        values = {name.partition(":")[2]: value for name, value in json.loads(self.values).items()}
        return [values[key] for key in self.keys]


@dataclass(frozen=True)
class Rerun:
    """What becomes of the stages of a pipeline when one state of the project takes the place of another."""

    changed: dict[str, str]
    """Stages that re-run for themselves, with the reason: what `dvc repro --dry` lists."""
    following: dict[str, str]
    """Stages downstream of those, with the stage they wait for: they re-run unless their inputs come out unchanged."""
    reused: tuple[str, ...]
    gone: tuple[str, ...]
    """Stages that the new state has no more."""
    checks: tuple[str, ...] = ()
    """Stages among `changed` whose outputs never differ: they check something, and nothing follows from them."""


def lock_of(*experiments: Experiment) -> Lock:
    """What `twice lock` writes for experiments, as plain values."""
    lock: dict[str, Any] = {"experiments": sorted(experiment.name for experiment in experiments)}
    for experiment in experiments:
        for kind, nodes in resolve(experiment).items():
            held = lock.setdefault(kind, {})
            held.update({name: node.model_dump(mode="json") for name, node in nodes.items()})
    return lock


def expand(text: str, lock: Lock) -> dict[str, Stage]:
    """The stages of a `dvc.yaml` over a lock, by name as DVC gives it. Raises UserError where it cannot be expanded."""
    try:
        stages = parse(text)["stages"]
        return {stage.name: stage for name, body in stages.items() for stage in _instances(name, body, lock)}
    except (KeyError, TypeError, AttributeError, UserError) as error:
        raise UserError(f"dvc.yaml cannot be expanded over the lock: {' '.join(str(error).split())}") from error


@lru_cache(maxsize=2)
def parse(text: str) -> Any:
    """A `dvc.yaml` as plain values. Raises UserError where it is not YAML."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise UserError(str(error)) from error


def _instances(name: str, body: Mapping[str, Any], lock: Lock) -> Iterator[Stage]:
    if "foreach" not in body:
        yield _stage(name, body, dict(lock))
        return
    over = body["foreach"]
    items = _look_up(_VARIABLE.fullmatch(over)[1], lock) if isinstance(over, str) else over  # type: ignore[index]
    pairs = items.items() if isinstance(items, Mapping) else ((str(item), item) for item in items)
    for key, item in pairs:
        yield _stage(f"{name}@{key}", body["do"], {**lock, "key": key, "item": item})


def _stage(name: str, body: Mapping[str, Any], scope: Lock) -> Stage:
    command = _filled(str(body["cmd"]), scope)
    outputs = [path for kind in ("outs", "metrics", "plots") for path in _paths(body.get(kind, ()), scope)]
    values, keys = {}, []
    for entry in body.get("params", ()):
        for file, names in entry.items() if isinstance(entry, Mapping) else ():
            for key in (_filled(each, scope) for each in names):
                values[f"{file}:{key}"] = _look_up(key, scope)
                keys.append(key)
    return Stage(
        name=name,
        command=" ".join(command.split()),
        dependencies=tuple(_paths(body.get("deps", ()), scope)),
        outputs=tuple(outputs),
        values=canonical_json(values).decode(),
        keys=tuple(keys),
        constant=tuple(re.findall(r"--stamp[= ](\S+)", command)),
        tells_its_name=bool(body.get("meta", {}).get("tells_its_name")),
    )


def _paths(entries: Any, scope: Lock) -> Iterator[str]:
    for entry in entries:
        yield _filled(next(iter(entry)) if isinstance(entry, Mapping) else entry, scope)


def _filled(text: str, scope: Lock) -> str:
    return _VARIABLE.sub(lambda match: str(_look_up(match[1], scope)), text)


def _look_up(dotted: str, scope: Any) -> Any:
    value = scope
    for part in dotted.split("."):
        value = value[part]
    return value


def reruns(
    old: Mapping[str, Stage], new: Mapping[str, Stage], touched: Callable[[str], bool] = lambda path: False
) -> Rerun:
    """What re-runs when `new` takes the place of `old`, all of which is up to date.

    touched: whether the contents of a file or folder that no stage makes differ between the two states.
    """
    made = {path: stage.name for stage in new.values() for path in stage.outputs}
    changed = {name: why for name, stage in new.items() if (why := _why(old.get(name), stage, made, touched))}
    following: dict[str, str] = {}
    for name in in_order(new):
        if name in changed:
            continue
        for path in new[name].dependencies:
            for output, maker in made.items():
                runs = maker in changed or maker in following
                if runs and overlap(path, output) and output not in new[maker].constant:
                    following.setdefault(name, maker)
    reused = tuple(name for name in new if name not in changed and name not in following)
    checks = tuple(name for name in changed if set(new[name].outputs) <= set(new[name].constant))
    return Rerun(changed, following, reused, tuple(name for name in old if name not in new), checks)


def _why(old: Stage | None, new: Stage, made: Mapping[str, str], touched: Callable[[str], bool]) -> str | None:
    if old is None:
        return "new"
    if old.command != new.command:
        return "its command"
    if set(old.dependencies) != set(new.dependencies):
        return "its dependencies"
    if set(old.outputs) != set(new.outputs):
        return "its outputs"
    if old.values != new.values:
        return "values of " + ", ".join(_differing(old.values, new.values))
    files = [path for path in new.dependencies if not any(overlap(path, output) for output in made)]
    changed = [path for path in files if touched(path)]
    return f"code: {', '.join(changed)}" if changed else None


def _differing(old: str, new: str) -> list[str]:
    left, right = json.loads(old), json.loads(new)
    keys = dict.fromkeys((*left, *right))
    return [key.partition(":")[2] for key in keys if left.get(key) != right.get(key) or (key in left) != (key in right)]


def overlap(left: str, right: str) -> bool:
    """Whether one path is the other or lies in it."""
    return within(left, right) or within(right, left)


def within(path: str, folder: str) -> bool:
    """Whether a path is another or lies in it."""
    return path == folder or path.startswith(f"{folder}/")


def _and_above(path: str) -> set[str]:
    """A path and the folders that it lies in."""
    return {path, *(path[:at] for at, letter in enumerate(path) if letter == "/")}


def in_order(stages: Mapping[str, Stage]) -> list[str]:
    """Names so that each stage comes after those that make what it reads."""
    made = {path: stage.name for stage in stages.values() for path in stage.outputs}
    folders = {output: _and_above(output) for output in made}
    makers: dict[str, list[str]] = {}
    for name, stage in stages.items():
        # Outputs that overlap a dependency, told by look-up: every output against every dependency is slow.
        reads = set(stage.dependencies)
        above = set().union(*map(_and_above, reads))
        makers[name] = [made[path] for path in made if path in above or not reads.isdisjoint(folders[path])]
    order: dict[str, None] = {}

    def visit(name: str, below: frozenset[str]) -> None:
        if name in order or name in below:
            return
        for maker in makers[name]:
            visit(maker, below | {name})
        order[name] = None

    for name in stages:
        visit(name, frozenset())
    return list(order)
