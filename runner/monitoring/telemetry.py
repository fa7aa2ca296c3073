"""What a run took on this machine, live and on disk: never an input of anything, and never tracked."""

import contextlib
import json
import resource
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from runner.monitoring.profiler import Profiler
from specs.common.files import write_json
from specs.common.progress import Progress


class Telemetry:
    """Throughput and losses of a run: a progress line, `telemetry.jsonl` and TensorBoard events in one folder, and the
    trace of a window of steps where `trace` gives its first and last.

    Rank 0 gets a folder; other ranks get none and stay silent. Where the folder cannot be written, a warning says so
    once, nothing more is written, and training goes on.
    """

    def __init__(
        self,
        folder: Path | None,
        label: str,
        steps: int,
        tokens_per_step: int,
        flops_per_step: float,
        peak: float | None,
        trace: Sequence[int] | None = None,
    ) -> None:
        self.folder, self.label, self.steps = folder, label, steps
        self.tokens_per_step, self.flops_per_step = tokens_per_step, flops_per_step
        self.peak = peak
        """Peak operations per second of all devices together; none where utilisation means nothing."""
        self._progress: Progress | None = None
        self._files: _Files | None = None
        self._failed = False
        self._profiler = Profiler(folder, *trace) if folder and trace else None

    def begin(self, first: int) -> None:
        """Open the files; `first` steps were done by earlier processes."""
        self._started, self._first, self._done = time.monotonic(), first, first
        if self.folder is None:
            return
        self._progress = Progress(self.label, self.steps, "steps").__enter__()
        self._progress.resume(first)
        with self._harmless():
            self._files = _Files(self.folder, first)
            if self._profiler:
                self._profiler.before(first + 1)

    def step(self, entry: dict[str, Any], seconds: float, waited: float) -> None:
        """Note a finished step: its journal entry, its wall time, and the part of it that waited for data."""
        self._done = entry["step"]
        if self.folder is None:
            return
        rate = self.tokens_per_step / seconds
        with self._harmless():
            if self._profiler:
                self._profiler.after(self._done)
                self._profiler.before(self._done + 1)
            numbers = {key: value for key, value in entry.items() if isinstance(value, (int, float))}
            numbers |= {"seconds": seconds, "tokens_per_second": rate, "data_wait": waited / seconds}
            numbers["memory_bytes"] = _peak_memory()
            if self.peak:
                numbers["flops_utilisation"] = self.flops_per_step / seconds / self.peak
            if self._files:
                self._files.write(numbers)
        if self._progress:
            self._progress.advance(note=f"loss {entry['loss']:.3f}, {rate:,.0f} tokens/s")

    def summary(self) -> dict[str, object]:
        """Throughput of this process as a whole, saving and measuring included."""
        seconds = time.monotonic() - self._started
        tokens = (self._done - self._first) * self.tokens_per_step
        return {
            "steps": self._done - self._first,
            "seconds": round(seconds, 3),
            "tokens_per_second": tokens / seconds,
            "flops_per_token": self.flops_per_step / self.tokens_per_step,
        }

    def note(self, name: str, facts: dict[str, Any]) -> None:
        """Write facts about the run to a file of the folder, as JSON."""
        if self.folder is not None:
            with self._harmless():
                write_json(self.folder / name, facts)

    def close(self) -> None:
        """Close the files and the progress line."""
        with self._harmless():
            if self._profiler:
                self._profiler.close()
        with self._harmless():
            if self._files:
                self._files.close()
        if self._progress:
            self._progress.__exit__(None, None, None)

    @contextlib.contextmanager
    def _harmless(self) -> Iterator[None]:
        """Let what goes wrong inside end the telemetry, not the training."""
        try:
            yield
        except Exception as error:  # whatever a disk, TensorBoard or the profiler raise
            if not self._failed:
                print(f"{self.folder}: no more telemetry of this run: {error}", file=sys.stderr, flush=True)
            files, self._files, self._profiler, self._failed = self._files, None, None, True
            if files:
                with contextlib.suppress(Exception):
                    files.close()


class _Files:
    """`telemetry.jsonl` and TensorBoard events in a folder; written anew where no step was done before."""

    def __init__(self, folder: Path, first: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TensorBoard's own imports warn
            from torch.utils.tensorboard import SummaryWriter
        folder.mkdir(parents=True, exist_ok=True)
        if first == 0:
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
        self._lines = (folder / "telemetry.jsonl").open("a" if first else "w", encoding="utf-8")
        self._board = SummaryWriter(str(folder), purge_step=first + 1 if first else None)

    def write(self, numbers: dict[str, Any]) -> None:
        """Add a step."""
        self._lines.write(json.dumps(numbers) + "\n")
        self._lines.flush()
        for key, value in numbers.items():
            if key != "step":
                self._board.add_scalar(key, value, numbers["step"])

    def close(self) -> None:
        """Flush and close all."""
        try:
            self._lines.close()
        finally:
            self._board.close()


def _peak_memory() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
