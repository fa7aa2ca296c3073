"""The schedule as a function: its shape, known points, and bits that no processor changes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.training.schedule import cos_pi, learning_rate
from specs.schema.training import Schedule


@given(
    kind=st.sampled_from(["cosine", "constant", "wsd"]),
    warmup=st.integers(0, 30),
    steps=st.integers(1, 100),
    final=st.floats(0, 1),
)
def test_schedules_rise_to_the_peak_and_never_rise_again(kind: str, warmup: int, steps: int, final: float) -> None:
    schedule = Schedule.model_validate({"kind": kind, "warmup_steps": warmup, "final_fraction": final})
    rates = [learning_rate(step, steps, 2.0, schedule) for step in range(steps)]
    assert all(0 <= rate <= 2.0 for rate in rates)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert all(later <= earlier + 1e-12 for earlier, later in zip(rates[warmup:], rates[warmup + 1 :], strict=False))
    if warmup < steps - 1 and kind != "constant":
        assert rates[-1] == pytest.approx(2.0 * final)


def test_known_points_of_each_schedule() -> None:
    cosine = Schedule(warmup_steps=4, final_fraction=0.1)
    assert learning_rate(0, 13, 1.0, cosine) == pytest.approx(0.2)
    assert learning_rate(4, 13, 1.0, cosine) == 1.0
    assert learning_rate(8, 13, 1.0, cosine) == pytest.approx(0.55)
    wsd = Schedule(kind="wsd", warmup_steps=0, final_fraction=0.0, decay_fraction=0.2)
    assert [learning_rate(step, 10, 1.0, wsd) for step in (0, 7, 8, 9)] == [1.0, 1.0, 0.5, 0.0]


@given(x=st.floats(0, 1))
def test_the_cosine_is_the_cosine(x: float) -> None:
    assert abs(cos_pi(x) - math.cos(math.pi * x)) < 6e-16  # pi x is rounded too


def test_the_cosine_is_exact_where_the_number_is_known() -> None:
    assert [cos_pi(x) for x in (0, 0.5, 1)] == [1, 0, -1]
    assert all(cos_pi(1 - n / 512) == -cos_pi(n / 512) for n in range(513))


def test_learning_rates_have_these_bits() -> None:
    """Older runs rely on them."""
    cosine = Schedule(warmup_steps=20, final_fraction=0.1)
    bits = {
        0: "0x1.2b97d835d548ep-12",
        7: "0x1.2b97d835d548ep-9",
        50: "0x1.6c73bef38e86fp-8",
        91: "0x1.f7ab12b9559d7p-9",
        150: "0x1.27afb4edd12d2p-10",
        183: "0x1.3a92a30553262p-11",
    }
    assert {step: learning_rate(step, 184, 6e-3, cosine).hex() for step in bits} == bits
    wsd = Schedule(kind="wsd", warmup_steps=20, final_fraction=0.1, decay_fraction=0.2)
    bits = {100: "0x1.89374bc6a7efap-8", 150: "0x1.62f5078447564p-8", 170: "0x1.47536470c8ae9p-9"}
    assert {step: learning_rate(step, 184, 6e-3, wsd).hex() for step in bits} == bits
