"""Verdicts that a scoring keeps: of which program they are, and what is left of them after a kill."""

import dataclasses
from pathlib import Path

import pytest

from evaluation.protocols.program import Program
from evaluation.sandbox.dialogue import Outcome
from evaluation.scoring.verdict_log import Verdicts, identity
from specs.common.errors import UserError

PROGRAM = Program("def f(): return 1\n", "assert f()\n", "import math\n")
PASSED, WRONG = Outcome("passed"), Outcome("wrong", "AssertionError")


@pytest.mark.parametrize("part", ["candidate", "tests", "helpers"])
def test_a_verdict_belongs_to_candidate_tests_and_helpers(part: str) -> None:
    text = getattr(PROGRAM, part)
    # Of the same length: lengths are a part of the identity by themselves.
    for other in (text[::-1], text + "pass\n"):
        assert identity(dataclasses.replace(PROGRAM, **{part: other})) != identity(PROGRAM)


def test_the_same_text_parted_otherwise_is_another_program() -> None:
    """A candidate that begins its own tests, say: it must not find the verdict of the honest one."""
    text = "".join((PROGRAM.candidate, PROGRAM.tests, PROGRAM.helpers))
    parted = {identity(Program(text[:a], text[a:b], text[b:])) for a in range(6) for b in range(a, len(text))}
    assert len(parted) == sum(len(text) - a for a in range(6))


def test_each_checker_has_its_own_verdicts_and_they_come_back(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    known = Verdicts(path)
    known.add(PROGRAM, False, PASSED)
    known.add(PROGRAM, True, WRONG)
    for verdicts in (known, Verdicts(path)):
        assert verdicts.outcomes(False) == {identity(PROGRAM): PASSED}
        assert verdicts.outcomes(True) == {identity(PROGRAM): WRONG}
        assert len(verdicts) == 2


def test_a_line_that_a_kill_cut_short_goes_and_nothing_joins_it(tmp_path: Path) -> None:
    path, other = tmp_path / "verdicts.jsonl", Program("x = 1\n", "assert x\n")
    Verdicts(path).add(PROGRAM, False, PASSED)
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole + whole[:cut])
        known = Verdicts(path)
        assert known.outcomes(False) == {identity(PROGRAM): PASSED}
        known.add(other, False, WRONG)
        assert Verdicts(path).outcomes(False) == {identity(PROGRAM): PASSED, identity(other): WRONG}
        path.write_bytes(whole[:cut])
        assert len(Verdicts(path)) == 0 and path.read_bytes() == b""


def test_a_line_that_says_no_verdict_is_named(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    for line in ('["a", false, "won", ""]', '["a", "no", "passed", ""]', "[", '{"a": 1}'):
        Verdicts(path).add(PROGRAM, False, PASSED)
        path.write_text(path.read_text("utf-8") + line + "\n", "utf-8")
        with pytest.raises(UserError, match=r"verdicts.jsonl:2: not a verdict"):
            Verdicts(path)
        path.unlink()
