"""Fingerprints: what they see, who may compute them, and what two of them tell."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from runner.training.fingerprints import (
    Change,
    _multipliers,
    _tensor,
    fingerprint,
    partial_fingerprint,
    single_change,
    split,
)

SHAPES = [(7,), (5, 6), (3, 4, 2), (1, 1)]


def values(shape: tuple[int, ...], seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype("f"))


def by_definition(tensor: torch.Tensor) -> str:
    """The sum in whole numbers of any size, one element at a time."""
    bits = tensor.view(torch.int32).reshape(tensor.shape[0], -1).tolist()
    rows, columns = _multipliers(1, 0, len(bits)).tolist(), _multipliers(2, 0, len(bits[0])).tolist()
    terms = (bits[i][j] * r * c for i, r in enumerate(rows) for j, c in enumerate(columns))
    return f"{sum(terms) % 2**64:016x}"


@pytest.mark.parametrize("shape", SHAPES)
def test_a_fingerprint_is_its_definition(shape: tuple[int, ...]) -> None:
    assert fingerprint(values(shape)) == by_definition(values(shape))


def test_no_division_of_rows_changes_it() -> None:
    tensor, columns = values((9, 5)), _tensor(_multipliers(2, 0, 5), torch.device("cpu"))
    for cut in range(10):
        parts = [(0, cut), (cut, 9)]
        both = [
            partial_fingerprint(tensor[a:b], _tensor(_multipliers(1, a, b), tensor.device), columns) for a, b in parts
        ]
        assert f"{int(sum(both)) % 2**64:016x}" == fingerprint(tensor)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_single_bit_is_seen_and_found(shape: tuple[int, ...]) -> None:
    before = values(shape)
    for index in itertools.product(*map(range, shape)):
        for bit in range(32):
            after = before.clone()
            after.view(torch.int32)[index] ^= -(2**31) if bit == 31 else 1 << bit
            change = single_change(fingerprint(before), fingerprint(after), shape)
            assert change is not None and change.index == index and change.flipped and abs(change.bits) == 1 << bit


@given(row=st.integers(0, 19), column=st.integers(0, 29), distance=st.integers(-(2**20), 2**20).filter(bool))
def test_the_distance_of_one_element_is_told(row: int, column: int, distance: int) -> None:
    before = values((20, 30))
    after = before.clone()
    after.view(torch.int32)[row, column] += distance
    assert single_change(fingerprint(before), fingerprint(after), (20, 30)) == Change((row, column), distance)


def test_two_changes_are_not_taken_for_one() -> None:
    before, generator = values((20, 30)), np.random.default_rng(2)
    for _ in range(50):
        after = before.clone()
        for place in generator.choice(600, 2, replace=False):
            after.view(-1)[int(place)] *= 1 + 1e-6
        first, second = fingerprint(before), fingerprint(after)
        assert first != second and single_change(first, second, (20, 30)) is None


def test_equal_fingerprints_name_no_element() -> None:
    assert single_change("0" * 16, "0" * 16, (4, 4)) is None


def test_the_journal_holds_the_weights_that_enter_each_step(
    reference: Any, compute: Callable[..., Any], make_job: Callable[..., Path]
) -> None:
    lines = [json.loads(line) for line in (reference.finished / "steps.jsonl").read_text("utf-8").splitlines()]
    # A run of one step less ends with the weights that enter the last step. (The schedule is made constant: it would
    # know of the shorter run.)
    constant = {"training.schedule.kind": "constant"}
    longer, shorter = compute(make_job(constant), ranks=4), compute(make_job(constant | {"steps": 5}), ranks=2)
    longer.digests(), shorter.digests()
    entering = json.loads((longer.finished / "steps.jsonl").read_text("utf-8").splitlines()[5])["weights"]
    weights = load_file(shorter.finished / "model.safetensors")
    names = json.loads((longer.finished / "steps.jsonl").read_text("utf-8").splitlines()[5])["digests"]["value"]
    assert split(entering) == [fingerprint(weights[name]) for name in names]
    assert len({line["weights"] for line in lines}) == len(lines)


def test_golden_values() -> None:
    """Journals of older runs hold these: computed with whole numbers of Python, from the formula above alone."""
    assert [f"{value:016x}" for value in _multipliers(1, 0, 3)] == [
        "e220a8397b1dcdaf",  # the first output of SplitMix64 from state 0, as its authors publish it
        "1b39896a51a8749b",
        "3ee5789041c98ac3",
    ]
    assert fingerprint(torch.tensor([[1.0, -2.5, 0.0], [3.25, 1e-3, -0.0]])) == "b784d9e5225721a7"
