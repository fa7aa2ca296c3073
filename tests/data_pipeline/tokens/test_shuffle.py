from collections import Counter
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.tokens.shuffle import Order, Share, permute
from specs.common.errors import UserError


@st.composite
def mixtures(draw: st.DrawFn) -> list[Share]:
    """Sources of a store with at least one row: contiguous, some perhaps empty."""
    sizes = draw(st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(any))
    ends = np.cumsum(sizes).tolist()
    weights = draw(st.lists(st.integers(1, 4), min_size=len(sizes), max_size=len(sizes)))
    return [Share(end - size, end, weight) for size, end, weight in zip(sizes, ends, weights, strict=True)]


@given(size=st.integers(1, 3_000), key=st.text(max_size=5))
def test_permute_is_a_bijection(size: int, key: str) -> None:
    image = permute(np.arange(size, dtype=np.uint64), size, key)
    assert sorted(image.tolist()) == list(range(size))


def permute_slowly(position: int, size: int, key: str) -> int:
    """The permutation once more, in Python's own integers: an independent oracle."""
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask, word = 2**half - 1, 2**64 - 1
    while True:
        left, right = position >> half, position & mask
        for number in range(6):
            value = (right + int.from_bytes(sha256(f"{key}/{number}".encode()).digest()[:8], "little")) & word
            value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & word
            value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & word
            left, right = right, left ^ ((value ^ (value >> 31)) & mask)
        position = left << half | right
        if position < size:
            return position


@given(size=st.integers(1, 2**62), key=st.text(max_size=5), data=st.data())
def test_permute_is_the_formula(size: int, key: str, data: st.DataObject) -> None:
    positions = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=5))
    expected = [permute_slowly(position, size, key) for position in positions]
    assert permute(np.array(positions, np.uint64), size, key).tolist() == expected


def test_permute_refuses_a_position_outside() -> None:
    with pytest.raises(ValueError, match="position 10 is outside a permutation of 10"):
        permute(np.array([10], np.uint64), 10, "key")


@given(shares=mixtures(), seed=st.integers(0, 2**40), cycle=st.integers(0, 10**6), data=st.data())
def test_each_cycle_sees_each_row_as_often_as_its_weight_says(
    shares: list[Share], seed: int, cycle: int, data: st.DataObject
) -> None:
    most = sum(max(0, share.stop - share.start - 1) for share in shares)
    order = Order(shares, seed, held_out=data.draw(st.integers(0, most)))
    seen = Counter(order.rows(cycle * order.slots, order.slots).tolist())
    held = set(order.held_out.tolist())
    expected = {row: share.weight for share in shares for row in range(share.start, share.stop) if row not in held}
    assert seen == expected


@given(shares=mixtures(), seed=st.integers(0, 100), start=st.integers(0, 500), count=st.integers(0, 300))
def test_order_is_a_function_of_the_index_alone(shares: list[Share], seed: int, start: int, count: int) -> None:
    rows = Order(shares, seed).rows(start, count)
    assert rows.tolist() == [Order(shares, seed).row(index) for index in range(start, start + count)]


def test_step_reads_consecutive_indices_micro_batch_after_micro_batch() -> None:
    order = Order([Share(0, 100, 1), Share(100, 130, 2)], seed=7)
    assert order.step(3, micro_batches=4, micro_batch_size=2).tolist() == order.rows(24, 8).reshape(4, 2).tolist()


def test_seeds_and_cycles_give_different_orders() -> None:
    shares = [Share(0, 1_000, 1)]
    first, second = Order(shares, seed=1), Order(shares, seed=2)
    assert first.rows(0, 1_000).tolist() != second.rows(0, 1_000).tolist()
    assert first.rows(0, 1_000).tolist() != first.rows(1_000, 1_000).tolist()
    assert Order(shares, 1, held_out=10).held_out.tolist() != Order(shares, 2, held_out=10).held_out.tolist()


def test_held_out_rows_are_drawn_from_everywhere_and_grow_by_adding() -> None:
    shares = [Share(0, 6_000, 1), Share(6_000, 10_000, 5)]
    few, many = Order(shares, 3, held_out=100).held_out, Order(shares, 3, held_out=1_000).held_out
    assert set(few.tolist()) < set(many.tolist())
    # 600 of 1,000 are expected in the first source, with a standard deviation of 15: weights do not enter.
    assert 540 < int((many < 6_000).sum()) < 660


def test_no_source_loses_its_last_row_to_the_held_out() -> None:
    shares = [Share(0, 1, 1), Share(1, 2, 1), Share(2, 12, 1)]
    assert set(Order(shares, 5, held_out=9).rows(0, 3).tolist()) >= {0, 1}
    with pytest.raises(UserError, match="hold out 9 at most"):
        Order(shares, 5, held_out=10)


@pytest.mark.parametrize("shares", [[], [Share(0, 0, 3)]])
def test_a_store_without_rows_is_refused(shares: list[Share]) -> None:
    with pytest.raises(UserError, match="no rows"):
        Order(shares, 1)


def test_negative_indices_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        Order([Share(0, 5, 1)], 1).rows(-1, 2)


def autocorrelation_z(values: np.ndarray) -> float:
    """Lag-1 autocorrelation in standard deviations of what a random permutation shows."""
    centred = values - values.mean()
    return float((centred[1:] * centred[:-1]).mean() / centred.var() * np.sqrt(len(values)))


@pytest.mark.parametrize("size", [1_000, 65_536, 300_007])
def test_neighbours_in_the_order_are_unrelated(size: int) -> None:
    positions = np.arange(size, dtype=np.uint64)
    scores = [autocorrelation_z(permute(positions, size, f"cycle/{seed}/0")) for seed in range(8)]
    assert max(map(abs, scores)) < 4
    # The control: a multiplicative permutation passes for shuffled at a glance, and is found out.
    assert abs(autocorrelation_z((positions * np.uint64(7) + np.uint64(3)) % np.uint64(size))) > 4


def test_positions_spread_over_the_store() -> None:
    size, cells = 100_000, 20
    order = permute(np.arange(size, dtype=np.uint64), size, "cycle/1/0")
    counts, _, _ = np.histogram2d(np.arange(size), order, bins=cells)
    expected = size / cells**2
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    freedom = (cells - 1) ** 2
    assert abs(chi_squared - freedom) < 5 * np.sqrt(2 * freedom)


def test_memory_and_time_do_not_grow_with_the_store() -> None:
    order = Order([Share(0, 10**12, 1), Share(10**12, 10**12 + 7, 1_000)], seed=1, held_out=100)
    rows = order.step(10**6, micro_batches=256, micro_batch_size=1)
    assert rows.shape == (256, 1) and len(set(rows.reshape(-1).tolist())) == 256
    assert not set(rows.reshape(-1).tolist()) & set(order.held_out.tolist())


def test_golden_order() -> None:
    order = Order([Share(0, 700, 1), Share(700, 1_000, 3)], seed=42, held_out=16)
    rows = np.concatenate([order.held_out, order.rows(0, 4_000)]).astype("<i8")
    assert sha256(rows.tobytes()).hexdigest() == "a7d120af6d69d992705d53e2cf97f72e86b01f52ae4a5c4c6c9e6cf8bef084a7"
