"""The identity of a section: the sha256 of its canonical JSON."""

from pydantic import BaseModel

from specs.common.files import digest_json


def identity(section: BaseModel) -> str:
    """Hex sha256 of a section with every default written out.

    Formatting, comments, key order and units (`2M`, `2_000_000`) do not change it.
    """
    return digest_json(section.model_dump(mode="json"))


def identities(section: BaseModel) -> dict[str, str]:
    """Identity of each section directly below this one, by field name."""
    parts = ((name, getattr(section, name)) for name in type(section).model_fields)
    return {name: identity(part) for name, part in parts if isinstance(part, BaseModel)}
