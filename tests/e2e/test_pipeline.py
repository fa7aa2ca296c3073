"""The pipeline file against the code that it runs."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grimp
import pytest
from ruamel.yaml import YAML

from specs.loading.settings import ROOT

ROOMS = ("specs", "data_pipeline", "model", "evaluation", "runner")
PIPELINE = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")
# Rooms that a stage imports and that cannot change a bit of what it makes.
NEUTRAL = {
    "specs.common": "errors, files and progress",
    "specs.loading": "values reach a stage through the lock",
    "specs.pipeline.code": "names state by the code that it belongs to",
    "specs.pipeline.dvc_graph": "reads dvc.yaml, to name that code",
    "specs.pipeline.lock": "the lock is compared value by value",
    "specs.pipeline.nodes": "values reach a stage through the lock",
    "specs.pipeline.stage": "where scratch lies and how a stage fails",
    "specs.schema": "values and defaults reach a stage through the lock",
    "specs.estimates.devices": "prices and peaks that utilisation is told against",
    "runner.launching": "where ranks run",
    "runner.monitoring": "what is told of a run",
}

# It comes with `specs.pipeline.stage`, which every stage imports: these write no ledger.
WITHOUT_LEDGER = ("data_pipeline.card", "runner.pretrain", "runner.finetune", "runner.report")

# Programs that a stage starts instead of importing them.
STARTED = {
    "runner.pretrain": ["runner.training.worker"],
    "runner.finetune": ["runner.training.worker"],
    "evaluation.score": [
        "evaluation.sandbox.server",
        "evaluation.sandbox.confinement",
        "evaluation.sandbox.drop_root",
        "evaluation.sandbox.object_proxy",
        "evaluation.sandbox.container",
        "evaluation.sandbox.seccomp",
    ],
}


def stages() -> Iterator[tuple[str, dict[str, Any], str]]:
    """Name, definition and module of each stage that runs one."""
    for name, entry in PIPELINE["stages"].items():
        stage = entry.get("do", entry)
        if found := re.match(r"python -m (\S+)", stage["cmd"]):
            yield name, stage, found[1]


def covers(room: str, module: str) -> bool:
    return module == room or module.startswith(f"{room}.")


@pytest.fixture(scope="session")
def imports() -> grimp.ImportGraph:
    return grimp.build_graph(*ROOMS, cache_dir=None)


def needed(module: str, imports: grimp.ImportGraph) -> set[str]:
    """Modules whose code may decide what a stage makes: not those of neutral rooms, nor the docstrings of packages."""
    programs = {module, *STARTED.get(module, ())}
    runs = programs.union(*(imports.find_upstream_modules(program) for program in programs))
    packages = {name for name in runs if (ROOT / name.replace(".", "/")).is_dir()}
    unused = {"specs.pipeline.ledger"} if module in WITHOUT_LEDGER else set()
    return {name for name in runs - packages - unused if not any(covers(room, name) for room in NEUTRAL)}


@pytest.mark.parametrize(("stage", "module"), [(s, m) for _, s, m in stages()], ids=[name for name, _, _ in stages()])
def test_a_stage_depends_on_every_room_that_it_runs(
    stage: dict[str, Any], module: str, imports: grimp.ImportGraph
) -> None:
    rooms = [path.removesuffix(".py").replace("/", ".") for path in stage["deps"] if not path.startswith("artifacts")]
    runs = needed(module, imports)
    assert [name for name in runs if not any(covers(room, name) for room in rooms)] == []
    assert [room for room in rooms if not any(covers(room, name) for name in runs)] == []


@pytest.mark.parametrize("module", sorted({module for _, _, module in stages()}))
def test_a_stage_explains_itself(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert "Example" in done.stdout
    assert "Usage" in done.stdout


def test_every_option_that_the_pipeline_gives_is_one_that_the_stage_takes() -> None:
    for _, stage, module in stages():
        given = {word for word in shlex.split(stage["cmd"]) if word.startswith("--")}
        source = (ROOT / (module.replace(".", "/") + ".py")).read_text("utf-8")
        assert all(f'"{option}"' in source for option in given), (module, given)


def test_every_stage_waits_for_a_fresh_lock() -> None:
    assert all("artifacts/lock.fresh" in stage["deps"] for _, stage, _ in stages())


def test_paths_of_artifacts_stand_in_the_pipeline_alone() -> None:
    for room in (*ROOMS, "benchmarks"):
        for path in Path(ROOT / room).rglob("*.py"):
            code = [
                line for line in path.read_text("utf-8").splitlines() if "Example" not in line and "epilog" not in line
            ]
            assert not re.search(r"[\"']artifacts/", "\n".join(code)), path
