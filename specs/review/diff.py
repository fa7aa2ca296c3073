"""What differs between two experiments, field by field, in canonical values.

Formatting, comments, key order and units are no difference: values are compared after validation. Items of lists are
matched by name; an item that changed its name and little else is a rename.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from specs.schema.data import Benchmark
from specs.schema.experiment import BenchmarkRun
from specs.schema.rationale import reason
from specs.schema.sources import Source

Kind = Literal["changed", "added", "removed", "renamed", "reordered"]
_OPPOSITE: dict[Kind, Kind] = {"added": "removed", "removed": "added"}
_ALIKE = 0.5
"""Share of equal values from which an item that is gone and one that is new are the same under another name."""


@dataclass(frozen=True)
class Change:
    """One field that differs. Values are plain and canonical: numbers without suffixes, none where absent."""

    path: str
    kind: Kind
    old: Any
    new: Any
    why: str

    def reversed(self) -> "Change":
        """The change in the other direction."""
        return Change(self.path, _OPPOSITE.get(self.kind, self.kind), self.new, self.old, self.why)


def changes(old: BaseModel, new: BaseModel) -> list[Change]:
    """Every difference between two sections of one kind, in the order of the schema."""
    return _section(old, new, "")


def _section(old: BaseModel, new: BaseModel, at: str) -> list[Change]:
    if type(old) is not type(new):
        return [Change(at, "changed", _plain(old), _plain(new), "")]
    differences = []
    for field in type(old).model_fields:
        left, right = getattr(old, field), getattr(new, field)
        if left != right:
            differences += _value(left, right, f"{at}.{field}" if at else field, reason(type(old), field))
    return differences


def _value(old: Any, new: Any, at: str, why: str) -> list[Change]:
    if isinstance(old, BaseModel) and isinstance(new, BaseModel):
        return _section(old, new, at) if type(old) is type(new) else [_leaf(old, new, at, why)]
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = dict.fromkeys((*sorted(old), *sorted(new)))
        return [
            _leaf(old.get(key), new.get(key), f"{at}[{key}]", why)
            for key in sorted(keys)
            if old.get(key) != new.get(key)
        ]
    named = (Source, Benchmark, BenchmarkRun)
    if isinstance(old, tuple) and isinstance(new, tuple) and any(isinstance(item, named) for item in (*old, *new)):
        return _items(old, new, at, why)
    return [_leaf(old, new, at, why)]


def _leaf(old: Any, new: Any, at: str, why: str) -> Change:
    kind: Kind = "added" if old is None else "removed" if new is None else "changed"
    return Change(at, kind, _plain(old), _plain(new), why)


def _items(old: Sequence[Any], new: Sequence[Any], at: str, why: str) -> list[Change]:
    left, right = {_key(item): item for item in old}, {_key(item): item for item in new}
    gone = [name for name in left if name not in right]
    fresh = [name for name in right if name not in left]
    renamed = _renames({name: left[name] for name in gone}, {name: right[name] for name in fresh})
    differences: list[Change] = []
    for before, after in renamed:
        differences.append(Change(f"{at}[{before}]", "renamed", before, after, why))
        differences += [
            change
            for change in _section(left[before], right[after], f"{at}[{after}]")
            if change.path != f"{at}[{after}].{_name_field(right[after])}"
        ]
    for name in left:
        if name in right:
            differences += _section(left[name], right[name], f"{at}[{name}]")
    matched = {name for pair in renamed for name in pair}
    differences += [Change(f"{at}[{n}]", "removed", _plain(left[n]), None, why) for n in gone if n not in matched]
    differences += [Change(f"{at}[{n}]", "added", None, _plain(right[n]), why) for n in fresh if n not in matched]
    new_names = dict(renamed)
    order_old = [new_names.get(name, name) for name in left if new_names.get(name, name) in right]
    order_new = [name for name in right if name in set(order_old)]
    if order_old != order_new:
        differences.append(Change(f"{at} (order)", "reordered", order_old, order_new, why))
    return differences


def _renames(gone: dict[str, Any], fresh: dict[str, Any]) -> list[tuple[str, str]]:
    """Pairs of items that are alike but for their names, the most alike first; the same pairs in either direction."""
    scored = [
        (_likeness(left, right), tuple(sorted((before, after))), before, after)
        for before, left in gone.items()
        for after, right in fresh.items()
    ]
    pairs: list[tuple[str, str]] = []
    for score, _, before, after in sorted(scored, key=lambda each: (-each[0], each[1])):
        taken = {name for pair in pairs for name in pair}
        if score >= _ALIKE and before not in taken and after not in taken:
            pairs.append((before, after))
    return sorted(pairs, key=lambda pair: tuple(sorted(pair)))


def _likeness(left: Any, right: Any) -> float:
    if type(left) is not type(right):
        return 0.0
    # What an item is decides; what it leaves at defaults does not.
    mine, other = _own(left), _own(right)
    keys = set(mine) | set(other)
    return sum(mine.get(key) == other.get(key) for key in keys) / len(keys) if keys else 0.0


def _own(item: BaseModel) -> dict[str, Any]:
    fields = type(item).model_fields
    stated = {name: getattr(item, name) for name in fields if name != _name_field(item)}
    return {name: value for name, value in stated.items() if value != fields[name].default}


def _key(item: Any) -> str:
    return str(item.key if isinstance(item, BenchmarkRun) else item.name)


def _name_field(item: BaseModel) -> str:
    return "label" if isinstance(item, BenchmarkRun) else "name"


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
