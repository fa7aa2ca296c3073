"""The pipeline file against the code that it runs."""

import ast
import functools
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
# What a stage may import beside the code that `dvc.yaml` names for it, and why it cannot change a bit of the result.
NEUTRAL = {
    "specs.common": "errors, whole files, progress; canonical JSON, whose bytes tests hold",
    "specs.loading": "values reach a stage through the lock",
    "specs.schema": "values and defaults reach a stage through the lock; the rest is defined by them",
    "specs.pipeline": "brings values from the lock, which is compared value by value; names and keeps state",
    "runner.launching": "where ranks run",
    "runner.monitoring": "what is told of a run",
}
# Of these rooms, what writes a part of a result.
WRITES = {"specs.pipeline.ledger", "specs.pipeline.identity"}
# The ledger comes with `specs.pipeline.stage`, which every stage imports: these write none.
WITHOUT_LEDGER = ("data_pipeline.card", "runner.pretrain", "runner.finetune", "runner.report")


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


def closure(module: str, imports: grimp.ImportGraph) -> set[str]:
    """Modules that a stage may run: what it imports, inside functions too, and what it starts as a program."""
    found, new = set[str](), {module}
    while new:
        found |= new
        new = {name for each in new for name in imports.find_upstream_modules(each) | started(each, imports)} - found
    return found


def started(module: str, imports: grimp.ImportGraph) -> set[str]:
    """Modules that the code of one names in a string: by name, as a file beside it, or as the start of an f-string."""
    named, package = strings(module), module.rpartition(".")[0]
    beside = {f"{package}.{text.removesuffix('.py')}" for text in named if text.endswith(".py")}
    begun = tuple(text for text in named if text.startswith(ROOMS) and text.endswith("."))
    return (named | beside | {name for name in imports.modules if name.startswith(begun)}) & imports.modules


@functools.cache
def strings(module: str) -> set[str]:
    path = ROOT / f"{module.replace('.', '/')}.py"
    nodes = ast.walk(ast.parse(path.read_text("utf-8"))) if path.exists() else ()
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def needed(module: str, imports: grimp.ImportGraph) -> set[str]:
    """Modules whose code may decide what a stage makes: not those of neutral rooms, nor the docstrings of packages."""
    runs = closure(module, imports)
    packages = {name for name in runs if (ROOT / name.replace(".", "/")).is_dir()}
    unused = {"specs.pipeline.ledger"} if module in WITHOUT_LEDGER else set()
    neutral = {name for name in runs - WRITES if any(covers(room, name) for room in NEUTRAL)}
    return runs - packages - unused - neutral


@pytest.mark.parametrize(("stage", "module"), [(s, m) for _, s, m in stages()], ids=[name for name, _, _ in stages()])
def test_a_stage_depends_on_every_room_that_it_runs(
    stage: dict[str, Any], module: str, imports: grimp.ImportGraph
) -> None:
    rooms = [path.removesuffix(".py").replace("/", ".") for path in stage["deps"] if not path.startswith("artifacts")]
    runs = needed(module, imports)
    assert [name for name in runs if not any(covers(room, name) for room in rooms)] == []
    assert [room for room in rooms if not any(covers(room, name) for name in runs)] == []
    # Where of a room one module alone is run, that file is the dependency: the rest of the room does not re-run it.
    for room in rooms:
        of_room = {name for name in imports.modules if covers(room, name) and name != room}
        assert len(of_room) <= 1 or len(of_room & runs) > 1, f"{room}: only {of_room & runs}"


def test_the_closure_of_a_stage_holds_what_it_imports_late_and_what_it_starts(imports: grimp.ImportGraph) -> None:
    score = closure("evaluation.score", imports)
    assert {"evaluation.sandbox.server", "evaluation.sandbox.drop_root", "evaluation.sandbox.confinement"} <= score
    assert "runner.training.worker" in closure("runner.pretrain", imports)
    # `worker` imports `rank` inside its main block alone.
    assert {"runner.training.rank", "model.decoder.attention"} <= closure("runner.training.worker", imports)
    assert "data_pipeline.sources.doctest_runner" in closure("data_pipeline.ingest", imports)


@pytest.mark.parametrize("room", NEUTRAL)
def test_what_changes_no_bit_is_still_there_and_used(room: str, imports: grimp.ImportGraph) -> None:
    used = set[str]().union(*(closure(module, imports) for _, _, module in stages()))
    assert any(covers(room, name) for name in used)


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
