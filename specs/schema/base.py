"""The base of every section of a spec, and the types that sections share."""

from typing import Annotated, Self, TypeVar

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

T = TypeVar("T")
# YAML has lists only; strict mode would refuse them where a frozen tuple is declared.
Items = Annotated[tuple[T, ...], Field(strict=False)]
SomeItems = Annotated[tuple[T, ...], Field(strict=False, min_length=1)]

Name = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=60)]
"""A name in kebab case: names key the nodes of the lock and the folders of artifacts."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _licence(expression: str) -> str:
    if expression == "NOASSERTION":
        return expression
    try:
        return str(canonicalize_license_expression(expression))
    except InvalidLicenseExpression as error:
        raise ValueError(
            f"{expression!r} is no SPDX expression: write one such as MIT, `MIT OR Apache-2.0` or LicenseRef-internal, "
            "or NOASSERTION where nothing is known"
        ) from error


Licence = Annotated[str, AfterValidator(_licence)]
"""An SPDX expression in SPDX's own spelling, or NOASSERTION where nothing is known."""


Language = Annotated[str, AfterValidator(str.lower)]
"""A language by its name in `data_pipeline/documents/languages.tsv`, case aside; `twice check` knows them all."""


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values are frozen, types are strict."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @model_validator(mode="after")
    def _lower_limits_lie_below_upper_ones(self) -> Self:
        for lower in type(self).model_fields:
            first, _, what = lower.partition("_")
            upper = {"min": f"max_{what}", "first": f"last_{what}"}.get(first, "")
            least, most = getattr(self, lower), getattr(self, upper, None)
            if least is not None and most is not None and least > most:
                raise ValueError(f"{lower} ({least:,}) is above {upper} ({most:,}): nothing lies between them")
        return self


def require_unique(path: str, names: list[str], remedy: str = "give it another") -> None:
    """Raise ValueError where a name occurs twice; `path` is that of the list, with `{}` for the index."""
    for index, name in enumerate(names):
        if name in names[:index]:
            raise ValueError(f"{path.format(index)} {name!r} is taken by {path.format(names.index(name))}: {remedy}")
