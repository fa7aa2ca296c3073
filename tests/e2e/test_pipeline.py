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
# What moves, names and checks values; a change here changes no artifact.
PLUMBING = {f"specs.{name}" for name in ("errors", "lock", "loading", "nodes", "progress", "settings", "stage")}
# Schema and defaults reach a stage through the lock; how a number is derived from them does not.
SCHEMA = {
    "specs",
    *(
        f"specs.{n}"
        for n in ("data", "experiment", "files", "identity", "quantities", "section", "sources", "training")
    ),
}

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


def modules_of(stage: dict[str, Any]) -> set[str]:
    return {dep.removesuffix(".py").replace("/", ".") for dep in stage["deps"] if dep.endswith(".py")}


@pytest.fixture(scope="session")
def imports() -> grimp.ImportGraph:
    return grimp.build_graph(*ROOMS, cache_dir=None)


def needed(module: str, imports: grimp.ImportGraph) -> set[str]:
    """Modules whose code decides what a stage makes."""
    programs = {module, *STARTED.get(module, ())}
    runs = programs.union(*(imports.find_upstream_modules(program) for program in programs))
    return {name for name in runs - PLUMBING - SCHEMA if "." in name}


@pytest.mark.parametrize(("stage", "module"), [(s, m) for _, s, m in stages()], ids=[name for name, _, _ in stages()])
def test_a_stage_lists_every_module_that_it_runs(
    stage: dict[str, Any], module: str, imports: grimp.ImportGraph
) -> None:
    assert modules_of(stage) == needed(module, imports)


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
        for path in Path(ROOT / room).glob("*.py"):
            code = [
                line for line in path.read_text("utf-8").splitlines() if "Example" not in line and "epilog" not in line
            ]
            assert not re.search(r"[\"']artifacts/", "\n".join(code)), path
