"""Divides work among threads; results do not depend on the pieces."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

VARIABLE = "TWICE_THREADS"
_chosen = 0
_local = threading.local()
_pool: tuple[int, ThreadPoolExecutor] | None = None


def use(count: int) -> None:
    """Compute with so many threads from now on."""
    global _chosen
    _chosen = count


def count() -> int:
    """Threads that this process computes with: TWICE_THREADS, or the number to `use`, or one for each core."""
    return int(os.environ.get(VARIABLE, 0)) or _chosen or cores()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def divide(work: Callable[[int, int], None], size: int, *, unit: int = 1, least: int = 1) -> None:
    """work(start, stop) over pieces of 0 to size, multiples of `unit`; no piece smaller than `least` but the last."""
    global _pool
    threads = min(count(), max(1, size // max(least, unit)))
    if threads == 1:
        work(0, size)
        return
    if _pool is None or _pool[0] < threads:
        _pool = threads, ThreadPoolExecutor(threads - 1, "kernels")
    per = -(-size // (threads * unit)) * unit
    others = [_pool[1].submit(work, start, min(start + per, size)) for start in range(per, size, per)]
    work(0, min(per, size))
    for other in others:
        other.result()


def scratch(name: str, count: int) -> int:
    """Address of this thread's own memory for so many 32-bit words, kept from call to call."""
    kept: dict[str, Tensor] = _local.__dict__.setdefault("kept", {})
    if name not in kept or kept[name].numel() < count:
        kept[name] = torch.zeros(count, dtype=torch.int32)
    return kept[name].data_ptr()
