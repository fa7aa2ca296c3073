"""Ratios of paired times: recorded ones, and what must hold for all."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.ab.statistics import Visit, exponent, ratio

RECORDED = json.loads(Path(__file__).with_name("recorded.json").read_bytes())
"""Processor seconds of A/B runs on a busy machine, against revisions with a tenth of the work done twice, and equal."""

seconds = st.floats(0.01, 100, allow_nan=False)
visits = st.lists(st.lists(st.tuples(seconds, seconds), min_size=1, max_size=6), min_size=1, max_size=4)


def cases(planted: str) -> list[object]:
    return [
        pytest.param(visits, id=f"{name}-{number}")
        for number, run in enumerate(RECORDED)
        for name, visits in run["cases"].items()
        if run["planted"] == planted
    ]


@pytest.mark.parametrize("visits", cases("10%"))
def test_a_planted_tenth_is_an_alarm(visits: list[Visit]) -> None:
    found = ratio(visits)
    assert found.worse_than(0.05)
    assert 1.05 < found.value < 1.25


@pytest.mark.parametrize("visits", cases("nothing"))
def test_identical_revisions_are_none(visits: list[Visit]) -> None:
    assert not ratio(visits).worse_than(0.05)


@pytest.mark.parametrize("visits", cases("nothing"))
def test_a_gain_is_no_alarm(visits: list[Visit]) -> None:
    faster = [[(base, head * 0.8) for base, head in visit] for visit in visits]
    found = ratio(faster)
    assert found.high < 0.95
    assert not found.worse_than(0.05)


def test_both_conditions_are_needed() -> None:
    scattered = [[(1.0, 0.5), (1.0, 1.2), (1.0, 1.2)], [(1.0, 0.5), (1.0, 1.3), (1.0, 0.6)]]
    unsure = ratio(scattered)
    assert unsure.low < 1
    assert not unsure.worse_than(0)
    slight = ratio([[(1.0, 1.02)] * 8] * 3)
    assert slight.low > 1
    assert not slight.worse_than(0.05)


def test_disturbed_pairs_change_little() -> None:
    calm = [[(1.0, 1.0 + 0.001 * index) for index in range(8)] for _ in range(3)]
    disturbed = [[*visit[:6], (1.0, 9.0), (1.0, 5.0)] for visit in calm]
    assert ratio(disturbed).value < 1.01


@given(visits)
@settings(max_examples=10)
def test_the_same_numbers_give_the_same_interval_around_the_value(visits: list[Visit]) -> None:
    found = ratio(visits)
    assert found == ratio(visits)
    assert found.low <= found.high


@given(visits)
@settings(max_examples=10)
def test_exchanging_the_sides_inverts_the_value(visits: list[Visit]) -> None:
    exchanged = [[(head, base) for base, head in visit] for visit in visits]
    assert ratio(exchanged).value == pytest.approx(1 / ratio(visits).value)


@pytest.mark.parametrize("visits", [[], [[]], [[(1.0, 0.0)]], [[(-1.0, 1.0)]]])
def test_what_is_no_measurement_is_refused(visits: list[Visit]) -> None:
    with pytest.raises(ValueError, match="visit"):
        ratio(visits)


@given(st.floats(0.1, 3), st.floats(0.01, 10))
def test_the_exponent_of_a_power_is_its_power(power: float, factor: float) -> None:
    sizes = [1.0, 2.0, 4.0, 8.0, 16.0]
    assert exponent(sizes, [factor * size**power for size in sizes]) == pytest.approx(power)


def test_a_fixed_cost_lowers_the_exponent() -> None:
    sizes = [1.0, 2.0, 4.0, 8.0, 16.0]
    assert exponent(sizes, [10 + size for size in sizes]) < 0.5


def test_growth_needs_two_sizes() -> None:
    with pytest.raises(ValueError, match="two sizes"):
        exponent([1.0, 1.0], [1.0, 2.0])
