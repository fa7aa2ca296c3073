"""The digest chain, and tensor digests."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runner.training.digests import Journal, read_steps, row_digests, tensor_digest
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


@given(rows=st.integers(0, 9), columns=st.integers(1, 5), cut=st.integers(0, 9))
def test_a_digest_does_not_know_who_holds_the_rows(rows: int, columns: int, cut: int) -> None:
    tensor = torch.from_numpy(np.random.default_rng(1).normal(size=(rows, columns)).astype("f"))
    pieces = torch.cat([row_digests(tensor[:cut]), row_digests(tensor[cut:])])
    assert tensor_digest((rows, columns), pieces) == tensor_digest((rows, columns), row_digests(tensor))


def test_a_digest_sees_one_bit_and_the_shape() -> None:
    tensor = torch.arange(6.0).view(2, 3)
    digest = tensor_digest((2, 3), row_digests(tensor))
    assert tensor_digest((3, 2), row_digests(tensor)) != digest
    flipped = tensor.clone()
    flipped.view(torch.int32)[1, 1] ^= 1
    assert tensor_digest((2, 3), row_digests(flipped)) != digest
