"""A run executed again, whole or in part, and held against what was recorded of it."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_pipeline.tokens.token_store import MANIFEST, TokenStore
from runner.launching.launch import launch
from runner.training import checkpoint_files
from runner.training.device import require_devices
from runner.training.job import Job, require_ranks
from runner.verification import compare
from runner.verification.compare import Comparison, without_chain
from runner.verification.run_folder import History, read_history
from specs.common.errors import UserError
from specs.common.files import replacing, sha256_file, write_json
from specs.common.run_folder import RunFolder
from specs.pipeline import code, stage
from specs.schema.experiment import Device
from specs.schema.training import Training

Level = Literal["recorded", "within tolerance", "bitwise"]


@dataclass(frozen=True)
class Again:
    """What a second execution of some steps showed."""

    first: int
    last: int
    whole: bool
    """Whether these are all steps, up to the finished weights."""
    ranks: int
    device: Device
    different: int
    """Steps that are not equal to the bit."""
    weights_equal: bool
    """Whether the finished weights have the recorded sha256 (true where only a part was executed)."""
    farthest: float
    """Largest relative difference of a loss."""
    comparison: Comparison

    @property
    def bitwise(self) -> bool:
        """Whether all that was executed again is equal to the bit."""
        return self.different == 0 and self.weights_equal


@dataclass(frozen=True)
class Verdict:
    """What is shown of a run."""

    problems: list[str]
    """What contradicts itself in the record."""
    again: Again | None
    """The second execution; none where none was asked for, or the record was not whole."""
    tolerance: float | None

    @property
    def level(self) -> Level | None:
        """The highest level that is shown; none where the run is not what was recorded."""
        if self.problems:
            return None
        if self.again is None:
            return "recorded"
        if self.again.bitwise:
            return "bitwise"
        within = self.tolerance is not None and self.again.farthest <= self.tolerance
        return "within tolerance" if within else None

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        again = self.again
        return {
            "level": self.level,
            "problems": self.problems,
            "tolerance": self.tolerance,
            "again": again
            and {
                "steps": [again.first, again.last],
                "whole": again.whole,
                "ranks": again.ranks,
                "device": again.device,
                "bitwise": again.bitwise,
                "steps_that_differ": again.different,
                "largest_relative_loss_difference": again.farthest,
                "comparison": again.comparison.as_json(),
            },
        }


def verify(
    run: History,
    *,
    steps: tuple[int, int] | None,
    ranks: int,
    device: Device,
    inputs: Path,
    tolerance: float | None,
    execute: bool = True,
) -> Verdict:
    """Check a run's record; then execute it again, or the steps from `steps[0]` to `steps[1]`, and compare.

    Inputs are found below the folder `inputs` by their digests. A part begins at the newest whole checkpoint before it,
    or at the beginning where there is none. `tolerance`: relative difference of losses that is accepted where bits
    differ. Raises UserError where it cannot be executed here, and StoppedError where it was asked to stop: calling it
    again goes on.
    """
    problems = list(run.inconsistencies())
    again = None
    if execute and not problems:
        again = _execute(run, steps, ranks, device, inputs)
    return Verdict(problems, again, tolerance)


def lines(verdict: Verdict, run: History) -> Iterator[str]:
    """The verdict for people."""
    if verdict.problems:
        yield "record    damaged"
        yield from (f"  {problem}" for problem in verdict.problems)
    else:
        weights = f", weights {run.record['model'][:16]}" if run.record else ", not finished"
        yield f"record    whole: {run.stage}, chain from {run.start[:16]}{weights}"
        for change in (run.record or {}).get("code_changes", ()):
            yield f"code      {change['from'][:16]} until step {change['step']}, then {change['to'][:16]}: accepted"
    if (again := verdict.again) is not None:
        part = "" if again.whole else f" of {run.spec['steps']}"
        number = f"{again.ranks} rank{'s' if again.ranks > 1 else ''}"
        yield f"executed  steps {again.first} to {again.last}{part} again, on {number} ({again.device})"
        if not again.bitwise:
            yield f"          {again.different} steps differ; losses by {again.farthest:.3g} of their value at most"
            yield from (
                f"          {line}" for line in compare.lines(again.comparison, Path("recorded"), Path("again"))
            )
    match verdict.level:
        case "bitwise":
            what = "every loss, norm and weight" if verdict.again and verdict.again.whole else "each of these steps"
            yield f"verdict   bitwise: {what} is the same"
        case "within tolerance":
            yield f"verdict   within tolerance: every loss within {verdict.tolerance:g} of its value"
        case "recorded":
            yield "verdict   recorded: it is what was written; nothing was executed again"
        case None:
            yield "verdict   not verified"


def _execute(run: History, steps: tuple[int, int] | None, ranks: int, device: Device, inputs: Path) -> Again:
    training = Training.model_validate(run.spec["training"])
    require_ranks(training, ranks)
    require_devices(device, ranks)
    recorded = sum(1 for _ in run.entries())
    first, last = steps or (1, recorded)
    if last > recorded:
        raise UserError(f"{run.folder} has only {recorded} steps yet")
    whole = steps is None and run.record is not None
    start = _checkpoint_before(run, first)
    begin = checkpoint_files.step_of(start) + 1 if start else 1
    store, initial = _find_inputs(run, inputs)
    section = {"run": run.start, "from": begin, "to": last, "whole": whole, "device": device}
    with stage.scratch(run.stage, section, run.inputs, label="verify") as scratch:
        files = RunFolder(scratch)
        if start is not None and not checkpoint_files.find(files.checkpoints):
            with replacing(files.checkpoints / start.name) as folder:
                shutil.copytree(start, folder, copy_function=_link)
        job = Job.model_validate(
            run.spec
            | {
                "stage": run.stage,
                "name": "again",
                "training": training.model_dump(mode="json"),
                "level": run.level,
                "device": device,
                "inputs": run.inputs,
                "store": str(store.resolve()),
                "initial": str(initial.resolve()) if initial else None,
                "scratch": str(scratch),
                "code": _code(start),
                "measured": str(scratch / "measured"),
                "until": None if whole else last,
            }
        )
        if job.identity != run.start:
            raise UserError(
                f"{run.folder} was made by a version of this code whose spec has other fields: "
                "check out the commit in its measured environment.json, and verify it there"
            )
        write_json(files.job, job.model_dump(mode="json"))
        if not files.finished.path.is_dir():
            launch(files.job, ranks, job.threads)
        again = read_history(files.finished.path if whole else scratch)
        differing, farthest = _hold_against(run, again, begin, last)
        weights = not whole or sha256_file(files.finished.weights) == sha256_file(RunFolder(run.folder).weights)
        comparison = compare.compare(run if whole else _part(run, scratch, last), again)
        return Again(begin, last, whole, ranks, device, differing, weights, farthest, comparison)


def _hold_against(run: History, again: History, first: int, last: int) -> tuple[int, float]:
    """Steps from first to last whose lines differ, and the largest relative difference of their losses."""
    differing, farthest = 0, 0.0
    for one, other in zip(run.entries(), again.entries(), strict=False):
        if first <= one["step"] <= last:
            differing += without_chain(one) != without_chain(other)
            a, b = one["loss"], other["loss"]
            farthest = max(farthest, abs(a - b) / max(abs(a), abs(b)) if a != b else 0.0)
    return differing, farthest


def _code(start: Path | None) -> code.Code | None:
    """This code, allowed to begin at a checkpoint of whatever code: the steps that follow tell whether they agree."""
    own = code.current()
    if own is None or start is None:
        return own
    return own.model_copy(update={"accepted": (*own.accepted, checkpoint_files.read_manifest(start)["code"])})


def _part(run: History, scratch: Path, last: int) -> History:
    """The run as it was after a step."""
    folder = scratch / "recorded"
    folder.mkdir(exist_ok=True)
    with RunFolder(run.folder).steps.open("rb") as file, RunFolder(folder).steps.open("wb") as part:
        part.writelines(line for _, line in zip(range(last), file, strict=False))
    return History(folder, run.stage, run.level, run.spec, run.inputs, run.start, None)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # on another file system
        shutil.copyfile(source, target)


def _checkpoint_before(run: History, step: int) -> Path | None:
    """The newest checkpoint before a step that is whole; none where there is none."""
    for path in reversed([path for at, path in run.checkpoints().items() if at < step]):
        try:
            checkpoint_files.verify(path)
        except checkpoint_files.DamagedError:
            continue
        return path
    return None


def _find_inputs(run: History, folder: Path) -> tuple[Path, Path | None]:
    """The token store and, where the run had one, the file of first weights: whatever has the recorded digest."""

    def find(what: str, name: str, digest: str) -> Path:
        for path in sorted(folder.rglob(name)):
            if path.is_file() and sha256_file(path) == digest:
                return path
        raise UserError(
            f"{what} of {run.folder} is not below {folder}: no {name} there has sha256 {digest}; "
            "give the folder with --inputs, or make it with `dvc repro` or `dvc pull`"
        )

    store = find("the token store", MANIFEST, run.inputs["token_store"]).parent
    TokenStore.open(store, verify=True)
    if "weights" not in run.inputs:
        return store, None
    return store, find("the pretrained model", RunFolder(folder).weights.name, run.inputs["weights"])
