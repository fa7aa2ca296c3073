"""A run read back from disk, finished or in progress: what it was meant to compute, and what it left behind.

Whoever hands over the folder may be hostile: nothing in it is believed before `consistency.inconsistencies` was asked,
and then it is only known to agree with itself.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.decoder.transformer import Transformer
from runner.training import checkpoint_files
from runner.training.job import Job
from runner.training.journal import link, read_steps
from specs.common.errors import UserError
from specs.common.files import canonical_json, replacing
from specs.common.run_folder import RunFolder
from specs.loading.settings import load_settings
from specs.schema.base import Section, Sha256
from specs.schema.quantities import Positive
from specs.schema.training import Architecture

Finite = Annotated[float, Field(allow_inf_nan=False)]
_ELSEWHERE = {"name": "verified", "device": "cpu", "store": "", "initial": None, "scratch": "", "measured": ""}


class CodeChange(Section):
    """Digests of the code whose state was taken over, and of the code that was allowed to go on from it."""

    from_: Annotated[str, Field(alias="from", pattern="^([0-9a-f]{64})?$")]
    """Empty where no stage kept the state."""
    to: Sha256


class Entry(Section):
    """All that a line of a journal may hold."""

    step: Positive
    loss: Finite
    norm: Finite
    lr: Finite
    targets: Positive
    weights: Annotated[str, Field(pattern="^([0-9a-f]{16})+$")]
    """Fingerprint of each tensor as it enters the step."""
    rows: Sha256
    chain: Sha256
    skipped: Literal[True] | None = None
    held_out_loss: Finite | None = None
    digests: dict[Literal["value", "first", "second"], dict[str, Sha256]] | None = None
    """Of each tensor of the training state after the step, at steps with a checkpoint."""
    code_change: CodeChange | None = None


@dataclass(frozen=True)
class RecordedRun:
    """One run, as its files state it."""

    folder: Path
    stage: str
    level: str
    """Declared by the spec."""
    spec: dict[str, Any]
    inputs: dict[str, str]
    """sha256 of what was read, by name."""
    start: str
    """Where the digest chain begins."""
    record: dict[str, Any] | None
    """Of a finished run; none of one in progress."""

    @property
    def files(self) -> RunFolder:
        """Names of its files."""
        return RunFolder(self.folder)

    def job(self, **changes: object) -> Job:
        """The job that computes it, but for where; `changes` say where. Raises UserError where its spec is none."""
        own = {"stage": self.stage, "level": self.level, "inputs": self.inputs}
        try:
            return Job.model_validate(_ELSEWHERE | self.spec | own | changes)
        except (ValidationError, TypeError) as error:
            first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
            field = ".".join(map(str, first["loc"])) or "spec"
            raise UserError(f"{self.files.record}: states no spec of a run: {field}: {first['msg']}") from error

    def entries(self) -> Iterator[dict[str, Any]]:
        """The journal, an entry for each step from 1 on.

        Raises UserError at the line where its chain breaks, or that is not one of a journal.
        """
        path = self.files.steps
        if not path.is_file():
            raise UserError(f"{path} is missing: it holds the digest chain of the run")
        number = 0
        try:
            for number, entry in enumerate(read_steps(path, self.start), 1):
                Entry.model_validate(entry)
                if entry["step"] != number:
                    raise UserError(f"{path}:{number}: holds step {entry['step']}")
                yield entry
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise UserError(f"{path}:{number}: not a line of a journal: {field}: {first['msg']}") from error
        except (ValueError, TypeError, RecursionError) as error:  # what JSON can hold and no run writes
            raise UserError(f"{path}:{number + 1}: not a line of a digest chain ({error})") from error

    def results(self) -> Iterator[dict[str, Any]]:
        """The journal as one code alone would have written it: accepted changes of code are no result."""
        chain = self.start
        for entry in self.entries():
            kept = {key: value for key, value in entry.items() if key not in ("chain", "code_change")}
            chain = link(chain, kept)
            yield kept | {"chain": chain}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor, in the model's order, by name."""
        with torch.device("meta"):
            model = Transformer(Architecture.model_validate(self.spec["architecture"]), self.spec["vocab_size"])
        return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of a finished run. Raises UserError where the file is missing, torn, or another model's."""
        path = self.files.weights
        try:
            with safe_open(path, framework="pt") as file:
                if set(file.keys()) != set(self.shapes):
                    raise UserError(f"{path}: its tensors are not those of the architecture in its record")
                for name, shape in self.shapes.items():
                    tensor = file.get_tensor(name)
                    if tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
                        raise UserError(f"{path}: {name} is {tensor.dtype} {tuple(tensor.shape)}, not fp32 {shape}")
                    yield name, tensor
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: {error}") from error

    def checkpoints(self) -> dict[int, Path]:
        """Checkpoints on this machine that say they are this run's, by step: its own, and those that were kept."""
        own = checkpoint_files.find(self.files.checkpoints)
        scratch = load_settings().folder("scratch")
        paths: dict[int, Path] = {}
        for path in [*scratch.glob("*/checkpoints/step-*"), *scratch.glob("*/step-*"), *own]:
            try:
                if checkpoint_files.read_manifest(path)["run"] == self.start:
                    paths[checkpoint_files.step_of(path)] = path
            except checkpoint_files.DamagedError:
                continue  # it is looked at again, and reported, where it is asked for
        return dict(sorted(paths.items()))

    def copied(self, folder: Path) -> "RecordedRun":
        """The same run, its files copied to a folder that nobody else writes to: what is checked cannot change."""
        folder.mkdir(mode=0o700)
        names = ("record", "steps", "weights") if self.record else ("job", "steps")
        for name in names:
            source = getattr(self.files, name)
            if source.is_file():
                shutil.copyfile(source, folder / source.name)
        return read_run(folder)


def export_weights(run: RecordedRun, step: int | None, out: Path) -> int:
    """Write the weights after a step (none: the newest) of which there is a checkpoint, as one safetensors file.

    fp32, names as in the model. Returns the step. Raises UserError where there is no such checkpoint, or it is damaged.
    """
    paths = run.checkpoints()
    if not paths or (step is not None and step not in paths):
        there = f"there are those of {', '.join(map(str, paths))}" if paths else "there is none"
        raise UserError(f"{run.folder} has no checkpoint of {f'step {step}' if step else 'any step'}: {there}")
    step = max(paths) if step is None else step
    try:
        weights = dict(checkpoint_files.whole(paths[step], checkpoint_files.verify(paths[step])))
    except checkpoint_files.DamagedError as error:
        raise UserError(f"{paths[step]} is damaged: {error}") from error
    with replacing(out) as temporary:
        checkpoint_files.write_tensors(weights, temporary)
        temporary.chmod(0o644)  # safetensors leaves it to its owner alone
    return step


def read_run(folder: Path) -> RecordedRun:
    """The run in a folder: a finished one, or the scratch folder of one in progress.

    Raises UserError where it is neither.
    """
    files = RunFolder(folder)
    if files.record.is_file():
        record = read_object(files.record)
        try:
            stage, level, spec, inputs = (record[key] for key in ("stage", "declared_level", "spec", "inputs"))
            start = record["chain"]["start"]
        except (KeyError, TypeError) as error:
            raise UserError(f"{files.record} is not the record of a run: {error} is missing") from error
        if not (isinstance(spec, dict) and isinstance(inputs, dict) and isinstance(start, str)):
            raise UserError(f"{files.record} is not the record of a run: its spec, inputs or chain are of another kind")
        run = RecordedRun(folder, stage, level, spec, inputs, start, record)
        run.job()
        return run
    if files.job.is_file():
        try:
            job = Job.model_validate(read_object(files.job))
        except ValidationError as error:
            raise UserError(f"{files.job} is not the job of a run") from error
        return RecordedRun(folder, job.stage, job.level, job.spec, job.inputs, job.identity, None)
    raise UserError(f"{folder} is no run: it has neither record.json (finished) nor job.json (in progress)")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises UserError where there is none."""
    try:
        value = json.loads(path.read_bytes())
        canonical_json(value)  # NaN and half of a surrogate pair are no JSON
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a JSON object")
    return value
