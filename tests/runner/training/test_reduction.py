"""Folds: one order of addition, whatever the division among ranks."""

import numpy as np
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


def tree(values: list[torch.Tensor]) -> torch.Tensor:
    """The sum by its definition: that of as many leaves as the largest power of two below n, plus that of the rest."""
    if len(values) == 1:
        return values[0]
    left = max(2**height for height in range(10) if 2**height < len(values))
    return tree(values[:left]) + tree(values[left:])


@given(seed=SEEDS, count=st.integers(1, 40))
def test_a_fold_is_the_tree(seed: int, count: int) -> None:
    values = leaves(seed, count)
    assert torch.equal(folded(values), tree(values))


@given(seed=SEEDS, count=st.integers(1, 40), ranks=st.integers(1, 12))
def test_partial_sums_outlive_the_memory_that_pieces_arrived_in(seed: int, count: int, ranks: int) -> None:
    """Pieces of a sub-step are views of one buffer, which the next sub-step overwrites."""
    values, fold = leaves(seed, count), Fold()
    for start in range(0, count, ranks):
        buffer = torch.stack(values[start : start + ranks])
        for piece in buffer:
            fold.add([piece])
        fold.detach()
        buffer.fill_(torch.nan)
    assert torch.equal(fold.total()[0], tree(values)) and fold.empty


@given(seed=SEEDS, nodes=st.integers(1, 6), height=st.integers(0, 3), count=st.integers(1, 60))
def test_sums_of_nodes_are_subtrees(seed: int, nodes: int, height: int, count: int) -> None:
    """On nodes with the same power of two of ranks, also where the last leaves of a step do not fill a node."""
    values, inside = leaves(seed, count), 2**height
    ranks, of_nodes = nodes * inside, []
    for start in range(0, count, ranks):
        sub_step = values[start : start + ranks]
        of_nodes += [folded(sub_step[i : i + inside]) for i in range(0, len(sub_step), inside)]
    assert torch.equal(folded(of_nodes), tree(values))


def test_nodes_of_three_ranks_are_no_subtrees() -> None:
    values = leaves(3, 12)
    assert not torch.equal(folded([folded(values[i : i + 3]) for i in range(0, 12, 3)]), tree(values))


def test_a_plain_sum_would_differ() -> None:
    values = leaves(3, 16)
    plain = values[0].clone()
    for value in values[1:]:
        plain += value
    assert not torch.equal(plain, folded(values))
    assert torch.allclose(plain, folded(values), rtol=1e-3)


@given(seed=SEEDS, count=st.integers(1, 40))
def test_losses_fold_as_gradients_do(seed: int, count: int) -> None:
    values = [value.double() for value in leaves(seed, count)]
    assert tree_sum([float(value[0]) for value in values]) == float(tree(values)[0])


def test_sums_have_these_bits() -> None:
    """Older runs rely on them. Literal values, of numbers that each other order of these would round otherwise."""
    numbers = [((i * 185) % 101 - 50) / 7 * 10.0**-2 for i in range(11)]
    single, double = (torch.tensor(numbers, dtype=dtype) for dtype in (torch.float32, torch.float64))
    assert float(folded(list(single[:8, None]))).hex() == "0x1.8231be0000000p-5"
    assert float(folded(list(single[:, None]))).hex() == "0x1.5f15f40000000p-5"
    assert tree_sum(numbers[:8]).hex() == "0x1.8231bcb564efep-5"
    assert tree_sum(numbers).hex() == "0x1.5f15f15f15f15p-5"
    assert float(halving_sum(double)).hex() == "0x1.5f15f15f15f14p-5"
    assert float(row_squares(single[None])).hex() == "0x1.3fa7bb5c0c34ep-6"


@given(seed=SEEDS, rows=st.integers(1, 40), columns=st.integers(1, 70), ranks=st.integers(1, 9))
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
