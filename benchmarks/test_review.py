"""Processor time of the commands that a reviewer waits for, beside bare imports of the libraries that they use.

    pytest benchmarks/test_review.py -p benchmark

A command is asked with nothing kept, as on a fresh clone; after an edit, as in review; and again. `import pydantic`
alone loads almost nothing (its names are imported lazily), so that what one model of one field costs is told too.
"""

import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.cpu import cost
from benchmarks.measure import CLOCK, measure
from benchmarks.work import Work
from specs.settings import ROOT

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
    """Runs a command among a copy of the specs, with a scratch folder of its own."""
    shutil.copytree(ROOT / "specs", tmp_path / "specs", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    environment = {**os.environ, "TWICE_SCRATCH": str(tmp_path / "scratch")}
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


@pytest.mark.parametrize("asked", ["with nothing kept", "after an edit", "again"])
@pytest.mark.parametrize("command", COMMANDS)
def test_command(benchmark: BenchmarkFixture, run: Run, tmp_path: Path, command: str, asked: str) -> None:
    experiments = tmp_path / "specs" / "experiments"
    edited = next(experiments / name for name in COMMANDS[command] if (experiments / name).exists())
    text, turns = edited.read_text(), itertools.count()

    def before() -> None:
        if asked == "with nothing kept":
            shutil.rmtree(tmp_path / "scratch", ignore_errors=True)
        elif asked == "after an edit":
            changed, count = re.subn(r"(?m)^description: .*", f"description: edit {next(turns)}", text)
            assert count == 1
            edited.write_text(changed)

    def ask() -> None:
        run([TWICE, *COMMANDS[command]])

    work = Work(ask, 1, "commands", before)
    measure(benchmark, work, lambda: cost(lambda: run(IMPORTS)).cpu, "bare imports", rounds=ROUNDS)
