"""The first step at which two journals differ, and what in it differs first."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from runner.training.fingerprints import DIGITS, Change, single_change, split
from runner.verification.recorded_run import RecordedRun
from runner.verification.tensor_distance import ulps

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
Pair = tuple[dict[str, Any], dict[str, Any]]


@dataclass(frozen=True)
class Divergence:
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


def first_differing(one: RecordedRun, other: RecordedRun) -> tuple[tuple[int, int], list[Pair]]:
    """Steps that each run has, and the entries of the first step that differs and of the one after."""
    differing: list[Pair] = []
    counts = [0, 0]
    for number, (a, b) in enumerate(zip_longest(one.entries(), other.entries()), 1):
        for which, entry in enumerate((a, b)):
            counts[which] = number if entry else counts[which]
        if a and b and len(differing) < 2 and (differing or computed(a) != computed(b)):
            differing.append((a, b))
    return (counts[0], counts[1]), differing


def computed(entry: dict[str, Any]) -> dict[str, Any]:
    """What a journal's entry says was computed. The chain differs in every entry after one that does, and in those of
    two specs; a change of code is no result."""
    return {key: value for key, value in entry.items() if key not in ("chain", "code_change")}


def divergence(differing: list[Pair], shapes: Mapping[str, tuple[int, ...]]) -> Divergence:
    """What the entries of the first step that differs, and of the one after, tell. `shapes`: none, of two models."""
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
    return Divergence(first["step"], what, cause, numbers, list(tensors), changes, list(spread))


def lines(found: Divergence) -> Iterator[str]:
    """The divergence for people."""
    if found.step > 1:
        yield f"steps 1 to {found.step - 1} are equal to the bit: data, weights, losses and gradient norms"
    yield f"step {found.step} is the first to differ, in its {found.what}: {found.cause}"
    for name in found.tensors[:10]:
        if change := found.changes.get(name):
            how = "one flipped bit" if change.flipped else "one element"
            yield f"  {name}: {how}, at {list(change.index)}, by {abs(change.bits):,} ulps"
        else:
            yield f"  {name}: more than one element"
    if len(found.tensors) > 10:
        yield f"  and {len(found.tensors) - 10} tensors more"
    for name, (a, b, distance) in found.numbers.items():
        yield f"  {name}: {a!r} and {b!r}, {distance:,} ulps of fp64 apart"
    if found.spread and not found.tensors:
        yield f"  {len(found.spread)} tensors differ after it, the first of them {found.spread[0]}"


def _different(
    a: dict[str, Any], b: dict[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[str, str]]:
    """Fingerprints that differ, by tensor; none where the journals do not fit the shapes."""
    first, second = a["weights"], b["weights"]
    if not len(first) == len(second) == DIGITS * len(shapes):
        return {}
    pairs = zip(shapes, split(first), split(second), strict=True)
    return {name: (x, y) for name, x, y in pairs if x != y}
