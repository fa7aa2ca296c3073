"""The project's own benchmark is sound, and so are the pinned ones where they are at hand."""

import ast
import json
from pathlib import Path

import pytest

from data_pipeline.problems import Problem
from evaluation.protocols.own import OWN
from evaluation.protocols.protocol import Protocol
from evaluation.protocols.registry import PROTOCOLS
from evaluation.sandbox.sandbox import Outcome
from evaluation.score import canonical, empty, score
from specs.common.files import sha256_file
from specs.schema.experiment import Limits

ROOT = Path(__file__).parents[2]

# Problems of MBPP whose own solutions cannot pass, by protocol: faults of the harness that the protocol follows.
SANITISED = {
    *("367", "601", "927"),  # it drops a class that only the tests use
    *("512", "630", "940"),  # it drops a helper that nowhere returns: a generator, or one that changes its argument
}
UPSTREAM = {"evalplus-base-v1": SANITISED, "evalplus-chat-v1": SANITISED}


def surprises(protocol: Protocol, problems: list[Problem]) -> list[tuple[str, Outcome]]:
    """Canonical answers that fail, and empty ones that pass."""
    found = []
    for asked, passes in ((canonical(problems, protocol), True), (empty(problems), False)):
        outcomes = score(asked, protocol, Limits()).outcomes
        assert len(outcomes) == len(problems)
        for (problem, _), outcome in zip(asked, outcomes, strict=True):
            if (outcome.verdict == "passed") != passes:
                found.append((problem.task_id, outcome))
    return found


@pytest.mark.parametrize(
    "protocol", [protocol for protocol in OWN if protocol.schema == "mbpp"], ids=lambda protocol: protocol.name
)
def test_every_canonical_answer_of_basics_passes_and_no_empty_one(protocol: Protocol, basics: list[Problem]) -> None:
    assert surprises(protocol, basics) == []


OF_HUMANEVAL, OF_MBPP = ([one for one in PROTOCOLS if one.schema == schema] for schema in ("humaneval", "mbpp"))


@pytest.mark.parametrize("protocol", OF_HUMANEVAL, ids=lambda one: one.name)
def test_every_canonical_answer_of_humaneval_passes_and_no_empty_one(
    protocol: Protocol, humaneval: list[Problem]
) -> None:
    assert len(humaneval) == 164
    assert surprises(protocol, humaneval) == []


@pytest.mark.parametrize(
    "protocol",
    [pytest.param(one, marks=[pytest.mark.thorough] * (one.name != "chat-v2"), id=one.name) for one in OF_MBPP],
)
def test_every_canonical_answer_of_mbpp_passes_and_no_empty_one(protocol: Protocol, mbpp: list[Problem]) -> None:
    assert len(mbpp) == 974
    failing = UPSTREAM.get(protocol.name, set())
    assert {task for task, _ in surprises(protocol, mbpp)} == failing


def test_basics_holds_enough_problems_of_the_schema() -> None:
    records = [json.loads(line) for line in (ROOT / "evaluation" / "basics.jsonl").read_text("utf-8").splitlines()]
    assert len(records) >= 32
    assert [record["task_id"] for record in records] == list(range(1, len(records) + 1))
    for record in records:
        assert set(record) == {"task_id", "text", "code", "test_list", "test_setup_code", "challenge_test_list"}
        assert len(record["test_list"]) >= 3
        namespace: dict[str, object] = {}
        exec(record["code"] + "\n" + record["test_setup_code"], namespace)
        for test in [*record["test_list"], *record["challenge_test_list"]]:
            assert isinstance(ast.parse(test).body[0], ast.Assert)
            exec(test, namespace)


def test_the_pin_of_basics_is_that_of_the_file() -> None:
    assert sha256_file(ROOT / "evaluation" / "basics.jsonl") in (ROOT / "specs/benchmarks/basics.yaml").read_text(
        encoding="utf-8"
    )
