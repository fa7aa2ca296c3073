"""What belongs to this machine and never to an experiment: where working folders and mirrors lie.

Environment variables win over `settings.yaml` (git-ignored, in the project root), which wins over the defaults.
"""

import os
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from specs import ROOT as ROOT
from specs.common.errors import UserError
from specs.schema.base import Items, Section
from specs.schema.quantities import Bytes, Natural, Positive


class Settings(Section):
    """Machine-local folders; relative paths start at the project root."""

    store: str = "store"
    """Content-addressed store of fetched bytes."""
    scratch: str = "scratch"
    """Resumable state of stages that were interrupted."""
    measured: str = "measured"
    """What stages took on this machine: seconds, memory, throughput. Never an input of anything."""
    stall_seconds: Positive = 900
    """How long a rank waits for rows of the token store, or for another rank, before the run ends with a message."""
    mirrors: Items[str] = ()
    """Folders that are searched by digest before the network is."""
    cluster: str | None = None
    """Cluster profile that says where training runs; none means this machine."""
    engine: Literal["native", "ray"] = "native"
    """Where bulk work on documents runs: in this process and its children, or on a Ray cluster."""
    address: str = ""
    """Address of the Ray cluster, such as `auto`; empty starts one for the stage alone."""
    partitions: Natural = 0
    """Parts into which bulk work is divided; 0 for as many as workers."""
    workers: Natural = 0
    """Tasks that run at once; 0 for one on each processor."""
    memory: Bytes | None = None
    """Bytes that a shuffle of documents may hold at once, over all workers; a quarter of the machine's if not set."""

    def folder(self, name: str) -> Path:
        """Absolute path of the working folder `store`, `scratch` or `measured`."""
        return ROOT / Path(getattr(self, name)).expanduser()

    @property
    def mirror_folders(self) -> tuple[Path, ...]:
        """Absolute paths of the mirrors, in the order of search."""
        return tuple(ROOT / Path(mirror).expanduser() for mirror in self.mirrors)


def load_settings(**chosen: object) -> Settings:
    """Read the settings of this machine; `chosen` win over all else. Raises UserError where a value is not valid."""
    values: dict[str, object] = {}
    path = ROOT / "settings.yaml"
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        text = ""
    if text:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import YAMLError

        try:
            values = dict(YAML(typ="safe", pure=True).load(text) or {})
        except (YAMLError, TypeError, ValueError) as error:
            raise UserError(f"{path.name}: not a YAML mapping of settings: {' '.join(str(error).split())}") from error
    for name in (field for field in Settings.model_fields if field != "mirrors"):
        if value := os.environ.get(f"TWICE_{name.upper()}"):
            values[name] = value
    if value := os.environ.get("TWICE_MIRRORS"):
        values["mirrors"] = value.split(os.pathsep)
    try:
        return Settings.model_validate(values | chosen)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{path.name}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
