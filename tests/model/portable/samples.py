"""Numbers for the tests of level portable."""

import numpy as np
import torch
from torch import Tensor


def tensor(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0, spread: float = 1.0) -> Tensor:
    """Normal numbers; their exponents are spread by so many powers of two, and some are zeros of either sign."""
    rng = np.random.default_rng(seed)
    values = np.array(rng.normal(size=shape) * 2.0 ** rng.uniform(-spread, spread, shape))
    values[rng.random(shape) < 0.05] = 0.0
    values[rng.random(shape) < 0.02] = -0.0
    return torch.from_numpy(values.astype(np.float32)).to(dtype)
