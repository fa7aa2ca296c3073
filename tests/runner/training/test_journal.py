"""The digest chain: read back, changed, cut short, taken up again."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.training.journal import Journal, copy_start, last_step, read_steps
from specs.common.errors import UserError

START = "0" * 64


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path / "steps.jsonl", START)
    for step in range(1, 5):
        journal.append({"step": step, "loss": 1 / 3**step})
    return journal


def test_a_chain_reads_back_to_the_bit(journal: Journal) -> None:
    entries = list(read_steps(journal.path, START))
    assert [entry["loss"] for entry in entries] == [1 / 3**step for step in range(1, 5)]
    assert entries[-1]["chain"] == journal.chain


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [('"step": 2', '"step": 3', 2), ("0.33333", "0.33334", 1), ('"chain"', '"chains"', 1), ("{", "[", 1)],
)
def test_any_change_breaks_the_chain_where_it_is(journal: Journal, old: str, new: str, line: int) -> None:
    journal.path.write_text(journal.path.read_text("utf-8").replace(old, new, 1), "utf-8")
    with pytest.raises(UserError, match=rf"steps.jsonl:{line}: "):
        list(read_steps(journal.path, START))


def test_a_line_that_is_left_out_breaks_the_chain(journal: Journal) -> None:
    lines = journal.path.read_text("utf-8").splitlines(keepends=True)
    journal.path.write_text("".join(lines[:1] + lines[2:]), "utf-8")
    with pytest.raises(UserError, match="breaks here"):
        list(read_steps(journal.path, START))


def test_another_beginning_is_another_run(journal: Journal) -> None:
    with pytest.raises(UserError, match=":1: the digest chain breaks here"):
        list(read_steps(journal.path, "1" * 64))


def test_a_journal_rewinds_to_what_was_saved(journal: Journal, tmp_path: Path) -> None:
    saved, chain = tmp_path / "saved.jsonl", journal.chain
    saved.write_bytes(journal.path.read_bytes())
    journal.append({"step": 5, "loss": 9.0})
    journal.rewind(saved)
    assert journal.chain == chain and journal.path.read_bytes() == saved.read_bytes()


@pytest.mark.parametrize(
    "line", ['{"step": 5, "loss": NaN, "chain": "0"}', '"text"', '{"step": "\\ud800", "chain": ""}', ""]
)
def test_a_line_that_no_run_writes_is_named(journal: Journal, line: str) -> None:
    journal.path.write_text(journal.path.read_text("utf-8") + line + "\n", "utf-8")
    with pytest.raises(UserError, match=r"steps.jsonl:5: not "):
        list(read_steps(journal.path, START))


def test_the_last_step_is_the_last_one_written_whole(journal: Journal, tmp_path: Path) -> None:
    with journal.path.open("ab") as file:
        file.write(b'{"step": 5, "los')
    last = last_step(journal.path)
    assert last and last["step"] == 4 and last["chain"] == journal.chain
    (tmp_path / "empty").write_bytes(b"")
    assert last_step(tmp_path / "empty") is None
    (tmp_path / "other").write_bytes(b"nothing\n")
    with pytest.raises(UserError, match="other: its last line is not that of a journal"):
        last_step(tmp_path / "other")


def test_a_journal_knows_its_length(journal: Journal, tmp_path: Path) -> None:
    assert journal.bytes == journal.path.stat().st_size
    saved = tmp_path / "saved.jsonl"
    saved.write_bytes(journal.path.read_bytes())
    journal.append({"step": 5})
    journal.rewind(saved)
    assert journal.bytes == journal.path.stat().st_size == saved.stat().st_size


@given(lines=st.integers(0, 5), more=st.integers(0, 5))
def test_a_copy_is_of_what_was_written_when_it_was_asked_for(lines: int, more: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        journal = Journal(Path(name) / "steps.jsonl", START)
        for step in range(lines):
            journal.append({"step": step})
        then = journal.path.read_bytes(), journal.bytes
        for step in range(more):
            journal.append({"step": lines + step})
        copy_start(journal.path, then[1], Path(name) / "copy")
        assert (Path(name) / "copy").read_bytes() == then[0]
        with pytest.raises(OSError, match="is 1 bytes shorter than was written"):
            copy_start(journal.path, journal.bytes + 1, Path(name) / "copy")
