"""pass@k agrees with counting, and its interval covers what it says."""

import random
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.scoring.pass_at_k import (
    clopper_pearson,
    difference_interval,
    interval,
    pass_at_k,
    score_interval,
)


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


# Passed, of how many: the bounds of R's binom.test, to six decimals.
EXACT = {
    (0, 164): (0.0, 0.022242),
    (164, 164): (0.977758, 1.0),
    (0, 10): (0.0, 0.308497),
    (1, 10): (0.002529, 0.445016),
    (5, 10): (0.187086, 0.812914),
    (10, 10): (0.691503, 1.0),
    (0, 1): (0.0, 0.975),
}


@pytest.mark.parametrize("case", EXACT)
def test_the_exact_interval_is_that_of_the_books(case: tuple[int, int]) -> None:
    assert clopper_pearson(*case) == pytest.approx(EXACT[case], abs=1e-6)
    mirrored = clopper_pearson(case[1] - case[0], case[1])
    assert mirrored == pytest.approx((1 - EXACT[case][1], 1 - EXACT[case][0]), abs=1e-6)


@pytest.mark.parametrize("values", [[0.0] * 164, [1.0] * 164, [0.0] * 5])
def test_a_score_at_the_edge_is_not_sure(values: list[float]) -> None:
    low, high = score_interval(values, "x")
    assert high - low > 0.02
    assert low <= values[0] <= high


COVERED = [(0.0, 1.0), (0.005, 0.95), (0.02, 0.95), (0.1, 0.93), (0.5, 0.93), (0.98, 0.95)]


@pytest.mark.parametrize("chance, least", COVERED)
def test_intervals_cover_the_truth_about_as_often_as_they_say(chance: float, least: float) -> None:
    """Of 164 problems that pass with one chance; the bootstrap alone covered 55% at 0.005 and 83% at 0.02."""
    numbers, covered, known = random.Random(5), 0, {}
    for _ in range(2000):
        passed = sum(numbers.random() < chance for _ in range(164))
        if passed not in known:
            known[passed] = score_interval([1.0] * passed + [0.0] * (164 - passed), f"{passed}")
        low, high = known[passed]
        covered += low <= chance <= high
    assert covered / 2000 >= least


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_the_interval_of_a_score_reaches_at_least_as_far_as_the_bootstrap(passes: list[int]) -> None:
    values = [count / 4 for count in passes]
    low, high = score_interval(values, "x")
    inner = interval(values, "x")
    assert 0 <= low <= inner[0] <= inner[1] <= high <= 1


def test_away_from_the_edges_it_is_the_bootstrap() -> None:
    values = [float(index % 2) for index in range(164)]
    assert score_interval(values, "x") == interval(values, "x")


def test_a_difference_that_was_never_seen_may_be_there() -> None:
    low, high = difference_interval([0.0] * 164, "x")
    assert (low, high) == pytest.approx((-0.022242, 0.022242), abs=1e-6)
    assert difference_interval([0.5] * 10 + [0.0], "x") == interval([0.5] * 10 + [0.0], "x")
    with pytest.raises(ValueError, match="at least one problem"):
        difference_interval([], "x")


def test_golden_interval() -> None:
    """Scores that were published have these ends: the draws, and which of the sorted means are taken."""
    values = [float(index % 3 == 0) for index in range(50)]
    assert interval(values, "humaneval 1") == (0.22, 0.48)
    assert interval(values, "mbpp 10", confidence=0.8) == (0.26, 0.42)
