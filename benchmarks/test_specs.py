"""Reading and comparing specs, and a pipeline with nothing to do."""

import itertools
import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from ruamel.yaml import YAML

from benchmarks.measuring.cost import cost
from benchmarks.measuring.measure import CLOCK, measure
from benchmarks.measuring.roofline import best_of
from benchmarks.studies.noop_pipeline import Fixed
from benchmarks.workloads.inputs import Inputs
from benchmarks.workloads.workloads import Work
from specs.loading.load import load_experiment
from specs.loading.settings import ROOT
from specs.review import compare

pytestmark = pytest.mark.benchmark(timer=CLOCK)

SPEC, OTHER = (ROOT / "specs" / "experiments" / name for name in ("code-34b.yaml", "smoke.yaml"))
DVC = str(Path(sys.executable).with_name("dvc"))


def files_of(spec: Path) -> list[Path]:
    """The experiment's file and every file that it includes."""
    seen: list[Path] = []

    def read(path: Path) -> str:
        seen.append(path)
        return path.read_text("utf-8")

    load_experiment(spec, read)
    return seen


def parsing(paths: list[Path]) -> float:
    """Seconds to parse the same files as YAML by the same library."""
    texts = [path.read_text("utf-8") for path in paths]
    return best_of(lambda: [YAML(typ="safe", pure=True).load(text) for text in texts])


def test_load(benchmark: BenchmarkFixture) -> None:
    paths = files_of(SPEC)
    turns = itertools.count()

    def load() -> None:
        # Parsed files are remembered by their text: another comment makes them new.
        turn = f"\n# {next(turns)}\n"
        load_experiment(SPEC, lambda path: path.read_text("utf-8") + turn)

    work = Work(load, len(paths), "files")
    measure(benchmark, work, lambda: parsing(paths), "bare YAML parsing")


def test_diff(benchmark: BenchmarkFixture) -> None:
    paths = [*files_of(SPEC), *files_of(OTHER)]
    # Files that are already parsed: as in a range of revisions, where most are the same.
    work = Work(lambda: compare.compare([str(SPEC), str(OTHER)]), 1, "comparisons")
    measure(benchmark, work, lambda: parsing(paths), "bare YAML parsing")


def test_repro_with_nothing_to_do(benchmark: BenchmarkFixture, inputs: Inputs, tmp_path: Path) -> None:
    pipeline = Fixed(tmp_path / "project", DVC)
    work = Work(pipeline.repro, len(pipeline.stages), "stages")
    least = [sys.executable, "-c", "from dvc.repo import Repo; Repo('.')"]
    measure(benchmark, work, lambda: cost(lambda: pipeline.run(*least)).cpu, "opening DVC's repository", rounds=3)
