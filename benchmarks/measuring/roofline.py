"""What this machine can do at best, measured in this process, in seconds of processor time."""

import io
import os
import tempfile
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np

from benchmarks.measuring.cost import cost
from specs.estimates.counts import parameters
from specs.schema.training import Architecture


def best_of(run: Callable[[], object], times: int = 3) -> float:
    """Least processor seconds of a few runs: what disturbs only ever adds."""
    return min(cost(run).cpu for _ in range(times))


def copying(size: int) -> float:
    """Seconds to copy so many bytes in memory."""
    source = np.zeros(size, np.uint8)
    target = np.empty_like(source)
    return best_of(lambda: np.copyto(target, source))


def scanning(texts: Sequence[str]) -> float:
    """Seconds to split texts into words once: what anything that looks at their words must do."""
    import re

    word = re.compile(r"\w+")
    return best_of(lambda: [word.findall(text) for text in texts], 2)


def writing(size: int, folder: Path) -> float:
    """Seconds to write so many bytes to one file, flush it, and take their sha256."""
    # Zeros would all lie in one page of memory, which is read faster than any others.
    block = np.random.default_rng(1).bytes(2**20)
    data = memoryview(block * (size // len(block) + 1))[:size]

    def write() -> None:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(data)
            sha256(data)
            file.flush()
            os.fsync(file.fileno())

    return best_of(write, 2)


def reading(path: Path) -> float:
    """Seconds to read a file whole, from the page cache, and take its sha256."""
    buffer = memoryview(bytearray(path.stat().st_size))

    def read() -> None:
        with io.FileIO(path) as file:
            file.readinto(buffer)
            sha256(buffer)

    return best_of(read)


def multiplying(flops: float, bf16: bool, side: int = 1_024) -> float:
    """Seconds for so many floating-point operations in large square matrix products, on torch's threads."""
    import torch

    dtype = torch.bfloat16 if bf16 else torch.float32
    a, b = (torch.randn(side, side).to(dtype) for _ in range(2))
    return best_of(lambda: a @ b, 10) * flops / (2 * side**3)


def operations(architecture: Architecture, vocab_size: int, prompt: int, tokens: int) -> float:
    """Floating-point operations in matrix products that one sampled answer needs: 2 for each weight that an id meets.

    Attention, which has no weights, and logits of all but the prompt's last id are left out.
    """
    weights = parameters(architecture, vocab_size)
    layers, output = weights.attention + weights.feed_forward, architecture.d_model * vocab_size
    return 2.0 * (layers * (prompt + tokens - 1) + output * tokens)


def running(programs: Sequence[str]) -> float:
    """Seconds to execute Python programs here, one after the other, protected from nothing."""

    def run() -> None:
        for program in programs:
            exec(program, {"__name__": "limit"})

    return best_of(run, 2)
