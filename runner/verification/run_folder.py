"""A run as it lies on disk, finished or in progress: what it was meant to compute, and what it left behind."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.decoder.transformer import Transformer
from runner.training import checkpoint_files
from runner.training.digests import read_steps, row_digests, tensor_digest
from runner.training.job import Job
from specs.common.errors import UserError
from specs.common.files import digest_json, replacing, sha256_file
from specs.common.run_folder import RunFolder
from specs.loading.settings import load_settings
from specs.schema.training import Architecture


@dataclass(frozen=True)
class History:
    """One run. Nothing in it is believed before `inconsistencies` was asked."""

    folder: Path
    stage: str
    level: str
    """Declared by the spec."""
    spec: dict[str, Any]
    """Architecture, vocabulary, training section, steps and threads: all that shapes the bits, but for the inputs."""
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

    def entries(self) -> Iterator[dict[str, Any]]:
        """The journal, a line for each step. Raises UserError where its chain breaks."""
        path = self.files.steps
        if not path.is_file():
            raise UserError(f"{path} is missing: it holds the digest chain of the run")
        return read_steps(path, self.start)

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
                    raise UserError(
                        f"{path}: its tensors are not those of the architecture in {self.files.record.name}"
                    )
                for name in self.shapes:
                    yield name, file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: {error}") from error

    def checkpoints(self) -> dict[int, Path]:
        """Checkpoints of this run that are still on this machine, by step: its own, and those that were kept."""
        own = checkpoint_files.find(self.files.checkpoints)
        scratch = load_settings().folder("scratch")
        found: dict[int, Path] = {}
        for path in [*scratch.glob("*/checkpoints/step-*"), *scratch.glob("*/step-*"), *own]:
            try:
                if checkpoint_files.read_manifest(path)["run"] == self.start:
                    found[checkpoint_files.step_of(path)] = path
            except checkpoint_files.DamagedError:
                continue  # it is looked at again, and reported, where it is asked for
        return dict(sorted(found.items()))

    def inconsistencies(self) -> Iterator[str]:
        """What in this run contradicts itself: each a line. None means that it is at least as it was recorded."""
        if digest_json(self.spec | {"inputs": self.inputs}) != self.start:
            yield f"{self.folder}: its chain does not begin with the digest of its spec and inputs"
        count, last, changes = 0, dict[str, Any](chain=self.start), []
        try:
            for count, last in enumerate(self.entries(), 1):
                changes += [{"step": last["step"]} | last["code_change"]] if "code_change" in last else []
                if last["step"] != count:
                    yield f"{self.files.steps}:{count}: holds step {last['step']}"
                    return
        except UserError as error:
            yield str(error)
            return
        if self.record is None:
            return
        if count != self.spec["steps"]:
            yield f"{self.files.steps} has {count} steps instead of {self.spec['steps']}"
        elif last["chain"] != self.record["chain"]["end"]:
            yield f"{self.files.steps} ends with another chain than {self.files.record.name} states"
        elif changes != self.record.get("code_changes", []):
            yield f"{self.files.record} states other changes of code than {self.files.steps.name}"
        elif last["digests"]["value"] != self.record["tensors"]:
            yield f"{self.files.record} states other tensors than the last step has"
        yield from self._wrong_weights(self.record)

    def _wrong_weights(self, record: dict[str, Any]) -> Iterator[str]:
        path = self.files.weights
        if not path.is_file():
            yield f"{path} is missing"
        elif sha256_file(path) != record["model"]:
            try:
                wrong = [n for n, w in self.weights() if tensor_digest(w.shape, row_digests(w)) != record["tensors"][n]]
            except UserError as error:
                yield str(error)
                return
            which = f"; other values in {', '.join(wrong[:3])}{' and more' if len(wrong) > 3 else ''}" if wrong else ""
            yield f"{path} has another sha256 than {self.files.record.name} states{which}"


def export_weights(run: History, step: int | None, out: Path) -> int:
    """Write the weights after a step (none: the newest) of which there is a checkpoint, as one safetensors file.

    fp32, names as in the model. Returns the step. Raises UserError where there is no such checkpoint, or it is damaged.
    """
    held = run.checkpoints()
    if not held or (step is not None and step not in held):
        there = f"there are those of {', '.join(map(str, held))}" if held else "there is none"
        raise UserError(f"{run.folder} has no checkpoint of {f'step {step}' if step else 'any step'}: {there}")
    step = max(held) if step is None else step
    try:
        weights = dict(checkpoint_files.whole(held[step], checkpoint_files.verify(held[step])))
    except checkpoint_files.DamagedError as error:
        raise UserError(f"{held[step]} is damaged: {error}") from error
    with replacing(out) as temporary:
        checkpoint_files.write_tensors(weights, temporary)
        temporary.chmod(0o644)  # safetensors leaves it to its owner alone
    return step


def read_history(folder: Path) -> History:
    """The run in a folder: a finished one, or the scratch folder of one in progress.

    Raises UserError where it is neither.
    """
    files = RunFolder(folder)
    if files.record.is_file():
        record = _json(files.record)
        try:
            facts = record["stage"], record["declared_level"], record["spec"], record["inputs"]
            return History(folder, *facts, record["chain"]["start"], record)
        except (KeyError, TypeError) as error:
            raise UserError(f"{files.record} is not the record of a run: {error} is missing") from error
    if files.job.is_file():
        try:
            job = Job.model_validate(_json(files.job))
        except ValidationError as error:
            raise UserError(f"{files.job} is not the job of a run") from error
        spec = job.model_dump(mode="json", include={"architecture", "vocab_size", "training", "steps", "threads"})
        return History(folder, job.stage, job.level, spec, job.inputs, job.identity, None)
    raise UserError(
        f"{folder} is no run: it has neither {files.record.name} (finished) nor {files.job.name} (in progress)"
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a JSON object")
    return value
