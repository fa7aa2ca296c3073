"""pass@k without bias, and how far it may be off: a bootstrap over problems."""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

RESAMPLES = 10_000


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Chance that one of k samples or more passes, estimated without bias from `passed` of `samples`.

    1 - C(n - c, k) / C(n, k) of Chen et al. (2021, eq. 1), as a product that cannot overflow. Raises ValueError where
    k or `passed` is out of range.
    """
    if not 1 <= k <= samples or not 0 <= passed <= samples:
        raise ValueError(f"pass@{k} of {passed} passes in {samples} samples is not defined")
    failing = 1.0
    for i in range(samples - passed + 1, samples + 1):
        failing *= max(0.0, 1 - k / i)
    return 1 - failing


def interval(values: Sequence[float], seed: str, confidence: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of one value for each problem; problems are drawn with replacement.

    The draws are a pure function of `seed`. Raises ValueError where there are no values.
    """
    if not values:
        raise ValueError("an interval needs at least one problem")
    means = np.sort(_resampled_means(np.asarray(values, dtype=np.float64), seed))
    outside = (1 - confidence) / 2
    low, high = (round(share * (RESAMPLES - 1)) for share in (outside, 1 - outside))
    return float(means[low]), float(means[high])


def _resampled_means(values: npt.NDArray[np.float64], seed: str) -> npt.NDArray[np.float64]:
    key = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:16], "little")
    # Raw words of Philox are the same in every version of numpy; its bounded integers are not promised to be.
    words = np.random.Philox(key=key)
    means = np.empty(RESAMPLES)
    for start in range(0, RESAMPLES, 1000):
        drawn = words.random_raw(1000 * len(values)) % len(values)
        means[start : start + 1000] = values[drawn.reshape(1000, -1).astype(np.int64)].mean(axis=1)
    return means
