"""A run executed again, in a private folder that nobody could have prepared."""

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.tokens.token_store import MANIFEST, TokenStore
from runner.launching.launch import launch
from runner.training import checkpoint_files
from runner.training.checkpoint_files import KINDS, DamagedError
from runner.training.device import require_devices
from runner.training.digests import row_digests, tensor_digest
from runner.training.job import require_ranks
from runner.verification.recorded_run import RecordedRun, read_run
from specs.common.errors import UserError
from specs.common.files import canonical_json, sha256_file, write_json
from specs.common.run_folder import RunFolder
from specs.loading.settings import load_settings
from specs.pipeline import code
from specs.schema.experiment import Device


@dataclass(frozen=True)
class Inputs:
    """Files with the digests that a run states."""

    store: Path
    initial: Path | None
    """Weights that it began from; none where it began from fresh ones."""
    stamps: dict[Path, tuple[int, ...]]
    """What the file system says of each file, from before it was hashed."""

    def require_unchanged(self) -> None:
        """Raise UserError where a file was written since: what was read may not be what was hashed."""
        if written := [path for path, stamp in self.stamps.items() if _stamp(path) != stamp]:
            raise UserError(f"{written[0]} was written while the run was executed: nothing is shown; verify again")


@dataclass(frozen=True)
class Executed:
    """What a second execution left."""

    run: RecordedRun
    first: int
    """First step that was executed."""
    last: int
    notes: tuple[str, ...]
    """Checkpoints that were not begun from, each with the reason."""


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A new folder of the scratch folder, closed to other users, whose name nobody could know; it goes at the end."""
    scratch = load_settings().folder("scratch")
    scratch.mkdir(parents=True, exist_ok=True)
    folder = scratch / f"verify-{secrets.token_hex(16)}"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def execute(
    run: RecordedRun,
    checkpoints: dict[int, Path],
    first: int,
    last: int,
    *,
    whole: bool,
    ranks: int,
    device: Device,
    inputs: Inputs,
    folder: Path,
) -> Executed:
    """Execute a run again in a new private folder, from the newest checkpoint before step `first` to step `last`.

    `checkpoints`: by step; one is begun from only if the journal states the digest of each of its tensors, else an
    older one, or none. `whole`: to the finished run. Raises UserError where it cannot be executed here, and
    StoppedError where it was asked to stop.
    """
    files = RunFolder(folder)
    begin, accepted, notes = 1, tuple[str, ...](), list[str]()
    for step in reversed([step for step in checkpoints if step < first]):
        try:
            accepted = (_copy_checkpoint(run, step, checkpoints[step], files.checkpoints),)
        except DamagedError as error:
            notes.append(f"checkpoint {checkpoints[step].name} is not begun from: {error}")
            continue
        begin = step + 1
        break
    own = code.code_of(run.stage)
    job = run.job(
        device=device,
        store=str(inputs.store.resolve()),
        initial=str(inputs.initial.resolve()) if inputs.initial else None,
        scratch=str(folder),
        measured=str(folder / "measured"),
        code=own.model_copy(update={"accepted": accepted}),
        until=None if whole else last,
    )
    require_ranks(job.training, ranks)
    require_devices(device, ranks)
    write_json(files.job, job.model_dump(mode="json"))
    launch(files.job, ranks, job.threads)
    own.require_unchanged()
    inputs.require_unchanged()
    return Executed(read_run(files.finished.path if whole else folder), begin, last, tuple(notes))


def find_inputs(run: RecordedRun, folder: Path) -> Inputs:
    """Files below a folder that have the digests that a run states; every byte of the store is hashed.

    Raises UserError where there is none.
    """

    stamps: dict[Path, tuple[int, ...]] = {}

    def find(what: str, name: str, digest: str) -> Path:
        for path in sorted(folder.rglob(name)):
            if path.is_file():
                stamps[path] = _stamp(path)
                if sha256_file(path) == digest:
                    return path
                del stamps[path]
        raise UserError(
            f"{what} of {run.folder} is not below {folder}: no {name} there has sha256 {digest}; "
            "give the folder with --inputs, or make it with `dvc repro` or `dvc pull`"
        )

    store = find("the token store", MANIFEST, run.inputs["token_store"]).parent
    stamps |= {path: _stamp(path) for path in store.rglob("*") if path.is_file()}
    TokenStore.open(store, verify=True)
    if "weights" not in run.inputs:
        return Inputs(store, None, stamps)
    initial = find("the pretrained model", RunFolder(folder).weights.name, run.inputs["weights"])
    return Inputs(store, initial, stamps)


def _stamp(path: Path) -> tuple[int, ...]:
    """Inode, size and times of a file: the time of the last change cannot be set back."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _copy_checkpoint(run: RecordedRun, step: int, source: Path, checkpoints: Path) -> str:
    """Copy a checkpoint and hold the copy against the journal; returns the digest of the code that wrote it.

    Raises DamagedError, and leaves no copy, where it is not the state that the journal states.
    """
    copy = checkpoints / f"step-{step}"
    try:
        manifest = checkpoint_files.read_manifest(source)
        copy.mkdir(parents=True)
        for name in (checkpoint_files.MANIFEST, *manifest["files"]):
            if Path(name).name != name:
                raise DamagedError(f"it names a file of another folder: {name}")
            shutil.copyfile(source / name, copy / name)
        _require_stated(run, step, copy)
        return str(manifest["code"])
    except DamagedError:
        shutil.rmtree(checkpoints, ignore_errors=True)
        raise
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        shutil.rmtree(checkpoints, ignore_errors=True)
        raise DamagedError(f"it cannot be read: {error}") from error


def _require_stated(run: RecordedRun, step: int, copy: Path) -> None:
    manifest = checkpoint_files.verify(copy)
    updates, entry, prefix = 0, None, 0
    for entry in run.entries():
        updates += "skipped" not in entry
        if entry["step"] == step:
            break
    if entry is None or "digests" not in entry:
        raise DamagedError(f"the journal states no digests of the tensors after step {step}")
    with run.files.steps.open("rb") as journal, RunFolder(copy).steps.open("rb") as lines:
        prefix = sum(line == stated for line, stated in zip(lines, journal, strict=False))
    if prefix != step or RunFolder(copy).steps.read_bytes().count(b"\n") != step:
        raise DamagedError("its journal is not that of the run")
    stated = {"run": run.start, "chain": entry["chain"], "updates": updates}
    if odd := [key for key, value in stated.items() if manifest[key] != value]:
        raise DamagedError(f"its {' and '.join(odd)} are not those of the journal")
    for kind in KINDS:
        tensors = checkpoint_files.whole(copy, manifest, kind)
        digests = {name: tensor_digest(tensor.shape, row_digests(tensor)) for name, tensor in tensors}
        if canonical_json(digests) != canonical_json(entry["digests"][kind]):
            raise DamagedError(f"its tensors ({kind}) are not those whose digests the journal states")
