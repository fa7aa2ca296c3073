"""What paired measurements on a noisy machine allow to say: a ratio, and how far it may be off."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 2_000
SEED = 1
COVERAGE = 0.95

Visit = Sequence[tuple[float, float]]
"""Pairs of (base, head) seconds that one pair of processes took in turns."""


@dataclass(frozen=True)
class Ratio:
    """How long the head takes, as a multiple of what the base takes, and the interval that holds it."""

    value: float
    low: float
    high: float

    def worse_than(self, tolerance: float) -> bool:
        """Whether the head is slower by more than the tolerance, and equality lies outside the interval."""
        return self.value > 1 + tolerance and self.low > 1


def ratio(visits: Sequence[Visit]) -> Ratio:
    """Median over all pairs of head / base, with a 95% interval.

    The two rounds of a pair follow on one another, so what slows the machine slows both, and a pair that was disturbed
    between them is an outlier that a median does not see. Pairs of one visit share two processes, and with them the
    layout of memory, so the bootstrap draws visits first and pairs within each (Davison and Hinkley, Bootstrap Methods
    and their Application, 1997, 3.8). The same numbers give the same interval. Raises ValueError where there is
    nothing to compare, or a time is not positive.
    """
    logs = [np.log(np.array([head / base for base, head in _checked(visit)])) for visit in visits]
    if not logs:
        raise ValueError("no visits")
    random = np.random.default_rng(SEED)
    drawn = np.array([_median(_resampled(logs, random)) for _ in range(RESAMPLES)])
    tail = 100 * (1 - COVERAGE) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail])
    value = _median(np.concatenate(logs))
    return Ratio(*(float(np.exp(each)) for each in (value, low, high)))


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The power of the size with which the cost grows: slope of the least-squares line through the logarithms.

    Raises ValueError for fewer than two sizes, or numbers that are not positive.
    """
    if len(set(sizes)) < 2 or min(*sizes, *costs) <= 0:
        raise ValueError("growth needs two sizes or more, and positive sizes and costs")
    slope, _ = np.polyfit(np.log(sizes), np.log(costs), 1)
    return float(slope)


def _checked(visit: Visit) -> Visit:
    if not visit or min(min(pair) for pair in visit) <= 0:
        raise ValueError("a visit needs pairs of positive times")
    return visit


def _resampled(logs: Sequence[npt.NDArray[np.float64]], random: np.random.Generator) -> npt.NDArray[np.float64]:
    visits = [logs[index] for index in random.integers(len(logs), size=len(logs))]
    return np.concatenate([visit[random.integers(len(visit), size=len(visit))] for visit in visits])


def _median(values: npt.NDArray[np.float64]) -> float:
    return float(np.median(values))
