"""The journal of completions: no process touches another's file, and a kill costs the line that it cut short."""

import json
from dataclasses import astuple
from pathlib import Path

import pytest

from evaluation.completions.completions import Completion
from evaluation.completions.journal import Journal, read_journal
from specs.common.errors import UserError


def completion(number: int, text: str = "pass") -> Completion:
    return Completion("T/1", number, text, "end", 3)


def test_every_process_has_a_file_of_its_own(tmp_path: Path) -> None:
    # All look for a free name before any has written.
    journals = [Journal(tmp_path) for _ in range(3)]
    for number, journal in enumerate(journals):
        journal.note(completion(number))
        journal.flush()
    assert len(list(tmp_path.glob("*.jsonl"))) == 3
    assert read_journal(tmp_path) == {("T/1", number): completion(number) for number in range(3)}


def test_a_name_that_another_process_has_taken_is_passed_over(tmp_path: Path) -> None:
    taken = tmp_path / "000001.jsonl"
    taken.write_text('["T/1", 7, "cut sho', "utf-8")
    Journal(tmp_path).note(completion(1))
    assert taken.read_text("utf-8") == '["T/1", 7, "cut sho'
    assert read_journal(tmp_path) == {("T/1", 1): completion(1)}


def test_a_line_that_a_kill_cut_short_is_left_out_wherever_it_was_cut(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.note(completion(0, "a line\x0bof\u2028its own\n"))
    (path,) = tmp_path.glob("*.jsonl")
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole + whole[:cut])
        assert read_journal(tmp_path) == {("T/1", 0): completion(0, "a line\x0bof\u2028its own\n")}


def test_a_damaged_line_in_the_middle_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "000000.jsonl").write_text(f"nothing\n{json.dumps(astuple(completion(0)))}\n", "utf-8")
    with pytest.raises(UserError, match=r"000000.jsonl:1: not valid JSON .* remove the file"):
        read_journal(tmp_path)
