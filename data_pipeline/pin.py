"""Pin: what a locator leads to, as the lines that a source in a spec needs: sha256 and size."""

import hashlib
from pathlib import Path

import click
import requests
from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from data_pipeline.fetching.content_store import WrongBytesError
from data_pipeline.fetching.origin import Origin, UnreachableError
from data_pipeline.fetching.reproducible_tar import UnreadableError
from specs.common.errors import UserError
from specs.common.progress import Progress
from specs.loading import settings
from specs.pipeline import stage
from specs.schema.sources import Locator, Pinned

_NOT_KNOWN_YET = "0" * 64


def pin(locator: Locator, root: Path) -> Pinned:
    """The locator with the digest and the length of the bytes it leads to now.

    Raises UserError where it leads to none, or the package index states another digest beforehand.
    """
    digest, size = hashlib.sha256(), 0
    with Origin(root) as origin, Progress("pin", unit="bytes") as progress:
        try:
            for chunk in origin.chunks(Pinned(locator=locator, sha256=_NOT_KNOWN_YET), progress.advance):
                digest.update(chunk)
                size += len(chunk)
        except WrongBytesError as error:
            raise UserError(f"{error}: write that into the spec") from error
        except (UnreachableError, UnreadableError, requests.RequestException, OSError) as error:
            raise UserError(f"cannot pin: {error}") from error
    return Pinned(locator=locator, sha256=digest.hexdigest(), size=size)


def parse_locator(text: str) -> Locator:
    """A locator from YAML, or from a path alone: a folder or a file. Raises UserError where it is neither."""
    try:
        value = YAML(typ="safe", pure=True).load(text)
        if isinstance(value, str):
            value = {"kind": "folder" if (settings.ROOT / value).is_dir() else "file", "path": value}
        locator: Locator = TypeAdapter(Locator).validate_python(value)
        return locator
    except YAMLError as error:
        raise UserError(f"{text!r} is no locator: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{text!r} is no locator: {place + ': ' if place else ''}{first['msg']}") from error


@click.command(
    epilog="Example: python -m data_pipeline.pin data/notes; "
    "python -m data_pipeline.pin '{kind: git, repository: repositories/tool.bundle, commit: ...}'"
)
@click.argument("locator")
@stage.command
def main(locator: str) -> None:
    """Print sha256 and size of what LOCATOR leads to: a path below the project root, or a locator as in a spec."""
    pinned = pin(parse_locator(locator), settings.ROOT)
    click.echo(f"sha256: {pinned.sha256}\nsize: {pinned.size}")


if __name__ == "__main__":
    main()
