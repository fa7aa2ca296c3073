"""What others can write to is never believed: scratch folders, checkpoints, and files that change meanwhile."""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from runner.training import checkpoint_files
from runner.verification.rerun import private_folder
from specs.common.files import digest_json, sha256_file, write_json

Ask = Callable[..., tuple[int, str]]


@pytest.fixture
def kept_checkpoint(finished: Any, tmp_path: Path) -> Path:
    """The checkpoint of step 4, as a run with `keep_every: 2` leaves it in scratch, where anybody may write."""
    source = finished.job.parent / "checkpoints" / "step-4"
    return shutil.copytree(source, tmp_path / "scratch" / "pretrain-0.kept" / "step-4")


def restate(checkpoint: Path, **changes: Any) -> None:
    """A manifest that agrees with the files of a checkpoint, and says something else beside."""
    manifest = json.loads((checkpoint / "manifest.json").read_text("utf-8"))
    del manifest["digest"]
    for name in manifest["files"]:
        size = (checkpoint / name).stat().st_size
        manifest["files"][name] |= {"sha256": sha256_file(checkpoint / name), "bytes": size}
    manifest |= changes
    write_json(checkpoint / "manifest.json", manifest | {"digest": digest_json(manifest)})
    checkpoint_files.verify(checkpoint)  # by itself it agrees


def spoil_moments(checkpoint: Path) -> None:
    path = next(checkpoint.glob("rank-*.safetensors"))
    tensors = load_file(path)
    tensors["second/norm.weight"] += 1e-3
    save_file(tensors, path)
    restate(checkpoint)


def spoil_journal(checkpoint: Path) -> None:
    path = checkpoint / "steps.jsonl"
    path.write_text(path.read_text("utf-8").replace('"step": 2', '"step": 2 '), "utf-8")
    restate(checkpoint)


PLANTED: dict[str, tuple[Callable[[Path], None], str]] = {
    "moments": (spoil_moments, "its tensors (second) are not those whose digests the journal states"),
    "journal": (spoil_journal, "its journal is not that of the run"),
    "number of updates": (lambda path: restate(path, updates=1), "its updates are not those of the journal"),
    "chain": (lambda path: restate(path, chain="0" * 64), "its chain are not those of the journal"),
    "file elsewhere": (
        lambda path: restate(path, files={"../../x": {"sha256": "0" * 64, "bytes": 1}}),
        "it names a file of another folder",
    ),
    "no files": (lambda path: restate(path, files=None), "it cannot be read"),
}


def test_a_part_begins_at_a_checkpoint_that_the_journal_states(
    ask: Ask, run: Path, store: Path, kept_checkpoint: Path
) -> None:
    code, text = ask("verify", run, "--inputs", store.parent, "--steps", "5:6")
    assert code == 0 and "steps 5 to 6 of 6 again" in text and "note" not in text, text


@pytest.mark.parametrize(("plant", "reason"), PLANTED.values(), ids=PLANTED)
def test_a_checkpoint_that_the_journal_does_not_state_is_not_begun_from(
    plant: Callable[[Path], None], reason: str, ask: Ask, run: Path, store: Path, kept_checkpoint: Path
) -> None:
    # Some are what no reader of checkpoints takes; they are tried all the same.
    with contextlib.suppress(AttributeError, checkpoint_files.DamagedError):
        plant(kept_checkpoint)
    code, text = ask("verify", run, "--inputs", store.parent, "--steps", "5:6")
    assert code == 0 and "steps 1 to 6 of 6 again" in text, text
    assert f"note      checkpoint step-4 is not begun from: {reason}" in text, text


def test_state_that_lies_in_scratch_is_no_execution(
    ask: Ask, forger: Any, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished run under every name that could be guessed: the folder's name is drawn when it is needed."""
    for weight in forger.weights.values():
        weight.fill_(0.5)
    forger.write()
    for name in ("verify", f"verify-{forger.record['chain']['start'][:16]}", f"verify-{'0' * 32}"):
        shutil.copytree(forger.folder, tmp_path / "scratch" / name / "finished")
    code, text = ask("verify", forger.folder, "--inputs", store.parent)
    assert code == 1 and "not verified" in text
    # A name that is taken is an error, not a place to go on.
    monkeypatch.setattr("secrets.token_hex", lambda count: "0" * 2 * count)
    with pytest.raises(FileExistsError), private_folder():
        pass


def test_a_private_folder_is_closed_to_others_and_goes() -> None:
    with private_folder() as one, private_folder() as other:
        assert one != other and len(one.name) == len("verify-") + 32
        assert one.stat().st_mode & 0o077 == 0
    assert not one.exists() and not other.exists()


def test_a_run_that_changes_meanwhile_is_judged_as_it_was_given(
    ask: Ask, run: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runner.verification import rerun

    launch, before, out = rerun.launch, sha256_file(run / "model.safetensors"), tmp_path / "attestation.json"

    def swap_and_launch(*arguments: Any) -> None:
        weights = load_file(run / "model.safetensors")
        save_file({name: torch.full_like(weight, 0.5) for name, weight in weights.items()}, run / "model.safetensors")
        launch(*arguments)

    monkeypatch.setattr(rerun, "launch", swap_and_launch)
    code, text = ask("verify", run, "--inputs", store.parent, "--attestation", out)
    assert code == 0, text
    subjects = {s["name"]: s["digest"]["sha256"] for s in json.loads(out.read_text("utf-8"))["subject"]}
    assert subjects["model.safetensors"] == before != sha256_file(run / "model.safetensors")


def test_inputs_that_are_written_meanwhile_show_nothing(
    ask: Ask, run: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runner.verification import rerun

    own = shutil.copytree(store, tmp_path / "inputs" / "store")
    launch = rerun.launch

    def touch_and_launch(*arguments: Any) -> None:
        shard = next(path for path in (own / "tokens").rglob("*") if path.is_file())
        shard.write_bytes(shard.read_bytes())
        launch(*arguments)

    monkeypatch.setattr(rerun, "launch", touch_and_launch)
    code, text = ask("verify", run, "--inputs", own.parent)
    assert code == 2 and "was written while the run was executed: nothing is shown" in text, text


def test_a_store_with_other_rows_is_refused(ask: Ask, run: Path, store: Path, tmp_path: Path) -> None:
    own = shutil.copytree(store, tmp_path / "inputs" / "store")
    shard = max((path for path in own.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    code, text = ask("verify", run, "--inputs", own.parent)
    assert code == 2 and "was altered" in text
