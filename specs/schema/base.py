"""The base of every section of a spec, and the types that sections share."""

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")
# YAML has lists only; strict mode would refuse them where a frozen tuple is declared.
Items = Annotated[tuple[T, ...], Field(strict=False)]
SomeItems = Annotated[tuple[T, ...], Field(strict=False, min_length=1)]

Name = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=60)]
"""A name in kebab case: names key the nodes of the lock and the folders of artifacts."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values are frozen, types are strict."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def require_unique(what: str, names: list[str]) -> None:
    """Raise ValueError where a name occurs twice."""
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{what} {name!r} is listed twice")
