from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import BaseModel

from specs.schema.base import Section
from specs.schema.data import WeightedSource
from specs.schema.experiment import Experiment
from specs.schema.rationale import description, reason
from specs.schema.sources import Source
from specs.schema.training import Checkpoints


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
    assert not missing, f"say under each field why a reviewer should care: {', '.join(missing)}"


def test_a_field_without_a_reason_would_be_named() -> None:
    class Fresh(Section):
        seed: int
        unexplained: ClassVar[int] = 1
        quiet: int

    class Whole(Section):
        parts: tuple[Fresh, ...]

    assert without_reason(Whole) == ["Whole.parts", "Fresh.seed", "Fresh.quiet"]


def test_descriptions_are_sentences() -> None:
    said = {
        f"{section.__name__}.{field}": description(section, field)
        for section in sections_in(Experiment)
        for field in section.model_fields
    }
    assert [name for name, text in said.items() if not text[0].isupper() or not text.endswith(".")] == []


def test_a_reason_is_the_first_sentence() -> None:
    assert (
        reason(Checkpoints, "every") == "Steps between checkpoints: work lost to a failure against time spent saving."
    )
    assert description(Checkpoints, "every").endswith("The last step is always saved.")
    assert reason(WeightedSource, "sha256") == reason(Source, "sha256") != ""
