"""What an edit of the code re-runs, and what becomes of a run that it interrupts."""

import json
from pathlib import Path
from typing import Any

import pytest

from specs import ROOT
from specs.common.files import read_text
from specs.pipeline.code import code_of
from specs.pipeline.dvc_graph import parse

pytestmark = pytest.mark.slow

STAGES = tuple(parse(read_text(ROOT / "dvc.yaml"))["stages"])
# What only checks, and what only tells people: neither makes data nor weights.
TELLING = {"lock", "report"}
TRAINING = {"pretrain", "finetune"}
MODEL = TRAINING | {"complete"}
# A file, and the stages that are made of it.
MADE_OF = {
    "runner/launching/launch.py": set(),
    "runner/launching/slurm.py": set(),
    "runner/launching/kubernetes.py": set(),
    "runner/launching/phase.py": set(),
    "runner/monitoring/telemetry.py": set(),
    "runner/reporting/report.html.j2": {"report"},
    "runner/commands/check.py": set(),
    "runner/cli.py": set(),
    "specs/estimates/devices.py": {"lock"},
    "specs/common/errors.py": {"lock"},
    "specs/loading/yaml_reader.py": {"lock"},
    "specs/pipeline/stage.py": {"lock"},
    "model/decoder/attention.py": MODEL,
    "model/decoder/transformer.py": MODEL,
    "model/decoder/loss.py": MODEL,
    "model/nucleus.py": {"complete"},
    "model/sampling.py": {"complete"},
    "runner/training/optimizer.py": TRAINING,
    "runner/training/reduction.py": TRAINING,
    "evaluation/sandbox/server.py": {"score"},
    "evaluation/protocols/program.py": {"complete", "score"},
    "data_pipeline/filters/quality.py": {"filter"},
    "data_pipeline/near_duplicates/minhash.py": {"dedup"},
    "data_pipeline/augmentations/rename_locals.py": {"augment"},
    "data_pipeline/tokens/token_store.py": {"pack", "pretrain", "finetune"},
    "data_pipeline/fetching/origin.py": {"fetch", "fetch-benchmark"},
}


@pytest.mark.parametrize("file", MADE_OF)
def test_a_file_is_code_of_the_stages_that_it_can_change(file: str) -> None:
    assert (ROOT / file).is_file()
    assert MADE_OF[file] <= {stage for stage in STAGES if file in code_of(stage).files}
    others = {stage for stage in STAGES if file in code_of(stage).files} - MADE_OF[file]
    # A room may be a dependency as a whole; what tells, launches or prices is no dependency at all.
    assert MADE_OF[file] - TELLING or others <= TELLING, others


def changed(project: Any, files: list[str]) -> set[str]:
    """Stages of which DVC says that they are not up to date, once a comment was added to files."""
    before = {file: (project.root / file).read_bytes() for file in files}
    try:
        for file, content in before.items():
            comment = b"{# a comment #}\n" if file.endswith(".j2") else b"# a comment\n"
            (project.root / file).write_bytes(content + comment)
        code, output = project.run("dvc", "status", "--json")
        assert code == 0, output
        return {name.partition("@")[0] for name in json.loads(output)}
    finally:
        for file, content in before.items():
            (project.root / file).write_bytes(content)


def test_dvc_runs_nothing_again_for_what_launches_tells_or_prices(project: Any) -> None:
    neutral = [file for file, stages in MADE_OF.items() if not stages - TELLING]
    assert len(neutral) >= 10
    assert changed(project, neutral) == TELLING
    assert changed(project, []) == set()


@pytest.mark.parametrize("file", ["model/decoder/attention.py", "runner/training/optimizer.py", "model/sampling.py"])
def test_dvc_runs_again_what_is_made_of_an_edited_file(project: Any, file: str) -> None:
    assert changed(project, [file]) == MADE_OF[file]


MODEL_FILE = "model/decoder/transformer.py"


def interrupt_and_edit(project: Any) -> list[Path]:
    """Kill pretraining after its first checkpoint, and edit the model. The state that is left."""

    def saved() -> bool:
        return any((project.root / "scratch").glob("pretrain-*/checkpoints/step-*/*"))

    project.kill_during("pretrain@tiny", "runner.pretrain", ready=saved)
    with (project.root / MODEL_FILE).open("a", encoding="utf-8") as file:
        file.write("# a comment\n")
    return list((project.root / "scratch").glob("pretrain-*/"))


def test_a_run_whose_model_was_edited_begins_anew_and_says_why(project: Any) -> None:
    before = project.digests()
    (left,) = interrupt_and_edit(project)
    output = project.repro()
    (said,) = [line for line in output.splitlines() if "starting anew" in line]
    assert said.startswith(f"pretrain: {MODEL_FILE} has changed since it was interrupted (its state stays in {left})")
    assert "--accept-code-change" in said
    # No step of the old code is in it: the bytes are those of one code from the first step on.
    assert project.digests() == before
    assert list((left / "checkpoints").glob("step-*")), "what the other code left is not lost"


@pytest.mark.thorough
def test_an_accepted_change_goes_on_under_dvc_and_is_recorded(project: Any) -> None:
    before = project.digests()
    (left,) = interrupt_and_edit(project)
    code, output = project.run("dvc", "repro", TWICE_ACCEPT_CODE_CHANGE="1")
    assert code == 0, output
    assert "starting anew" not in output and not left.exists()
    run = project.root / "artifacts" / "runs" / "tiny" / "pretrained"
    (change,) = json.loads((run / "record.json").read_text("utf-8"))["code_changes"]
    entries = [json.loads(line) for line in (run / "steps.jsonl").read_text("utf-8").splitlines()]
    assert [entry["step"] for entry in entries if "code_change" in entry] == [change["step"]]
    assert change["step"] > 4 and change["from"] != change["to"]
    after = project.digests()
    # A comment changes no weight; journal and record say that two codes made them.
    assert {name for name in before | after if before.get(name) != after.get(name)} >= {
        "runs/tiny/pretrained/record.json",
        "runs/tiny/pretrained/steps.jsonl",
    }
    assert all(before[name] == after[name] for name in before if name.endswith("model.safetensors"))
    code, output = project.run("twice", "verify", str(run), "--ranks", "2")
    assert code == 0, output
    assert "accepted" in output and "verdict   bitwise" in output
    assert project.stages_run("--dry") == []
