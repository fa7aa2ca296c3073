"""Folds: one order of addition, whatever the division among ranks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runner.training.reduction import Fold, halving_sum, row_squares, tree_sum
from runner.training.sharding import shard_range

SEEDS = st.integers(0, 2**32 - 1)


def leaves(seed: int, count: int) -> list[torch.Tensor]:
    random = np.random.default_rng(seed)
    # Magnitudes far apart: every order of addition rounds differently.
    return [
        torch.from_numpy((random.normal(size=7) * 10.0 ** random.integers(-6, 6, 7)).astype("f")) for _ in range(count)
    ]


def folded(values: list[torch.Tensor]) -> torch.Tensor:
    fold = Fold()
    for value in values:
        fold.add([value.clone()])
    return fold.total()[0]


@given(seed=SEEDS, height=st.integers(0, 6), inner=st.integers(0, 6))
def test_ranks_inside_sub_steps_make_one_tree(seed: int, height: int, inner: int) -> None:
    """Folding W micro-batches at a time, then those sums, is folding all micro-batches: for every W."""
    micro_batches, ranks = 2**height, 2 ** min(inner, height)
    values = leaves(seed, micro_batches)
    by_step = [folded(values[start : start + ranks]) for start in range(0, micro_batches, ranks)]
    assert torch.equal(folded(by_step), folded(values))


def test_a_plain_sum_would_differ() -> None:
    values = leaves(3, 16)
    plain = values[0].clone()
    for value in values[1:]:
        plain += value
    assert not torch.equal(plain, folded(values))
    assert torch.allclose(plain, folded(values), rtol=1e-3)


def test_a_fold_refuses_a_number_of_leaves_that_is_no_power_of_two() -> None:
    fold = Fold()
    for value in leaves(1, 3):
        fold.add([value])
    with pytest.raises(ValueError, match="power of two"):
        fold.total()


@given(seed=SEEDS, height=st.integers(0, 6))
def test_losses_fold_as_gradients_do(seed: int, height: int) -> None:
    values = [value.double() for value in leaves(seed, 2**height)]
    assert tree_sum([float(value[0]) for value in values]) == float(folded(values)[0])


@given(seed=SEEDS, rows=st.integers(1, 40), columns=st.integers(1, 70), ranks=st.sampled_from([1, 2, 4, 8]))
def test_no_shard_boundary_changes_a_norm(seed: int, rows: int, columns: int, ranks: int) -> None:
    whole = torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, columns)).astype("f"))
    pieces = [whole[slice(*shard_range(rows, rank, ranks))] for rank in range(ranks)]
    parts = torch.cat([row_squares(piece) for piece in pieces])
    assert torch.equal(parts, row_squares(whole))
    assert torch.allclose(halving_sum(parts), whole.double().square().sum(), rtol=1e-12)


def test_sums_of_nothing_are_zero() -> None:
    assert halving_sum(torch.zeros((3, 0))).tolist() == [0.0, 0.0, 0.0]
    assert row_squares(torch.zeros((0, 5))).shape == (0,)
    assert row_squares(torch.full((2,), 3.0)).tolist() == [9.0, 9.0]


@given(rows=st.integers(0, 100), ranks=st.integers(1, 16))
def test_rows_are_dealt_as_torch_deals_them(rows: int, ranks: int) -> None:
    chunks = torch.arange(rows).chunk(ranks) if rows else ()
    dealt = [shard_range(rows, rank, ranks) for rank in range(ranks)]
    assert [list(range(*bounds)) for bounds in dealt if bounds[0] < bounds[1]] == [chunk.tolist() for chunk in chunks]
