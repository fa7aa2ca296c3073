"""Where two runs part: the first step, what differs in it first, and the tensors, with distances to the unit in the
last place."""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from runner.training import checkpoint_files
from runner.training.fingerprints import DIGITS, Change, single_change, split
from runner.verification.run_folder import History
from specs.common.errors import UserError
from specs.common.tables import table

# In the order in which a step computes them: the first that differs comes before all that follow from it.
_CAUSES = {
    "rows": "other rows of the token store were read",
    "targets": "other numbers of targets were learnt",
    "weights": "other weights enter the step",
    "loss": "from equal weights and data the forward pass gave another loss",
    "norm": "from an equal loss the backward pass, or the fold over micro-batches, gave another gradient",
    "lr": "another learning rate was taken",
    "skipped": "the update was left out in one of them",
    "held_out_loss": "the update, or the measurement on held-out rows, gave something else",
    "digests": "the update gave other weights or moments",
}


@dataclass(frozen=True)
class TensorDifference:
    """How one tensor differs in two runs."""

    name: str
    elements: int
    """Elements whose bits differ."""
    of: int
    largest: int
    """Largest distance in units in the last place."""
    index: tuple[int, ...]
    """Where that is."""


@dataclass(frozen=True)
class Parting:
    """The first step at which two runs differ."""

    step: int
    what: str
    """What of the step differs first, as the journal names it."""
    cause: str
    numbers: dict[str, tuple[float, float, int]]
    """Losses and norms that differ: in the first run, in the second, distance in units in the last place of fp64."""
    tensors: list[str]
    """Tensors that differ when they enter the step, in the model's order."""
    changes: dict[str, Change]
    """Of these, the ones of which one element alone differs."""
    spread: list[str]
    """Tensors that differ when they enter the step after."""


@dataclass(frozen=True)
class Comparison:
    """Two runs beside each other."""

    spec: dict[str, tuple[Any, Any]]
    """Values of the specs that differ, by dotted path."""
    inputs: dict[str, tuple[str | None, str | None]]
    steps: tuple[int, int]
    """Steps that each has."""
    equal: int
    """Steps that are equal to the bit, from the first on."""
    parting: Parting | None
    states: dict[str, list[TensorDifference]] = field(default_factory=dict)
    """Tensors that differ, by where: after a step that both have a checkpoint of, and in the finished weights."""

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        lengths = self.steps[0] == self.steps[1]
        return lengths and not (self.parting or self.spec or self.inputs or any(self.states.values()))

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {"same": self.same} | asdict(self)


def compare(one: History, other: History) -> Comparison:
    """Compare two runs. Raises UserError where one of them is damaged."""
    spec = dict(_differences(one.spec, other.spec))
    names = dict.fromkeys([*one.inputs, *other.inputs])
    inputs = {name: (one.inputs.get(name), other.inputs.get(name)) for name in names}
    alike = one.shapes == other.shapes
    steps, differing = _walk(one, other)
    parting = _parting(differing, one.shapes if alike else {}) if differing else None
    states = {}
    if alike and (parting is not None or _finished_differ(one, other)):
        states = dict(_states(one, other, parting.step if parting else 0))
    return Comparison(
        spec,
        {name: pair for name, pair in inputs.items() if pair[0] != pair[1]},
        steps,
        min(steps) if parting is None else parting.step - 1,
        parting,
        states,
    )


def tensor_differences(
    one: Iterator[tuple[str, Tensor]], other: Iterator[tuple[str, Tensor]]
) -> Iterator[TensorDifference]:
    """Compare fp32 tensors that come by name in the same order; those that are equal are left out."""
    for (name, a), (_, b) in zip(one, other, strict=True):
        distance = np.abs(_ordered(a) - _ordered(b))
        # Zero and minus zero are no distance apart, and yet not equal.
        count = int((a.numpy().view(np.int32) != b.numpy().view(np.int32)).sum())
        if count:
            index = tuple(int(i) for i in np.unravel_index(int(distance.argmax()), distance.shape))
            yield TensorDifference(name, count, distance.size, int(distance.max()), index)


def ulps(a: float, b: float) -> int:
    """How many fp64 numbers lie from one to the other."""

    def place(x: float) -> int:
        (bits,) = struct.unpack("<q", struct.pack("<d", x))
        return int(bits) if bits >= 0 else -(2**63) - int(bits)

    return abs(place(a) - place(b))


def without_chain(entry: dict[str, Any]) -> dict[str, Any]:
    """What a line of a journal says was computed. The chain differs in every line after one that does, and in those of
    two specs; a change of code is no result."""
    return {key: value for key, value in entry.items() if key not in ("chain", "code_change")}


def lines(found: Comparison, one: Path, other: Path) -> Iterator[str]:
    """The comparison for people."""
    if found.same:
        yield f"the same: {found.equal} steps, every loss, norm and weight equal to the bit"
        return
    if found.spec or found.inputs:
        yield f"these are runs of different specs or inputs: {len(found.spec) + len(found.inputs)} values differ"
        rows = [(path, str(a), str(b)) for path, (a, b) in (found.spec | found.inputs).items()]
        yield from table([("", str(one), str(other)), *rows])
    if found.parting is None:
        yield f"steps 1 to {found.equal} are equal to the bit" if found.equal else "there is no step that both have"
        if found.steps[0] != found.steps[1]:
            yield f"{one} has {found.steps[0]} steps, {other} has {found.steps[1]}"
    else:
        yield from _parting_lines(found.parting)
    for where, tensors in found.states.items():
        yield f"{where}: {len(tensors)} tensors differ" if tensors else f"{where}: no tensor differs"
        if tensors:
            cells = [(t.name, f"{t.elements:,} of {t.of:,}", f"{t.largest:,}", str(list(t.index))) for t in tensors]
            yield from table([("tensor", "elements", "largest (ulps)", "at"), *cells], right=(1, 2))


def _parting_lines(parting: Parting) -> Iterator[str]:
    if parting.step > 1:
        yield f"steps 1 to {parting.step - 1} are equal to the bit: data, weights, losses and gradient norms"
    yield f"step {parting.step} is the first to differ, in its {parting.what}: {parting.cause}"
    for name in parting.tensors[:10]:
        if change := parting.changes.get(name):
            how = "one flipped bit" if change.flipped else "one element"
            yield f"  {name}: {how}, at {list(change.index)}, by {abs(change.bits):,} ulps"
        else:
            yield f"  {name}: more than one element"
    if len(parting.tensors) > 10:
        yield f"  and {len(parting.tensors) - 10} tensors more"
    for name, (a, b, distance) in parting.numbers.items():
        yield f"  {name}: {a!r} and {b!r}, {distance:,} ulps of fp64 apart"
    if parting.spread and not parting.tensors:
        yield f"  {len(parting.spread)} tensors differ after it, the first of them {parting.spread[0]}"


def _walk(one: History, other: History) -> tuple[tuple[int, int], list[tuple[dict[str, Any], dict[str, Any]]]]:
    """Steps that each has, and the lines of the first step that differs and of the one after."""
    differing: list[tuple[dict[str, Any], dict[str, Any]]] = []
    count, both = 0, [0, 0]
    for count, (a, b) in enumerate(zip_longest(one.entries(), other.entries()), 1):
        for which, entry in enumerate((a, b)):
            both[which] = count if entry else both[which]
        if a and b and len(differing) < 2 and (differing or without_chain(a) != without_chain(b)):
            differing.append((a, b))
    return (both[0], both[1]), differing


def _parting(differing: list[tuple[dict[str, Any], dict[str, Any]]], shapes: Mapping[str, tuple[int, ...]]) -> Parting:
    (first, second), *after = differing
    what = next(key for key in [*_CAUSES, *first, *second] if first.get(key) != second.get(key))
    numbers = {}
    for key in ("loss", "norm", "held_out_loss"):
        x, y = first.get(key), second.get(key)
        if x is not None and y is not None and x != y:
            numbers[key] = (x, y, ulps(x, y))
    tensors = _different(first, second, shapes)
    changes = {}
    for name, (x, y) in tensors.items():
        if change := single_change(x, y, shapes[name]):
            changes[name] = change
    spread = _different(*after[0], shapes) if after else {}
    cause = _CAUSES.get(what, "what is written of a step differs")
    return Parting(first["step"], what, cause, numbers, list(tensors), changes, list(spread))


def _different(
    a: dict[str, Any], b: dict[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[str, str]]:
    """Fingerprints that differ, by tensor; none where the journals do not fit the shapes."""
    first, second = a.get("weights", ""), b.get("weights", "")
    if not len(first) == len(second) == DIGITS * len(shapes):
        return {}
    pairs = zip(shapes, split(first), split(second), strict=True)
    return {name: (x, y) for name, x, y in pairs if x != y}


def _states(one: History, other: History, step: int) -> Iterator[tuple[str, list[TensorDifference]]]:
    mine, theirs = one.checkpoints(), other.checkpoints()
    # Runs of one spec share what they kept by identity: one folder is no second witness.
    both = [s for s in mine if s in theirs and s >= step and mine[s].resolve() != theirs[s].resolve()]
    for at in both[:1]:
        try:
            first, second = ((path, checkpoint_files.verify(path)) for path in (mine[at], theirs[at]))
        except checkpoint_files.DamagedError as error:
            raise UserError(f"checkpoint step-{at}: {error}") from error
        yield (
            f"after step {at}",
            list(tensor_differences(checkpoint_files.whole(*first), checkpoint_files.whole(*second))),
        )
    if one.record and other.record:
        yield "finished weights", list(tensor_differences(one.weights(), other.weights()))


def _finished_differ(one: History, other: History) -> bool:
    return bool(one.record and other.record and one.record["model"] != other.record["model"])


def _differences(one: Any, other: Any, path: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in dict.fromkeys([*one, *other]):
            yield from _differences(one.get(key), other.get(key), f"{path}.{key}" if path else key)
    elif one != other:
        yield path, (one, other)


def _ordered(tensor: Tensor) -> Any:
    """Places of fp32 numbers among all of them, int64: neighbours are one apart."""
    bits = tensor.numpy().view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(2**31) - bits, bits)
