"""What an attestation states: never more than a second execution of all of it showed."""

from pathlib import Path
from typing import Any

import pytest

from runner.verification.attestation import attestation, shown
from runner.verification.deviation import Deviation
from runner.verification.recorded_run import RecordedRun
from runner.verification.verify import Rerun, Verdict
from specs.common.errors import UserError

RECORD: dict[str, Any] = {"chain": {"start": "0" * 64, "end": "1" * 64}}


def verdict(*, whole: bool = True, differing: int = 0, problems: tuple[str, ...] = (), bound: bool = True) -> Verdict:
    far = Deviation(numbers={"loss": 1e-3}) if differing else None
    rerun = Rerun(2, 5, whole, 2, "cpu", differing, [], far, None)
    return Verdict(list(problems), rerun, 0.01 if bound else None, {"model.safetensors": "2" * 64})


def run(record: dict[str, Any] | None = RECORD) -> RecordedRun:
    return RecordedRun(Path("run"), "pretrain", "topology", {"steps": 6}, {"token_store": "3" * 64}, "0" * 64, record)


def test_a_part_shows_nothing_of_the_whole() -> None:
    assert shown(verdict(whole=False))["level"] == "recorded"
    assert shown(verdict())["level"] == "bitwise"
    assert shown(verdict(differing=3))["level"] == "within tolerance"
    assert shown(Verdict([], None, None))["level"] == "recorded"
    assert shown(verdict(whole=False))["executed"] == {"steps": [2, 5], "ranks": 2, "device": "cpu", "bitwise": True}


def test_nothing_is_stated_of_what_is_not_verified_or_not_finished() -> None:
    for not_verified in (verdict(problems=("damaged",)), verdict(differing=3, bound=False)):
        with pytest.raises(UserError, match="not verified: nothing can be stated of it"):
            attestation(run(), not_verified)
    with pytest.raises(UserError, match="is not finished"):
        attestation(run(record=None), verdict())


def test_subjects_are_the_files_that_were_checked_and_dependencies_what_was_read() -> None:
    stated = attestation(run(), verdict())
    assert stated["subject"] == [{"name": "model.safetensors", "digest": {"sha256": "2" * 64}}]
    definition = stated["predicate"]["buildDefinition"]
    assert definition["resolvedDependencies"] == [{"name": "token_store", "digest": {"sha256": "3" * 64}}]
    assert definition["externalParameters"] == {"stage": "pretrain", "steps": 6}
