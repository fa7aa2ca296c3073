"""One way to measure: each round beside the limit, measured just before it in the same process, in the same clock.

What pytest-benchmark then holds are multiples of the limit's time: 1 is perfect, 2 is half of what the machine can do.
So `--benchmark-compare-fail=median:20%` compares efficiency, which another machine, or a busy one, changes little.
"""

from collections.abc import Callable

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.measuring.cost import Cost, cost, forget_peak, peak_memory
from benchmarks.workloads.workloads import Work

ROUNDS = 5


class Clock:
    """Reads what was last put on it; pytest-benchmark takes the difference of two readings."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """The reading."""
        return self.now


CLOCK = Clock()
"""Give it to pytest-benchmark: `pytestmark = pytest.mark.benchmark(timer=CLOCK)`."""


def measure(
    benchmark: BenchmarkFixture,
    work: Work,
    limit: Callable[[], float],
    called: str,
    *,
    rounds: int = ROUNDS,
    by: Callable[[Cost], float] = lambda cost: cost.cpu,
) -> float:
    """Efficiency in the median round.

    `limit` answers the least seconds that a round's work could take on this machine, as measured now, and `called` says
    what it measures. `by` is the time that counts: the processor's, or the wall's for work of several processes or of a
    device.
    """
    took: list[Cost] = []
    unit = 0.0

    def before() -> None:
        nonlocal unit
        work.before()
        unit = limit()

    def run() -> None:
        took.append(cost(work.run))
        CLOCK.now += by(took[-1]) / unit

    forget_peak()
    benchmark.pedantic(run, setup=before, rounds=rounds, warmup_rounds=1)  # type: ignore[no-untyped-call]
    assert benchmark.stats is not None
    efficiency = 1 / float(benchmark.stats.stats.median)
    typical = sorted(map(by, took[1:]))[rounds // 2]
    benchmark.extra_info |= {
        "unit": work.unit,
        "rate": work.amount / typical,
        "seconds": {"cpu": [each.cpu for each in took[1:]], "wall": [each.wall for each in took[1:]]},
        "efficiency": efficiency,
        "limit": called,
        "peak_memory": peak_memory(),
    }
    return efficiency
