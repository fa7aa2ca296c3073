"""The project's own benchmark is sound, and so are the pinned ones where they are at hand."""

import ast
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_pipeline.problems import Problem, read_problems
from evaluation.protocols.own import OWN
from evaluation.protocols.protocol import Protocol
from evaluation.sandbox.sandbox import Outcome
from evaluation.score import canonical, empty, score
from specs.common.files import sha256_file
from specs.schema.experiment import Limits

ROOT = Path(__file__).parents[2]
HUMANEVAL = "b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce"
MBPP = "ccf64ceae9c5403bf50a044cb6d505bfd2a2963ee58338ba268fd65beab92a9f"


def at_hand(digest: str) -> Iterator[Path]:
    """Files of a digest in the folders that TWICE_MIRRORS names."""
    for folder in filter(None, os.environ.get("TWICE_MIRRORS", "").split(os.pathsep)):
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file() and path.suffix in (".jsonl", ".whl") and sha256_file(path) == digest:
                yield path


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


@pytest.mark.parametrize("digest, schema, count", [(HUMANEVAL, "humaneval", 164), (MBPP, "mbpp", 974)])
def test_every_canonical_answer_of_the_pinned_benchmarks_passes(digest: str, schema: str, count: int) -> None:
    path = next(at_hand(digest), None)
    if path is None:
        pytest.skip("the file is in no folder of TWICE_MIRRORS")
    problems = read_problems(path, schema)  # type: ignore[arg-type]
    assert len(problems) == count
    for protocol in OWN:
        if protocol.schema == schema:
            assert surprises(protocol, problems) == []


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
