"""One training phase as a stage: from a token store, and weights where it continues from some, to a finished run."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

from data_pipeline.tokens.token_store import MANIFEST, TokenStore
from runner.launching.cluster import Local, load_profile
from runner.launching.launch import StoppedError, dispatch, ranks_of_node, render
from runner.training import checkpoint_files
from runner.training.device import kind_of, require_devices
from runner.training.job import STOPPED, Job, parse_steps, require_ranks
from specs.common.errors import UserError
from specs.common.files import replacing, sha256_file, write_json
from specs.common.run_folder import RunFolder
from specs.loading.settings import load_settings
from specs.pipeline import code, stage
from specs.pipeline.nodes import RunNode
from specs.schema.training import Training


@dataclass(frozen=True)
class Where:
    """Where a phase runs, as its command line says."""

    ranks: int | None = None
    """Processes instead of `cluster.devices`."""
    profile: Path | None = None
    """Cluster profile instead of the one that the settings name."""
    trace: str | None = None
    """First and last step that rank 0 traces, as `A:B`."""
    accept_code_change: bool = False
    """Go on from state that other code of this stage left, and record it."""
    render: bool = False
    """Print what would be handed to the cluster, and end."""


def where_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a training stage that become its `Where`."""
    for option in (
        click.option("--trace", help="Trace these steps of rank 0 with torch's profiler, such as 10:12."),
        click.option(
            "--accept-code-change",
            is_flag=True,
            envvar="TWICE_ACCEPT_CODE_CHANGE",
            help="Go on from state that other code left; the run's journal and record say so.",
        ),
        click.option("--render", is_flag=True, help="Print the script or manifest for the cluster, and run nothing."),
        click.option(
            "--profile",
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            help="Cluster profile instead of the one that TWICE_CLUSTER or settings.yaml names.",
        ),
        click.option(
            "--ranks", type=click.IntRange(min=1), help="Processes instead of cluster.devices; the same bits."
        ),
    ):
        command = option(command)
    return command


def run_phase(
    phase: Literal["pretrain", "finetune"],
    address: str,
    run: RunNode,
    training: Training,
    steps: int,
    *,
    store: Path,
    initial: Path | None,
    out: Path,
    where: Where,
) -> None:
    """Train `run.architecture` for a number of steps over a store; `out` becomes the finished run's folder.

    Ranks run here or where a cluster profile says. Killed anywhere, the next call goes on from the last checkpoint, on
    any number of ranks at level `topology`; a job that a cluster still runs is attached to.
    Exits with code 75 after a request to stop. Raises UserError where inputs, ranks or devices do not fit.
    """
    ranks, profile = where.ranks or run.cluster.devices, load_profile(where.profile)
    require_ranks(training, ranks)
    per_node = ranks_of_node(profile, ranks, run.cluster.devices_per_node)
    if isinstance(profile, Local) and not where.render:
        require_devices(run.cluster.device, ranks)
    _require_fit(run, TokenStore.open(store, verify=False), store)
    name = address.split(".")[-1]
    inputs = {"token_store": sha256_file(store / MANIFEST)}
    if initial is not None:
        inputs["weights"] = sha256_file(initial)
    section = {
        "architecture": run.architecture.model_dump(mode="json"),
        "vocab_size": run.vocab_size,
        "training": training.model_dump(mode="json", include=set(Training.model_fields)),
        "steps": steps,
        "level": run.reproducibility.level,
        "threads": run.reproducibility.threads,
        "device": run.cluster.device if kind_of(run.cluster.device) == "cuda" else "cpu",
    }
    with stage.scratch(phase, section, inputs, accept_code_change=where.accept_code_change) as scratch:
        folder = RunFolder(scratch)
        if not folder.finished.path.is_dir():
            if not folder.submitted.exists():  # a job at work is attached to at once: its store was verified
                verify_once(store, folder.verified)
            job = Job.model_validate(
                section
                | {
                    "stage": phase,
                    "name": name,
                    "inputs": inputs,
                    "store": str(store.resolve()),
                    "initial": str(initial.resolve()) if initial else None,
                    "scratch": str(scratch),
                    "code": code.current(),
                    "trace": parse_steps(where.trace, steps, "--trace") if where.trace else None,
                    "measured": str(load_settings().folder("measured") / f"{phase}@{name}"),
                    "launch": {"profile": profile.model_dump(mode="json"), "ranks": ranks, "ranks_per_node": per_node},
                }
            )
            path = folder.job
            write_json(path, job.model_dump(mode="json"))
            if where.render:
                print(render(path, job, ranks, per_node, profile), end="")
                sys.exit(0)
            try:
                dispatch(path, job, ranks, per_node, profile)
            except StoppedError as error:
                print(f"{phase}: {error}; run the same command to go on", file=sys.stderr)
                sys.exit(STOPPED)
        with replacing(out) as temporary:
            shutil.copytree(folder.finished.path, temporary)
        if every := training.checkpoints.keep_every:
            checkpoint_files.outlive(folder.checkpoints, scratch.with_suffix(".kept"), every)


def verify_once(store: Path, note: Path) -> None:
    """Read every byte of a store and compare it with its manifest, unless a note says so much of the same files.

    Raises UserError where the store is not whole.
    """
    state = state_of(store)
    if not note.exists() or json.loads(note.read_bytes()) != state:
        TokenStore.open(store, verify=True)
        write_json(note, state)


def state_of(store: Path) -> list[list[int]]:
    """Size, time of change and inode of each file of a store: none stays as it is where a file is written again."""
    names = (MANIFEST, *TokenStore.open(store, verify=False).manifest.files)
    return [[stat.st_size, stat.st_mtime_ns, stat.st_ino] for stat in ((store / name).stat() for name in names)]


def _require_fit(run: RunNode, store: TokenStore, path: Path) -> None:
    stated = {"context_length": run.architecture.context_length, "vocab_size": run.vocab_size}
    for name, wanted in stated.items():
        if (found := getattr(store.manifest, name)) != wanted:
            raise UserError(f"{path}: its {name} is {found}, the run's is {wanted}; pack the corpus for this run")
