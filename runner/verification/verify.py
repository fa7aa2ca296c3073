"""What is shown of a run: held against itself, executed again, and compared to the last byte."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from runner.verification import compare, deviation
from runner.verification.checkout import Checkout, read_checkout, require_named
from runner.verification.compare import Comparison
from runner.verification.consistency import inconsistencies, strays
from runner.verification.deviation import Deviation
from runner.verification.divergence import computed
from runner.verification.recorded_run import RecordedRun
from runner.verification.rerun import Inputs, execute, find_inputs, private_folder
from specs.common.errors import UserError
from specs.common.files import json_text, sha256_file
from specs.common.run_folder import RunFolder
from specs.schema.experiment import Device

Level = Literal["recorded", "within tolerance", "bitwise"]


@dataclass(frozen=True)
class Rerun:
    """What a second execution of some steps showed."""

    first: int
    last: int
    whole: bool
    """Whether these are all steps, up to the finished run."""
    ranks: int
    device: Device
    differing_steps: int
    """Steps that are not equal to the bit."""
    differing_files: list[str]
    """Files of the finished run that are not equal to the byte; none of a part."""
    deviation: Deviation | None
    """Where bits differ: how far."""
    comparison: Comparison | None
    """Where bits differ: where they begin to."""
    notes: tuple[str, ...] = ()
    """Checkpoints that were not begun from."""

    @property
    def bitwise(self) -> bool:
        """Whether all that was executed again is equal to the bit."""
        return not self.differing_steps and not self.differing_files


@dataclass(frozen=True)
class Verdict:
    """What is shown of a run."""

    problems: list[str]
    """What contradicts itself in the run."""
    rerun: Rerun | None
    """The second execution; none where only the record was asked about, or the record was not whole."""
    tolerance: float | None
    digests: dict[str, str] = field(default_factory=dict)
    """sha256 of the files that were checked, by name."""
    checkout: Checkout | None = None
    """The code that was executed; none where nothing was."""

    @property
    def level(self) -> Level | None:
        """The highest level that is shown; none where the run is not what was recorded."""
        if self.problems:
            return None
        if self.rerun is None:
            return "recorded"
        if self.rerun.bitwise:
            return "bitwise"
        far = self.rerun.deviation
        return "within tolerance" if self.tolerance is not None and far and far.within(self.tolerance) else None

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        rerun = self.rerun and asdict(self.rerun) | {"bitwise": self.rerun.bitwise}
        if rerun and self.rerun and self.rerun.deviation:
            rerun["deviation"] = self.rerun.deviation.as_json()
        return {
            "level": self.level,
            "problems": self.problems,
            "tolerance": self.tolerance,
            "digests": self.digests,
            "checkout": self.checkout and self.checkout.as_json(),
            "rerun": rerun,
        }


def verify(
    run: RecordedRun,
    *,
    steps: tuple[int, int] | None,
    ranks: int,
    device: Device,
    inputs: Path,
    tolerance: float | None,
    execute: bool = True,
    dirty: bool = False,
) -> Verdict:
    """Check a run's record; then execute it again, or the steps from `steps[0]` to `steps[1]`, and compare.

    All is done on copies in a new private folder, so that neither what lies in a shared folder nor what changes
    meanwhile is believed. Inputs are found below the folder `inputs` by their digests. A part begins at the newest
    checkpoint before it whose tensors the journal states, or at step 1. `tolerance`: relative difference of numbers,
    of tensors and of the held-out loss that is accepted where bits differ. `dirty`: execute even where no commit names
    the code. Raises UserError where it cannot be executed here, and StoppedError where it was asked to stop.
    """
    checkout = read_checkout() if execute else None
    if checkout is not None:
        require_named(checkout, dirty=dirty)
    with private_folder() as private:
        copy = run.copied(private / "given")
        digests = {path.name: sha256_file(path) for path in sorted(copy.folder.iterdir())}
        problems = [line.replace(str(copy.folder), str(run.folder)) for line in inconsistencies(copy)]
        problems += strays(run)
        rerun = None
        if execute and not problems:
            (private / "again").mkdir()
            rerun = _rerun(run, copy, steps, ranks, device, find_inputs(run, inputs), private / "again")
        return Verdict(problems, rerun, tolerance, digests, checkout)


def lines(verdict: Verdict, run: RecordedRun) -> Iterator[str]:
    """The verdict for people."""
    if verdict.problems:
        yield "record    damaged"
        yield from (f"  {problem}" for problem in verdict.problems)
    else:
        weights = f", weights {run.record['model'][:16]}" if run.record else ", not finished"
        yield f"record    whole: {run.stage}, chain from {run.start[:16]}{weights}"
        for change in (run.record or {}).get("code_changes", ()):
            yield f"code      {change['from'][:16]} until step {change['step']}, then {change['to'][:16]}: accepted"
    if (rerun := verdict.rerun) is not None:
        yield from _rerun_lines(rerun, run.spec["steps"], verdict.checkout)
    match verdict.level:
        case "bitwise" if verdict.rerun and verdict.rerun.whole:
            yield "verdict   bitwise: every loss, norm and weight is the same"
        case "bitwise":
            yield "verdict   bitwise: each of these steps is the same"
        case "within tolerance":
            what = (
                "every number, tensor and the held-out loss of the weights" if rerun and rerun.whole else "each number"
            )
            yield f"verdict   within tolerance: {what} within {verdict.tolerance:g} of its value"
        case "recorded":
            yield "verdict   recorded: it is what was written; nothing was executed again"
        case None:
            yield "verdict   not verified"


def _rerun_lines(rerun: Rerun, steps: int, checkout: Checkout | None) -> Iterator[str]:
    if checkout is not None:
        yield f"with      {checkout.line()}"
    yield from (f"note      {note}" for note in rerun.notes)
    part = "" if rerun.whole else f" of {steps}"
    number = f"{rerun.ranks} rank{'s' if rerun.ranks > 1 else ''}"
    yield f"executed  steps {rerun.first} to {rerun.last}{part} again, on {number} ({rerun.device})"
    indent = " " * 10
    if rerun.differing_steps:
        yield f"{indent}{rerun.differing_steps} steps differ"
    for name in rerun.differing_files:
        yield f"{indent}{name} has other bytes than were made here"
    if rerun.deviation is not None:
        yield from (indent + line for line in deviation.lines(rerun.deviation))
    if rerun.comparison is not None and not rerun.comparison.same:
        yield from (indent + line for line in compare.lines(rerun.comparison, Path("recorded"), Path("again")))


def _rerun(
    run: RecordedRun,
    copy: RecordedRun,
    steps: tuple[int, int] | None,
    ranks: int,
    device: Device,
    inputs: Inputs,
    folder: Path,
) -> Rerun:
    count = sum(1 for _ in copy.entries())
    first, last = steps or (1, count)
    if last > count:
        raise UserError(f"{run.folder} has only {count} steps yet")
    whole = steps is None and run.record is not None
    checkpoints = {} if whole else run.checkpoints()
    done = execute(
        copy, checkpoints, first, last, whole=whole, ranks=ranks, device=device, inputs=inputs, folder=folder
    )
    pairs = zip(copy.entries(), done.run.entries(), strict=False)
    executed = [(one, other) for one, other in pairs if done.first <= one["step"] <= last]
    differing = sum(computed(one) != computed(other) for one, other in executed)
    differing += last - done.first + 1 - len(executed)
    files = _differing_files(copy, done.run) if whole else []
    far = found = None
    if differing or files:
        far = deviation.deviation(copy, done.run, done.first, last, whole=whole, inputs=inputs)
        found = compare.compare(copy if whole else _part(copy, folder / "part", last), done.run)
    return Rerun(done.first, last, whole, ranks, device, differing, files, far, found, done.notes)


def _differing_files(given: RecordedRun, made: RecordedRun) -> list[str]:
    """Names of a finished run's files that are not those made here, byte for byte.

    Where the run states that its code was changed on the way, it is held against what one code would have written.
    """
    assert given.record is not None
    if "code_changes" not in given.record:
        steps = given.files.steps.read_bytes() == made.files.steps.read_bytes()
        record = given.files.record.read_bytes() == made.files.record.read_bytes()
    else:
        entries = list(given.results())
        steps = entries == list(made.entries())
        chain = {"start": given.start, "end": entries[-1]["chain"]}
        stated = {key: value for key, value in given.record.items() if key != "code_changes"}
        record = json_text(stated | {"chain": chain}).encode() == made.files.record.read_bytes()
    weights = sha256_file(given.files.weights) == sha256_file(made.files.weights)
    names = (given.files.steps, given.files.record, given.files.weights)
    return [path.name for path, equal in zip(names, (steps, record, weights), strict=True) if not equal]


def _part(run: RecordedRun, folder: Path, last: int) -> RecordedRun:
    """The run as it was after a step."""
    folder.mkdir()
    with run.files.steps.open("rb") as file, RunFolder(folder).steps.open("wb") as part:
        part.writelines(line for _, line in zip(range(last), file, strict=False))
    return RecordedRun(folder, run.stage, run.level, run.spec, run.inputs, run.start, None)
