"""A run executed again, through the command that a stranger would give."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from runner.training.checkpoint_files import outlive
from runner.training.digests import row_digests, tensor_digest
from runner.training.job import parse_steps
from runner.verification.deviation import Deviation
from runner.verification.recorded_run import read_run
from runner.verification.verify import Rerun, Verdict
from specs.common.errors import UserError
from specs.common.files import sha256_file
from specs.loading.settings import ROOT

Ask = Callable[..., tuple[int, str]]


TOLERANCE = "1e-5"


def rewrite(forger: Any, step: int, **changes: Any) -> None:
    forger.entries[step - 1] |= changes
    forger.write()


def test_a_run_is_verified_on_another_number_of_ranks_and_stated(
    ask: Ask, run: Path, store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "attestation.json"
    code, text = ask("verify", run, "--inputs", store.parent, "--attestation", out)
    assert code == 0, text
    assert text.splitlines()[-1] == "verdict   bitwise: every loss, norm and weight is the same"
    assert "steps 1 to 6 again, on 1 rank (cpu)" in text
    stated = json.loads(out.read_text("utf-8"))
    assert stated["_type"] == "https://in-toto.io/Statement/v1"
    assert stated["predicateType"] == "https://slsa.dev/provenance/v1"
    named = {subject["name"]: subject["digest"]["sha256"] for subject in stated["subject"]}
    assert named == {name: sha256_file(run / name) for name in ("model.safetensors", "steps.jsonl", "record.json")}
    (dependency,) = stated["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert dependency["digest"]["sha256"] == sha256_file(store / "manifest.json")
    shown = stated["predicate"]["runDetails"]["metadata"]["twice_shown"]
    assert shown == {
        "level": "bitwise",
        "executed": {"steps": [1, 6], "ranks": 1, "device": "cpu", "bitwise": True},
    }
    assert not list((tmp_path / "scratch").glob("verify-*/")), "nothing is left behind"


def test_what_only_a_record_shows_is_stated_as_recorded(ask: Ask, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "attestation.json"
    code, text = ask("verify", run, "--recorded", "--attestation", out)
    assert code == 0 and "verdict   recorded" in text
    shown = json.loads(out.read_text("utf-8"))["predicate"]["runDetails"]["metadata"]["twice_shown"]
    # The spec declares topology; only what was shown is stated.
    assert shown == {"level": "recorded"}


def _flip_weight(run: Path) -> None:
    weights = load_file(run / "model.safetensors")
    weights["blocks.0.attention.out.weight"].view(torch.int32)[3, 3] ^= 1
    save_file(weights, run / "model.safetensors")


def _edit(run: Path, name: str, old: str, new: str) -> None:
    text = (run / name).read_text("utf-8")
    assert old in text
    (run / name).write_text(text.replace(old, new, 1), "utf-8")


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "flipped weight": (_flip_weight, "in blocks.0.attention.out.weight"),
    "torn weights": (lambda run: (run / "model.safetensors").write_bytes(b"torn"), "model.safetensors"),
    "missing weights": (lambda run: (run / "model.safetensors").unlink(), "model.safetensors is missing"),
    "edited loss": (lambda run: _edit(run, "steps.jsonl", '"loss": 4', '"loss": 3'), "steps.jsonl:1: the digest chain"),
    "shorter journal": (
        lambda run: (run / "steps.jsonl").write_text(
            "".join((run / "steps.jsonl").read_text("utf-8").splitlines(keepends=True)[:4]), encoding="utf-8"
        ),
        "has 4 steps instead of 6",
    ),
    "another spec": (lambda run: _edit(run, "record.json", '"lr": 0.01', '"lr": 0.02'), "digest of its spec"),
    "another input": (lambda run: _edit(run, "record.json", '"token_store": "', '"token_store": "0'), "digest of its"),
}


@pytest.mark.parametrize(("damage", "expected"), DAMAGE.values(), ids=DAMAGE)
def test_a_run_that_is_not_what_was_written_is_not_even_recorded(
    damage: Callable[[Path], None], expected: str, ask: Ask, run: Path, tmp_path: Path
) -> None:
    damage(run)
    code, text = ask("verify", run, "--recorded", "--attestation", tmp_path / "attestation.json")
    assert code == 1 and expected in text and text.splitlines()[-1] == "verdict   not verified"
    assert not (tmp_path / "attestation.json").exists()


def test_a_forged_journal_is_found_by_executing(ask: Ask, run: Path, forger: Any, store: Path) -> None:
    rewrite(forger, 4, norm=0.5)
    assert ask("verify", run, "--recorded")[0] == 0, "by itself it agrees"
    code, text = ask("verify", run, "--inputs", store.parent)
    assert code == 1 and "step 4 is the first to differ, in its norm" in text and "1 steps differ" in text


def test_within_tolerance_is_less_and_asked_for(ask: Ask, run: Path, store: Path, tmp_path: Path) -> None:
    """Another order of additions: no bits, but the same curve."""
    out = tmp_path / "attestation.json"
    arguments = ("verify", run, "--inputs", store.parent, "--ranks", 4, "--tolerance", TOLERANCE, "--attestation", out)
    code, text = ask(*arguments, fault="stock")
    assert (
        code == 0
        and "verdict   within tolerance: every number, tensor and the held-out loss of the weights within" in text
    )
    assert "step 1 is the first to differ, in its norm" in text
    shown = json.loads(out.read_text("utf-8"))["predicate"]["runDetails"]["metadata"]["twice_shown"]
    deviation = shown["executed"]["deviation"]
    assert shown["level"] == "within tolerance" and 0 < deviation["numbers"]["loss"] < 1e-3
    assert 0 < deviation["tensor"][1] <= float(TOLERANCE)


NEAR = Deviation([], {"loss": 0.01, "norm": 0.002, "held_out_loss": 0.0}, ("x", 0.01), 2.0, 2.01)
FAR = {
    "a number": replace(NEAR, numbers={"loss": 0.01, "norm": 0.3}),
    "a tensor": replace(NEAR, tensor=("x", 1.0)),
    "a tensor that is not finite": replace(NEAR, tensor=("x", math.inf)),
    "the loss of the weights given": replace(NEAR, given_loss=2.2),
    "what may not differ": replace(NEAR, exact=["step 1: rows"]),
}


def level(deviation: Deviation | None, tolerance: float | None, steps: int = 1, files: tuple[str, ...] = ()) -> Any:
    return Verdict([], Rerun(1, 6, True, 2, "cpu", steps, list(files), deviation, None), tolerance).level


def test_levels_are_given_for_what_was_shown_only() -> None:
    assert level(None, None, steps=0) == "bitwise"
    assert level(NEAR, None, steps=0, files=("record.json",)) is None
    assert level(NEAR, None) is None
    assert level(NEAR, 0.02) == "within tolerance"
    assert level(NEAR, 0.005) is None
    assert Verdict(["damaged"], None, 0.02).level is None and Verdict([], None, None).level == "recorded"


@pytest.mark.parametrize("deviation", FAR.values(), ids=FAR)
def test_a_tolerance_bounds_every_part(deviation: Deviation) -> None:
    assert level(deviation, 0.02) is None


def test_steps_are_executed_from_the_checkpoint_before(
    ask: Ask, finished: Any, run: Path, forger: Any, store: Path, tmp_path: Path
) -> None:
    # As a run leaves them whose spec says keep_every: 2.
    shutil.copytree(finished.job.parent / "checkpoints", tmp_path / "checkpoints")
    outlive(tmp_path / "checkpoints", tmp_path / "scratch" / "pretrain-0.kept", 2)
    code, text = ask("verify", run, "--inputs", store.parent, "--steps", "5:5", "--attestation", tmp_path / "s.json")
    assert code == 0 and "steps 5 to 5 of 6 again" in text and "bitwise: each of these steps" in text, text
    # A part shows nothing of the whole.
    shown = json.loads((tmp_path / "s.json").read_text("utf-8"))["predicate"]["runDetails"]["metadata"]["twice_shown"]
    assert shown["level"] == "recorded" and shown["executed"]["bitwise"] and shown["executed"]["steps"] == [5, 5]
    rewrite(forger, 5, norm=0.5)
    assert ask("verify", run, "--inputs", store.parent, "--steps", "5:6")[0] == 1


def test_without_a_checkpoint_steps_are_executed_from_the_beginning(ask: Ask, run: Path, store: Path) -> None:
    code, text = ask("verify", run, "--inputs", store.parent, "--steps", "2:3")
    assert code == 0 and "steps 1 to 3 of 6 again" in text


def test_a_damaged_checkpoint_is_not_begun_from(ask: Ask, finished: Any, store: Path, tmp_path: Path) -> None:
    work = shutil.copytree(finished.job.parent, tmp_path / "work", ignore=shutil.ignore_patterns("finished"))
    shard = next((work / "checkpoints" / "step-4").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1])
    code, text = ask("verify", work, "--inputs", store.parent, "--steps", "6:6")
    assert code == 0 and "not finished" in text and "steps 1 to 6 of 6 again" in text, text


def test_weights_of_a_checkpoint_are_written_as_one_file(ask: Ask, finished: Any, tmp_path: Path) -> None:
    out = tmp_path / "weights.safetensors"
    assert ask("weights", finished.job.parent, out, "--step", 4) == (0, f"{out}: the weights after step 4\n")
    lines = [json.loads(line) for line in (finished.finished / "steps.jsonl").read_text("utf-8").splitlines()]
    written = {name: tensor_digest(w.shape, row_digests(w)) for name, w in load_file(out).items()}
    assert written == lines[3]["digests"]["value"]
    code, text = ask("weights", finished.job.parent, out, "--step", 2)
    assert code == 2 and "has no checkpoint of step 2: there are those of 4, 6" in text
    code, text = ask("weights", finished.finished, out)
    assert code == 2 and "has no checkpoint of any step: there is none" in text


def test_inputs_that_are_not_here_are_named(ask: Ask, run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, text = ask("verify", run, "--inputs", tmp_path / "empty")
    digest = json.loads((run / "record.json").read_text("utf-8"))["inputs"]["token_store"]
    assert code == 2 and text.startswith("error: the token store of ") and digest in text and "--inputs" in text


@pytest.mark.parametrize(("text", "steps"), [("3:5", (3, 5)), (":5", (1, 5)), ("3:", (3, 6)), (":", (1, 6))])
def test_steps_are_read(text: str, steps: tuple[int, int]) -> None:
    assert parse_steps(text, 6, "--steps") == steps


@pytest.mark.parametrize("text", ["3", "5:3", "0:3", "3:7", "a:b", "3:5:7", "-1:2"])
def test_other_steps_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="--steps"):
        parse_steps(text, 6, "--steps")


@pytest.mark.thorough
def test_verification_goes_through_torchrun(run: Path, store: Path) -> None:
    """Once without the tests' own server."""
    command = [sys.executable, "-m", "runner.cli", "verify", run, "--inputs", store.parent, "--ranks", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0 and "verdict   bitwise" in done.stdout, done.stderr


def test_a_record_without_its_parts_is_refused(run: Path) -> None:
    (run / "record.json").write_text("{}", "utf-8")
    with pytest.raises(UserError, match="is not the record of a run: 'stage' is missing"):
        read_run(run)
