"""Processor time of the commands that a reviewer waits for, beside bare imports of the libraries that they use.

    pytest benchmarks/test_review.py -p benchmark

`import pydantic` alone loads almost nothing (its names are imported lazily), so that what one model of one field costs
is told too.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.measuring.cost import cost
from benchmarks.measuring.measure import CLOCK, measure
from benchmarks.workloads.workloads import Work
from specs.loading.settings import ROOT

pytestmark = pytest.mark.benchmark(timer=CLOCK)

PYTHON, TWICE = sys.executable, str(Path(sys.executable).with_name("twice"))
IMPORTS = [PYTHON, "-c", "import pydantic, click, ruamel.yaml"]
ONE_MODEL = [
    PYTHON,
    "-c",
    "import click\nfrom pydantic import BaseModel, Field, ValidationError, model_validator\n"
    "from ruamel.yaml import YAML\nclass A(BaseModel):\n    x: int = Field(ge=1)",
]
COMMANDS = {
    "check smoke": ["check", "smoke.yaml"],
    "check code-34b": ["check", "code-34b.yaml"],
    "diff code-34b smoke": ["diff", "code-34b.yaml", "smoke.yaml"],
    "diff HEAD:code-34b code-34b": ["diff", "HEAD:specs/experiments/code-34b.yaml", "code-34b.yaml"],
}
ROUNDS = 20

Run = Callable[[list[str]], None]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a command among a copy of the specs."""
    shutil.copytree(ROOT / "specs", tmp_path / "specs", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    environment = dict(os.environ)
    # Python keeps the byte code of what it imports, unless it is told not to.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def run(command: list[str]) -> None:
        folder = tmp_path / "specs" / "experiments"
        done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=False)
        assert done.returncode in (0, 1)

    return run


def test_one_model(benchmark: BenchmarkFixture, run: Run) -> None:
    work = Work(lambda: run(ONE_MODEL), 1, "commands")
    measure(benchmark, work, lambda: cost(lambda: run(IMPORTS)).cpu, "bare imports", rounds=ROUNDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_command(benchmark: BenchmarkFixture, run: Run, command: str) -> None:
    work = Work(lambda: run([TWICE, *COMMANDS[command]]), 1, "commands")
    measure(benchmark, work, lambda: cost(lambda: run(IMPORTS)).cpu, "bare imports", rounds=ROUNDS)
