"""How the suites are run and what is told of them: shares of limits, units a second, memory, the machine."""

import os
from importlib.metadata import distributions
from typing import Any

# Thread pools are made at import: how many there are must be settled before.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from benchmarks.measuring.cost import adopt_orphans
from benchmarks.measuring.machine import facts
from benchmarks.workloads.inputs import Inputs, prepare
from specs.common.tables import number, size, table

VERSIONS = ("daft", "dvc", "numpy", "pyarrow", "pydantic", "sentencepiece", "tensorstore", "torch")


@pytest.fixture(scope="session", autouse=True)
def _working_folders(tmp_path_factory: pytest.TempPathFactory) -> None:
    adopt_orphans()
    os.environ["TWICE_MEASURED"] = str(tmp_path_factory.mktemp("measured"))


@pytest.fixture(scope="session")
def inputs() -> Inputs:
    return prepare()


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info.pop("node", None)
    machine_info["cpu"] = facts()
    found = {each.metadata["Name"]: each.version for each in distributions()}
    machine_info["versions"] = {name: found[name] for name in VERSIONS if name in found}


def pytest_benchmark_scale_unit(
    config: pytest.Config, unit: str, benchmarks: object, best: object, worst: object, sort: object
) -> tuple[str, float]:
    # What the clock of `measure` counts is no time any more: see there.
    return "limits, not " if unit == "seconds" else "", 1.0


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    session = getattr(config, "_benchmarksession", None)
    found = [bench for bench in session.benchmarks if "efficiency" in bench.extra_info] if session else []
    if not found:
        return
    rows = [["suite", "", "", "of the limit", "which is", "peak memory"]]
    for bench in found:
        told = bench.extra_info
        rate = told["rate"]
        shown = number(round(rate, 1) if rate >= 10 else float(f"{rate:.3g}"))
        name = bench.fullname.split("/")[-1].replace("::test", "")
        share = f"{told['efficiency']:.1%}"
        rows.append([name, shown, f"{told['unit']}/s", share, told["limit"], size(told["peak_memory"])])
    terminalreporter.section("by processor time")
    for line in table(rows, (1, 3, 5)):
        terminalreporter.write_line(line)
