"""Numbers as people write them: `700B`, `2M`, `64k`, `16MiB`, `1%`."""

import re
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

_SUFFIXES = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "B": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}
_NUMBER = re.compile(r"(?P<digits>[+-]?[0-9][0-9_,]*(\.[0-9]+)?([eE][+-]?[0-9]+)?)\s*(?P<suffix>[A-Za-z%]*)")


def parse_number(value: object, units: tuple[str, ...] = ()) -> object:
    """Turn text such as `700B` or `16MiB` into an exact number; leave anything that is not text alone.

    `units` are endings that may follow the suffix and carry no factor, such as `B` for bytes.
    Raises ValueError where the text is not a number or ends in an unknown unit.
    """
    if not isinstance(value, str):
        return value
    match = _NUMBER.fullmatch(value.strip())
    if match is None:
        raise ValueError(f"not a number: {value!r}")
    if "," in match["digits"]:
        grouped, point = value.replace(",", ""), value.replace(",", ".", 1)
        readings = f"{grouped} or {point}" if value.count(",") == 1 else grouped
        raise ValueError(f"the comma in {value!r} means one thing here and another elsewhere: write {readings}")
    suffix = match["suffix"]
    for unit in units:
        if suffix.endswith(unit) and suffix.removesuffix(unit) in _SUFFIXES:
            suffix = suffix.removesuffix(unit)
            break
    if suffix == "%":
        factor = Decimal(1) / 100
    elif suffix in _SUFFIXES:
        factor = Decimal(_SUFFIXES[suffix])
    else:
        known = [f"{s}{unit}" for s in _SUFFIXES for unit in (units or ("",)) if s and not (s == "B" and unit)]
        meant = next((s for s in known if s.lower() == suffix.lower()), None)
        hint = f"did you mean {meant}?" if meant else f"write one of {', '.join(known)}"
        raise ValueError(f"unknown unit {suffix!r} in {value!r}; {hint}")
    try:
        number = Decimal(match["digits"].replace("_", "")) * factor
    except InvalidOperation as error:
        raise ValueError(f"not a number: {value!r}") from error
    return int(number) if number == number.to_integral_value() else float(number)


def _count(value: object) -> object:
    number = parse_number(value)
    # YAML reads `2e6` as a float: a whole float is meant as a count.
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _size(value: object) -> object:
    return parse_number(value, units=("B",))


def _fraction(value: object) -> object:
    number = parse_number(value)
    return float(number) if isinstance(number, int) and not isinstance(number, bool) else number


Count = Annotated[int, BeforeValidator(_count)]
"""A whole number; `2M` is 2,000,000 and `2Mi` is 2,097,152."""

LARGEST = 2**63 - 1
"""The largest whole number of a spec: more do not fit the integers of the libraries that read them."""

Positive = Annotated[Count, Field(gt=0, le=LARGEST)]
Natural = Annotated[Count, Field(ge=0, le=LARGEST)]

Bytes = Annotated[int, BeforeValidator(_size), Field(gt=0, le=LARGEST, json_schema_extra={"unit": "bytes"})]
"""A size in bytes; `16MB` is 16,000,000 and `16MiB` is 16,777,216."""


def _unit(name: str) -> Any:
    """Metadata that names the unit of a field, for the schema and the docs."""
    return Field(json_schema_extra={"unit": name})


Steps = Annotated[Positive, _unit("steps")]
Tokens = Annotated[Positive, _unit("tokens")]
Sequences = Annotated[Positive, _unit("sequences")]
Seconds = Annotated[Positive, _unit("seconds")]
Words = Annotated[Positive, _unit("words")]
Lines = Annotated[Positive, _unit("lines")]
Characters = Annotated[Positive, _unit("characters")]
Threads = Annotated[Positive, _unit("threads")]

Real = Annotated[float, BeforeValidator(_fraction), Field(allow_inf_nan=False)]
Epochs = Annotated[Real, Field(gt=0, le=10_000, json_schema_extra={"unit": "passes"})]
"""Passes over documents; `2.5` is two and a half, and `50%` half a pass."""
Fraction = Annotated[
    float,
    BeforeValidator(_fraction),
    Field(ge=0, le=1, allow_inf_nan=False, json_schema_extra={"unit": "share from 0 to 1"}),
]
"""A share between 0 and 1; `10%` is 0.1."""
