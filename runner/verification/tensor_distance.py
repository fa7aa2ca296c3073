"""How far two tensors, or two numbers, lie from each other: in units in the last place, and by relative norm."""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class TensorDifference:
    """How one tensor differs in two runs."""

    name: str
    elements: int
    """Elements whose bits differ."""
    of: int
    largest: int
    """Largest distance in units in the last place."""
    index: tuple[int, ...]
    """Where that is."""


def tensor_differences(
    one: Iterator[tuple[str, Tensor]], other: Iterator[tuple[str, Tensor]]
) -> Iterator[TensorDifference]:
    """Compare fp32 tensors that come by name in the same order; those that are equal are left out."""
    for (name, a), (_, b) in zip(one, other, strict=True):
        distance = np.abs(_ordered(a) - _ordered(b))
        # Zero and minus zero are no distance apart, and yet not equal.
        count = int((a.numpy().view(np.int32) != b.numpy().view(np.int32)).sum())
        if count:
            index = tuple(int(i) for i in np.unravel_index(int(distance.argmax()), distance.shape))
            yield TensorDifference(name, count, distance.size, int(distance.max()), index)


def relative_norms(
    one: Iterator[tuple[str, Tensor]], other: Iterator[tuple[str, Tensor]]
) -> Iterator[tuple[str, float]]:
    """Norm of the difference over the norm of the second, of fp32 tensors that come by name in the same order.

    Infinite where the difference is not finite, or the second is zero and the first is not.
    """
    for (name, a), (_, b) in zip(one, other, strict=True):
        difference, size = float((a.double() - b.double()).norm()), float(b.double().norm())
        ratio = difference / size if size else (0.0 if difference == 0 else math.inf)
        yield name, ratio if math.isfinite(ratio) else math.inf


def relative_difference(a: float, b: float) -> float:
    """Distance of two numbers over the larger of their sizes: 0 where they are equal."""
    return abs(a - b) / max(abs(a), abs(b)) if a != b else 0.0


def ulps(a: float, b: float) -> int:
    """How many fp64 numbers lie from one to the other."""

    def ordinal(x: float) -> int:
        (bits,) = struct.unpack("<q", struct.pack("<d", x))
        return int(bits) if bits >= 0 else -(2**63) - int(bits)

    return abs(ordinal(a) - ordinal(b))


def _ordered(tensor: Tensor) -> Any:
    """Ordinals of fp32 numbers among all of them, int64: neighbours are one apart."""
    bits = tensor.numpy().view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(2**31) - bits, bits)
