"""Saving and restoring training state on every rank: whole or not at all, and while training goes on.

A save copies the state to the host's memory, and a thread of each rank writes it to `step-N.tmp` and flushes it. Once
every rank is done, at the end of a later step, the manifest is written, the folder renamed to `step-N`, and `latest`
points to it. When that is differs from run to run; what is saved, and what is computed, does not. What lies on disk:
`checkpoint_files`.
"""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import torch.distributed as dist
from torch import Tensor

from runner.training import checkpoint_files
from runner.training.checkpoint_files import DamagedError
from runner.training.journal import copy_start
from runner.training.optimizer import Optimizer
from runner.training.sharding import ShardedModel
from specs.common.files import digest_json, fsync_directory, fsync_tree, sha256_file, write_bytes, write_json
from specs.common.run_folder import RunFolder
from specs.pipeline.code import Code
from specs.schema import training


@dataclass(frozen=True)
class State:
    """Where a run was when a checkpoint was written."""

    step: int
    ranks: int
    """How many had written it."""
    steps_file: Path
    """The lines of `steps.jsonl` up to the step."""
    code_change: dict[str, str] | None
    """Digest of the code that wrote it, and of the one that was allowed to go on; none where they are the same."""


class Checkpoints:
    """The checkpoints of one run, in one folder that all ranks see. Every method is called by every rank."""

    def __init__(
        self,
        folder: Path,
        run: str,
        kept: training.Checkpoints,
        model: ShardedModel,
        optimizer: Optimizer,
        code: Code | None = None,
    ) -> None:
        self.folder, self.run, self.kept = folder, run, kept
        self._code, self._accepted = (code.digest, code.accepted) if code else ("", ())
        self.model, self.optimizer = model, optimizer
        self._lead = model.rank == 0
        self._writing: _Writing | None = None
        if self._lead:
            folder.mkdir(parents=True, exist_ok=True)

    def save(self, step: int, chain: str, steps_file: Path, steps_bytes: int) -> None:
        """Begin to save the state after a step, with the first bytes of the journal, which grows meanwhile.

        It is saved once `finish` returned, or `advance` was true.
        """
        self.finish()
        temporary = self.folder / f"step-{step}.tmp"
        if self._lead:
            for leftover in self.folder.glob("*.tmp"):
                shutil.rmtree(leftover, ignore_errors=True)
            temporary.mkdir()
        self._barrier()
        manifest = {
            "format": checkpoint_files.FORMAT,
            "run": self.run,
            "code": self._code,
            "step": step,
            "updates": self.optimizer.updates,
            "chain": chain,
            "ranks": self.model.ranks,
            "shapes": {shard.name: list(shard.shape) for shard in self.model.shards},
        }
        name = checkpoint_files.shard_name(self.model.rank, self.model.ranks)
        journal = (steps_file, steps_bytes) if self._lead else None
        self._writing = _Writing(temporary, manifest, self._copies(), name, journal)
        self._writing.start()

    def advance(self) -> bool:
        """Finish the save that is under way if every rank has written its part; returns whether none is left.

        Raises OSError where this rank could not write.
        """
        if self._writing is None:
            return True
        self._writing.raise_error()
        if all(self._gather(not self._writing.is_alive())):
            self.finish()
        return self._writing is None

    def finish(self) -> None:
        """Wait for the save that is under way, if any; then remove the checkpoints that are not to be kept.

        Raises OSError where this rank could not write.
        """
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        writing.join()
        writing.raise_error()
        files: dict[str, Any] = {}
        for entry in self._gather(writing.written):
            files |= entry
        if self._lead:
            manifest = writing.manifest | {"files": files}
            write_json(writing.folder / checkpoint_files.MANIFEST, manifest | {"digest": digest_json(manifest)})
            fsync_tree(writing.folder)
            target = writing.folder.with_suffix("")
            shutil.rmtree(target, ignore_errors=True)  # a run that fell back comes by the same step again
            writing.folder.rename(target)
            fsync_directory(self.folder)
            write_bytes(self.folder / "latest", f"{target.name}\n".encode())
            for old in checkpoint_files.find(self.folder)[self.kept.keep :]:
                if self.kept.keep_every is None or checkpoint_files.step_of(old) % self.kept.keep_every:
                    shutil.rmtree(old)
        self._barrier()

    def load(self) -> State | None:
        """Restore the newest checkpoint that is whole, or none. A damaged one is reported and set aside."""
        (candidates, *_) = self._gather([path.name for path in checkpoint_files.find(self.folder)])
        for name in candidates:
            folder = self.folder / name
            try:
                manifest = self._read(folder)
            except DamagedError as damage:
                if self._lead:
                    print(f"checkpoint {name} is damaged: {damage}; falling back", file=sys.stderr, flush=True)
                    aside = folder.with_name(f"{name}.damaged")
                    shutil.rmtree(aside, ignore_errors=True)
                    folder.rename(aside)
                self._barrier()
                continue
            self.optimizer.resume(manifest["updates"])
            change = {"from": manifest["code"], "to": self._code} if manifest["code"] != self._code else None
            return State(manifest["step"], manifest["ranks"], RunFolder(folder).steps, change)
        return None

    def _groups(self) -> dict[str, list[Tensor]]:
        values = [shard.values for shard in self.model.shards]
        return dict(zip(checkpoint_files.KINDS, (values, self.optimizer.first, self.optimizer.second), strict=True))

    def _copies(self) -> dict[str, Tensor]:
        return {
            f"{kind}/{shard.name}": tensor.detach().to("cpu", copy=True).contiguous()
            for kind, tensors in self._groups().items()
            for shard, tensor in zip(self.model.shards, tensors, strict=True)
        }

    def _read(self, folder: Path) -> dict[str, Any]:
        """Verify a checkpoint, then copy this rank's rows from it. Raises the same DamagedError on every rank.

        Nothing is copied before all hashes are found right on every rank.
        """
        manifest: dict[str, Any] = {}
        problem = ""
        try:
            manifest = self._manifest(folder)
            for name in list(manifest["files"])[self.model.rank :: self.model.ranks]:
                checkpoint_files.verify_file(folder, name, manifest["files"][name])
        except DamagedError as error:
            problem = str(error)
        self._agree(problem)
        groups, shards = self._groups(), {shard.name: i for i, shard in enumerate(self.model.shards)}
        try:
            ranges = {shard.name: (shard.start, shard.stop) for shard in self.model.shards}
            for kind, name, row, rows in checkpoint_files.pieces(folder, manifest, ranges):
                start = row - self.model.shards[shards[name]].start
                groups[kind][shards[name]][start : start + len(rows)] = rows.to(self.model.device)
        except DamagedError as error:
            problem = str(error)
        self._agree(problem)
        return manifest

    def _manifest(self, folder: Path) -> dict[str, Any]:
        manifest = checkpoint_files.read_manifest(folder)
        if manifest["run"] != self.run:
            raise DamagedError("it belongs to another run")
        if manifest["code"] not in (self._code, *self._accepted):
            raise DamagedError("other code wrote it")
        if manifest["shapes"] != {shard.name: list(shard.shape) for shard in self.model.shards}:
            raise DamagedError("its tensors are those of another model")
        return manifest

    def _agree(self, problem: str) -> None:
        if problems := [text for text in self._gather(problem) if text]:
            raise DamagedError(problems[0])

    def _gather(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.model.ranks
        dist.all_gather_object(values, value, group=self.model.group)
        return values

    def _barrier(self) -> None:
        dist.barrier(group=self.model.group)


class _Writing(Thread):
    """One rank's part of a save: writes it, flushes it, and hashes what lies on disk."""

    def __init__(
        self,
        folder: Path,
        manifest: dict[str, Any],
        tensors: dict[str, Tensor],
        name: str,
        journal: tuple[Path, int] | None,
    ) -> None:
        # A process that ends with a save under way leaves a folder that nobody reads.
        super().__init__(name=f"save {folder.name}", daemon=True)
        self.folder, self.manifest = folder, manifest
        self.written: dict[str, dict[str, Any]] = {}
        self._tensors, self._name, self._journal = tensors, name, journal
        self._error: Exception | None = None

    def run(self) -> None:
        """Write this rank's shards, and the journal where it is this rank's to write."""
        paths = [self.folder / self._name]
        try:
            checkpoint_files.write_tensors(self._tensors, paths[0])
            if self._journal:
                paths.append(RunFolder(self.folder).steps)
                copy_start(*self._journal, paths[1])
            for path in paths:
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                self.written[path.name] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
        except Exception as error:
            self._error = error
        finally:
            self._tensors = {}

    def raise_error(self) -> None:
        """Raise what the thread met, in the thread that asks."""
        if self._error is not None:
            raise self._error
