from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import BaseModel

from specs.schema.base import Section
from specs.schema.experiment import Experiment
from specs.schema.rationale import REASONS, reason


def sections_in(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A section and every one that its fields may hold."""
    yield kind

    def within(annotation: Any) -> Iterator[type[BaseModel]]:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from sections_in(annotation)
        for argument in getattr(annotation, "__args__", ()):
            yield from within(argument)

    for field in kind.model_fields.values():
        yield from within(field.annotation)


def without_reason(kind: type[BaseModel]) -> list[str]:
    return [
        f"{section.__name__}.{field}"
        for section in dict.fromkeys(sections_in(kind))
        for field in section.model_fields
        if not reason(section, field)
    ]


def test_every_field_says_why_it_matters() -> None:
    missing = without_reason(Experiment)
    assert not missing, f"say in specs/schema/rationale.py why a reviewer should care: {', '.join(missing)}"


def test_a_field_without_a_reason_would_be_named() -> None:
    class Fresh(Section):
        seed: int
        unexplained: ClassVar[int] = 1
        quiet: int

    class Whole(Section):
        parts: tuple[Fresh, ...]

    assert without_reason(Whole) == ["Whole.parts", "Fresh.seed", "Fresh.quiet"]


def test_no_reason_outlives_its_field() -> None:
    known: dict[str, set[str]] = {}
    for section in sections_in(Experiment):
        for base in section.__mro__:
            if issubclass(base, BaseModel):
                known.setdefault(base.__name__, set()).update(base.model_fields)
    stale = [
        f"{kind}.{field}" for kind, fields in REASONS.items() for field in fields if field not in known.get(kind, ())
    ]
    assert not stale, f"specs/schema/rationale.py speaks of fields that are gone: {', '.join(stale)}"


def test_reasons_are_sentences() -> None:
    said = {f"{kind}.{field}": text for kind, fields in REASONS.items() for field, text in fields.items()}
    assert [name for name, text in said.items() if not text[0].isupper() or not text.endswith(".")] == []
