"""pass@k agrees with counting, and its interval covers what it says."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.scoring.pass_at_k import interval, pass_at_k


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_it_is_the_share_of_choices_that_hold_a_pass(case: tuple[int, int, int]) -> None:
    samples, passed, k = case
    choices = list(combinations(range(samples), k))
    share = sum(any(index < passed for index in choice) for choice in choices) / len(choices)
    assert pass_at_k(samples, passed, k) == pytest.approx(share, abs=1e-12)


def test_ends() -> None:
    assert pass_at_k(10, 0, 10) == 0
    assert pass_at_k(10, 10, 1) == 1
    assert pass_at_k(200, 1, 200) == 1
    assert pass_at_k(10**6, 1, 1) == pytest.approx(1e-6)


@pytest.mark.parametrize("case", [(5, 6, 1), (5, -1, 1), (5, 1, 6), (5, 1, 0), (0, 0, 1)])
def test_what_is_not_defined_is_refused(case: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="not defined"):
        pass_at_k(*case)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_an_interval_lies_within_the_values(values: list[float]) -> None:
    low, high = interval(values, "a")
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


def test_an_interval_is_a_function_of_its_seed_and_brackets_the_mean() -> None:
    values = [float(index % 4 == 0) for index in range(100)]
    low, high = interval(values, "humaneval 1")
    assert (low, high) == interval(values, "humaneval 1")
    # The normal approximation is 0.25 +- 1.96 * sqrt(0.25 * 0.75 / 100) = 0.165 to 0.335.
    assert low == pytest.approx(0.165, abs=0.02)
    assert high == pytest.approx(0.335, abs=0.02)


def test_no_values_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one problem"):
        interval([], "a")
