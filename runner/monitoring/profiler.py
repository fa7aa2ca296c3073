"""Torch's profiler over a window of steps, as a trace that Perfetto or chrome://tracing opens."""

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


class Profiler:
    """Traces the steps from `first` to `last` of one rank into `trace-steps-FIRST-LAST.json` of a folder."""

    def __init__(self, folder: Path, first: int, last: int) -> None:
        self.folder, self.first, self.last = folder, first, last
        self._running: profile | None = None

    def before(self, step: int) -> None:
        """Begin to trace where the window begins, or where a run resumes inside it."""
        if self._running is None and self.first <= step <= self.last:
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
            self._running = profile(activities=activities)
            self._running.start()

    def after(self, step: int) -> None:
        """Write the trace at the end of the window."""
        if step == self.last:
            self.close()

    def close(self) -> None:
        """Write what was traced, if anything was."""
        if self._running is not None:
            self._running.stop()
            path = self.folder / f"trace-steps-{self.first}-{self.last}.json"
            self._running.export_chrome_trace(str(path))
            self._running = None
