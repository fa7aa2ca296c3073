"""Ranks run the code that their stage started with, and go on from other code's state only where that was accepted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.verification.compare import compare as compare_runs
from runner.verification.consistency import inconsistencies
from runner.verification.recorded_run import read_run
from specs.pipeline.code import code_of

Compute = Callable[..., Any]
OWN = code_of("pretrain")
# What the checkpoints of `begun` name: no stage wrote them.
OLD = ""


def give(job: Path, **changes: Any) -> Path:
    """The job of a stage whose code is this checkout's, but for changes."""
    code = OWN.model_dump(mode="json") | changes
    job.write_text(json.dumps(json.loads(job.read_text("utf-8")) | {"code": code}), "utf-8")
    return job


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text("utf-8").splitlines()]


def test_an_accepted_change_of_code_stands_in_the_chain_and_in_the_record(
    compute: Compute, begun: Path, reference: Any
) -> None:
    outcome = compute(give(begun, accepted=[OLD]), ranks=2)
    assert outcome.codes == [0, 0], outcome.log
    change = {"from": OLD, "to": OWN.digest}
    found, expected = lines(outcome.finished), lines(reference.finished)
    assert [entry.get("code_change") for entry in found] == [None] * 5 + [change]
    assert [entry["chain"] for entry in found[:5]] == [entry["chain"] for entry in expected[:5]]
    assert found[5]["chain"] != expected[5]["chain"]
    record = json.loads((outcome.finished / "record.json").read_text("utf-8"))
    assert record["code_changes"] == [{"step": 6} | change]
    changed = read_run(outcome.finished)
    assert list(inconsistencies(changed)) == []
    # What was computed is the same; the code that did it is no result.
    assert compare_runs(changed, read_run(reference.finished)).same

    # A record that conceals it contradicts the journal, and so does one that invents a change.
    for told in ({}, {"code_changes": [{"step": 5} | change]}):
        concealed = {key: value for key, value in record.items() if key != "code_changes"} | told
        (outcome.finished / "record.json").write_text(json.dumps(concealed), "utf-8")
        assert any("code_changes" in line for line in inconsistencies(read_run(outcome.finished)))


def test_a_run_whose_code_never_changed_says_nothing_of_it(reference: Any) -> None:
    assert "code" not in (reference.finished / "record.json").read_text("utf-8")
    assert "code" not in (reference.finished / "steps.jsonl").read_text("utf-8")


def test_checkpoints_of_other_code_are_passed_over(compute: Compute, begun: Path, reference: Any) -> None:
    outcome = compute(give(begun), ranks=2)
    assert outcome.log.count("other code wrote it") == 2, outcome.log
    assert outcome.digests() == reference.digests()


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_rank_with_other_code_than_its_stage_refuses(ranks: int, compute: Compute, begun: Path) -> None:
    other = OWN.files | {"model/decoder/attention.py": "0" * 64}
    outcome = compute(give(begun, files=other), ranks=ranks)
    assert set(outcome.codes) == {2}, outcome.log
    assert outcome.failure.startswith("pretrain: model/decoder/attention.py in ")
    assert outcome.failure.endswith("run the stage again") and outcome.failure.count("\n") == 0
    assert not outcome.finished.exists()
