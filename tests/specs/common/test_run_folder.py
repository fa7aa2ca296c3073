"""The names of a run's files: as they were published, and spelt in one module."""

import re
from pathlib import Path

import pytest

from specs.common.run_folder import RunFolder
from specs.loading.settings import ROOT

NAMES = {
    "weights": "model.safetensors",
    "steps": "steps.jsonl",
    "record": "record.json",
    "job": "job.json",
    "checkpoints": "checkpoints",
    "failure": "failure.txt",
    "stopped": "stopped",
    "submitted": "submitted.json",
    "logs": "logs",
}
# The name is `transformers`' own there.
OTHERS = {("weights", "model/hugging_face.py")}
OWNER = "specs/common/run_folder.py"


def test_files_have_the_names_that_finished_runs_on_disk_have() -> None:
    folder = RunFolder(Path("run"))
    assert {name: getattr(folder, name) for name in NAMES} == {name: Path("run") / file for name, file in NAMES.items()}
    assert folder.finished.record == Path("run/finished/record.json")


# Those without an ending are words of other things as well.
@pytest.mark.parametrize(("name", "file"), [pair for pair in NAMES.items() if "." in pair[1]])
def test_a_name_is_spelt_in_one_module(name: str, file: str) -> None:
    spelt = re.compile(rf"[\"'/]{re.escape(file)}[\"']")
    rooms = ("specs", "data_pipeline", "model", "evaluation", "runner", "benchmarks")
    modules = (path for room in rooms for path in (ROOT / room).rglob("*.py"))
    there = {path.relative_to(ROOT).as_posix() for path in modules if spelt.search(path.read_text("utf-8"))}
    assert {module for module in there if (name, module) not in OTHERS} == {OWNER}
