"""The two sums of training, by their definitions: what `runner.training.reduction` must give."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from torch import Tensor

Leaf = TypeVar("Leaf", np.ndarray, Tensor)


def tree(leaves: Sequence[Leaf]) -> Leaf:
    """The sum over micro-batches: as many leaves as the largest power of two below their number, plus the rest."""
    if len(leaves) == 1:
        return leaves[0]
    left = 1 << (len(leaves) - 1).bit_length() - 1
    return tree(leaves[:left]) + tree(leaves[left:])


def halve(values: np.ndarray) -> np.ndarray:
    """Sum over the last axis: the second half onto the first, an odd last one carried along."""
    while (n := values.shape[-1]) > 1:
        folded = values[..., : n // 2] + values[..., n // 2 : n // 2 * 2]
        values = np.concatenate([folded, values[..., n // 2 * 2 :]], axis=-1)
    return values[..., 0]
