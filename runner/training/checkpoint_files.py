"""A checkpoint as it lies on disk: found by name, verified to the byte, read by rows whoever wrote them.

The folder `step-N` holds one safetensors file for each rank that wrote it, `steps.jsonl` up to that step, and
`manifest.json` with the sha256 of every file and of itself. Nothing in it is executable: no pickles.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from runner.training.sharding import shard_range
from specs.common.files import digest_json, sha256_file

FORMAT = 2
MANIFEST = "manifest.json"
KINDS = ("value", "first", "second")
"""Master weights, and AdamW's moments of the gradient."""


class DamagedError(Exception):
    """A checkpoint that is not what was written; the message says what is wrong."""


def find(folder: Path) -> list[Path]:
    """Finished checkpoints in a folder, newest first. (Their names are given once they are whole.)"""
    paths = (path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdigit())
    return sorted(paths, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """The step after which a checkpoint was written, from its name."""
    return int(path.name.removeprefix("step-"))


def shard_name(rank: int, ranks: int) -> str:
    """Name of the file that a rank writes."""
    return f"rank-{rank:05d}-of-{ranks:05d}.safetensors"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint. Raises DamagedError where it is not what was written, or another step's."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        stated = manifest.pop("digest")
    except OSError as error:
        raise DamagedError(f"{MANIFEST} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DamagedError(f"{MANIFEST} is not readable") from error
    if digest_json(manifest) != stated:
        raise DamagedError(f"{MANIFEST} is not what was written")
    if manifest["format"] != FORMAT:
        raise DamagedError(f"its format is {manifest['format']}, this code reads {FORMAT}")
    if folder.name != f"step-{manifest['step']}":
        raise DamagedError(f"its manifest is that of step {manifest['step']}")
    return dict(manifest)


def verify_file(folder: Path, name: str, stated: Mapping[str, Any]) -> None:
    """Raise DamagedError unless a file of a checkpoint has the bytes that its manifest states."""
    path = folder / name
    if not path.is_file():
        raise DamagedError(f"{name} is missing")
    if (size := path.stat().st_size) != stated["bytes"]:
        raise DamagedError(f"{name} has {size:,} bytes instead of {stated['bytes']:,}")
    try:
        if sha256_file(path) != stated["sha256"]:
            raise DamagedError(f"{name} has another sha256 than was written")
    except OSError as error:
        raise DamagedError(f"{name} cannot be read: {error.strerror}") from error


def verify(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint after every file was found to be what was written; else raises DamagedError."""
    manifest = read_manifest(folder)
    for name, stated in manifest["files"].items():
        verify_file(folder, name, stated)
    return manifest


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file. Raises OSError where it cannot be."""
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        # The library reports a full disk as an error of its own, with the number in its text.
        if number := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        raise


def pieces(
    folder: Path, manifest: Mapping[str, Any], ranges: Mapping[str, tuple[int, int]]
) -> Iterator[tuple[str, str, int, Tensor]]:
    """Rows of every tensor as the writers hold them: kind, name, row of the whole tensor, rows.

    `ranges` gives the rows that are wanted of each tensor, start and stop; only files that hold some are opened. Raises
    DamagedError for unreadable files.
    """
    ranks = manifest["ranks"]
    try:
        for writer in range(ranks):
            wanted = []
            for name, (start, stop) in ranges.items():
                begin, end = shard_range(manifest["shapes"][name][0], writer, ranks)
                low, high = max(begin, start), min(end, stop)
                if low < high:
                    wanted.append((name, low, slice(low - begin, high - begin)))
            if not wanted:
                continue
            with safe_open(folder / shard_name(writer, ranks), framework="pt") as file:
                for kind in KINDS:
                    for name, low, rows in wanted:
                        yield kind, name, low, file.get_slice(f"{kind}/{name}")[rows]
    except (OSError, SafetensorError) as error:
        raise DamagedError(str(error)) from error


def whole(folder: Path, manifest: Mapping[str, Any], kind: str = "value") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of one kind, whole, in the model's order: fp32 on the CPU."""
    ranks = manifest["ranks"]
    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(folder / shard_name(r, ranks), framework="pt")) for r in range(ranks)]
        for name in manifest["shapes"]:
            yield name, torch.cat([file.get_tensor(f"{kind}/{name}") for file in files])


def outlive(checkpoints: Path, kept: Path, every: int) -> None:
    """Move the checkpoints of every so many steps to a folder that stays when a run's scratch folder goes."""
    for path in find(checkpoints):
        if step_of(path) % every == 0:
            kept.mkdir(parents=True, exist_ok=True)
            target = kept / path.name
            shutil.rmtree(target, ignore_errors=True)
            path.rename(target)
