import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from specs.schema.quantities import Bytes, Count, Fraction, Natural, Real

COUNT, BYTES, FRACTION = TypeAdapter(Count), TypeAdapter(Bytes), TypeAdapter(Fraction)


@pytest.mark.parametrize(
    ("text", "number"),
    [("700B", 700 * 10**9), ("2M", 2_000_000), ("64k", 64_000), ("2Mi", 2_097_152), ("38_400", 38_400), ("1.5k", 1500)],
)
def test_counts_read_as_people_write_them(text: str, number: int) -> None:
    assert COUNT.validate_python(text) == number


@pytest.mark.parametrize(("text", "number"), [("16MB", 16_000_000), ("16MiB", 2**24), ("1GB", 10**9), (12, 12)])
def test_sizes_may_carry_their_unit(text: object, number: int) -> None:
    assert BYTES.validate_python(text) == number


@pytest.mark.parametrize(("text", "number"), [("10%", 0.1), (1, 1.0), ("0.5", 0.5), (0.25, 0.25)])
def test_fractions(text: object, number: float) -> None:
    assert FRACTION.validate_python(text) == number


@pytest.mark.parametrize("text", ["2 apples", "64kk", "", "B", "1e", "--1", "1.5", "2MB"])
def test_what_is_not_a_count_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        COUNT.validate_python(text)


@given(st.integers(min_value=0, max_value=10**15), st.sampled_from([("k", 10**3), ("M", 10**6), ("Gi", 2**30)]))
def test_a_suffix_multiplies_exactly(digits: int, suffix: tuple[str, int]) -> None:
    assert COUNT.validate_python(f"{digits}{suffix[0]}") == digits * suffix[1]


@given(st.text(max_size=12))
def test_no_text_causes_anything_but_a_validation_error(text: str) -> None:
    for adapter in (COUNT, BYTES, FRACTION):
        with contextlib.suppress(ValidationError):
            adapter.validate_python(text)


@pytest.mark.parametrize(
    ("text", "readings"),
    [
        ("1,5e-4", "write 15e-4 or 1.5e-4"),
        ("0,003", "write 0003 or 0.003"),
        ("1,5M", "write 15M or 1.5M"),
        ("2,097,152", "write 2097152"),
        ("10,5%", "write 105% or 10.5%"),
    ],
)
@pytest.mark.parametrize("adapter", [COUNT, BYTES, FRACTION, TypeAdapter(Real)])
def test_a_comma_is_refused_with_both_of_its_readings(adapter: TypeAdapter[object], text: str, readings: str) -> None:
    with pytest.raises(ValidationError, match=readings):
        adapter.validate_python(text)


@given(st.integers(min_value=0, max_value=10**9), st.integers(min_value=0, max_value=10**6))
def test_no_number_with_a_comma_has_a_value(left: int, right: int) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Real).validate_python(f"{left},{right}")


@pytest.mark.parametrize("text", ["1e30", "9.3e18", "10Ti", "-1"])
def test_a_count_is_no_larger_than_what_reads_it_can_hold(text: str) -> None:
    if text == "10Ti":
        assert COUNT.validate_python(text) == 10 * 2**40
        return
    with pytest.raises(ValidationError):
        TypeAdapter(Natural).validate_python(text)
