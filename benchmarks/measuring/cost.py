"""Processor time of a piece of work and of everything that it starts, and the most memory that it held."""

import contextlib
import ctypes
import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Cost:
    """What one round took."""

    cpu: float
    """Seconds of user and system time, over all threads and all processes that ended in it."""
    wall: float
    """Seconds."""


def adopt_orphans() -> None:
    """Have processes whose parent ended come to this one, so that their time is counted here.

    A sandbox is ended by ending its outermost process: without this, what ran inside would be nobody's.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def cost(run: Callable[[], object]) -> Cost:
    """Run once. Processes that the work leaves behind are waited for: it must own every child of this process."""
    before, began = _used(), time.perf_counter()
    run()
    wall = time.perf_counter() - began
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    return Cost(_used() - before, wall)


def own(run: Callable[[], object]) -> float:
    """Run once; processor seconds of this process alone, where it has children that stay."""
    began = time.process_time()
    run()
    return time.process_time() - began


def _used() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def forget_peak() -> None:
    """Begin anew to watch the most memory that this process holds (Linux 4.0 on)."""
    Path("/proc/self/clear_refs").write_text("5", "utf-8")


def peak_memory() -> int:
    """Bytes that this process held at most since `forget_peak`."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
