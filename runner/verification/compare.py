"""Two runs beside each other: where they diverge, and how far apart their weights are, hashed here and now."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from runner.training import checkpoint_files
from runner.verification import divergence
from runner.verification.consistency import inconsistencies, strays
from runner.verification.divergence import Divergence
from runner.verification.recorded_run import RecordedRun
from runner.verification.tensor_distance import TensorDifference, tensor_differences
from specs.common.errors import UserError
from specs.common.files import canonical_json, sha256_file
from specs.common.tables import table

_FOLLOWS = ("chain", "last", "tensors", "model", "spec_digests", "code_changes")
"""Parts of a record that follow from the rest: told only where nothing else differs."""


@dataclass(frozen=True)
class Comparison:
    """Two runs beside each other."""

    problems: tuple[list[str], list[str]]
    """What contradicts itself in each: such a run is not even what was written."""
    spec: dict[str, tuple[Any, Any]]
    """Values of the specs that differ, by dotted path."""
    inputs: dict[str, tuple[str | None, str | None]]
    record: dict[str, tuple[Any, Any]]
    """What else the records state differently, by dotted path; none where one run is not finished."""
    steps: tuple[int, int]
    """Steps that each has."""
    equal: int
    """Steps that are equal to the bit, from the first on."""
    divergence: Divergence | None
    weights: tuple[str | None, str | None]
    """sha256 of the finished weights, of the files as they are."""
    states: dict[str, list[TensorDifference]] = field(default_factory=dict)
    """Tensors that differ, by where: after a step that both have a checkpoint of, and in the finished weights."""

    @property
    def same(self) -> bool:
        """Whether nothing differs, and neither contradicts itself."""
        lengths = self.steps[0] == self.steps[1]
        weights = None in self.weights or self.weights[0] == self.weights[1]
        differs = self.divergence or self.spec or self.inputs or self.record or any(self.states.values())
        return lengths and weights and not differs and not any(self.problems)

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {"same": self.same} | asdict(self)


def compare(one: RecordedRun, other: RecordedRun) -> Comparison:
    """Compare two runs, whatever they state of themselves."""
    problems = [*inconsistencies(one), *strays(one)], [*inconsistencies(other), *strays(other)]
    names = dict.fromkeys([*one.inputs, *other.inputs])
    inputs = {name: (one.inputs.get(name), other.inputs.get(name)) for name in names}
    alike = one.shapes == other.shapes
    steps, found = (0, 0), None
    try:
        steps, differing = divergence.first_differing(one, other)
        found = divergence.divergence(differing, one.shapes if alike else {}) if differing else None
    except UserError:
        pass  # it stands among the problems
    weights = _sha256(one), _sha256(other)
    states = {}
    if alike and (found is not None or weights[0] != weights[1]):
        states = dict(_states(one, other, found.step if found else 0))
    return Comparison(
        problems,
        dict(_differences(one.spec, other.spec)),
        {name: pair for name, pair in inputs.items() if pair[0] != pair[1]},
        _records(one, other),
        steps,
        min(steps) if found is None else found.step - 1,
        found,
        weights,
        states,
    )


def lines(comparison: Comparison, one: Path, other: Path) -> Iterator[str]:
    """The comparison for people."""
    if comparison.same:
        yield f"the same: {comparison.equal} steps, every loss, norm and weight equal to the bit"
        return
    for folder, problems in zip((one, other), comparison.problems, strict=True):
        if problems:
            yield f"{folder} contradicts itself"
            yield from (f"  {problem}" for problem in problems)
    if comparison.spec or comparison.inputs:
        count = len(comparison.spec) + len(comparison.inputs)
        yield f"these are runs of different specs or inputs: {count} values differ"
        yield from _beside(comparison.spec | comparison.inputs, one, other)
    stated = {path: pair for path, pair in comparison.record.items() if path.partition(".")[0] not in _FOLLOWS}
    if stated:
        yield f"their records state different things: {len(stated)} values differ"
        yield from _beside(stated, one, other)
    if comparison.divergence is not None:
        yield from divergence.lines(comparison.divergence)
    else:
        equal = comparison.equal
        yield f"steps 1 to {equal} are equal to the bit" if equal else "there is no step that both have"
        if comparison.steps[0] != comparison.steps[1]:
            yield f"{one} has {comparison.steps[0]} steps, {other} has {comparison.steps[1]}"
    yield from _weights_lines(comparison)


def _weights_lines(comparison: Comparison) -> Iterator[str]:
    for where, tensors in comparison.states.items():
        yield f"{where}: {len(tensors)} tensors differ" if tensors else f"{where}: no tensor differs"
        if tensors:
            cells = [(t.name, f"{t.elements:,} of {t.of:,}", f"{t.largest:,}", str(list(t.index))) for t in tensors]
            yield from table([("tensor", "elements", "largest (ulps)", "at"), *cells], right=(1, 2))
    a, b = comparison.weights
    if a is not None and b is not None and a != b:
        yield f"files of weights: sha256 {a[:16]} and {b[:16]}"


def _beside(pairs: dict[str, tuple[Any, Any]], one: Path, other: Path) -> list[str]:
    return table([("", str(one), str(other)), *((path, str(a), str(b)) for path, (a, b) in pairs.items())])


def _sha256(run: RecordedRun) -> str | None:
    return sha256_file(run.files.weights) if run.record is not None and run.files.weights.is_file() else None


def _records(one: RecordedRun, other: RecordedRun) -> dict[str, tuple[Any, Any]]:
    if one.record is None or other.record is None:
        return {}
    # An accepted change of code is no result, and moves the end of the chain.
    apart = ("spec", "inputs", *(("code_changes", "chain") if "code_changes" in one.record | other.record else ()))
    first, second = ({k: v for k, v in run.items() if k not in apart} for run in (one.record, other.record))
    return dict(_differences(first, second))


def _states(one: RecordedRun, other: RecordedRun, step: int) -> Iterator[tuple[str, list[TensorDifference]]]:
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
        try:
            yield "finished weights", list(tensor_differences(one.weights(), other.weights()))
        except UserError:
            return  # it stands among the problems


def _differences(one: Any, other: Any, path: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in dict.fromkeys([*one, *other]):
            yield from _differences(one.get(key), other.get(key), f"{path}.{key}" if path else key)
    elif canonical_json(one) != canonical_json(other):  # 1, 1.0 and true are three values
        yield path, (one, other)
