"""Finished runs to be verified, the commands that verify them, and someone who forges them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from runner.cli import main
from runner.training.digests import row_digests, tensor_digest
from runner.training.job import Job
from runner.training.journal import link
from runner.verification.checkout import Checkout
from specs.common.errors import UserError
from specs.common.files import digest_json, sha256_file, write_json

Compute = Callable[..., Any]
MakeJob = Callable[..., Path]
Ask = Callable[..., tuple[int, str]]


@pytest.fixture(scope="package")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where finished runs stay from test to test."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="package")
def _computed() -> dict[str | None, Path]:
    return {}


CLEAN = Checkout("0123456789abcdef" * 2 + "01234567", (), "")


class Forger:
    """Changes a finished run so that it agrees with itself: as someone would leave it who knows all of this code."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record = json.loads((folder / "record.json").read_text("utf-8"))
        lines = (folder / "steps.jsonl").read_text("utf-8").splitlines()
        self.entries = [json.loads(line) for line in lines]
        self.weights = load_file(folder / "model.safetensors")

    def write(self) -> None:
        """Chain, digests and record of whatever the entries, the spec, the inputs and the weights are now."""
        record = self.record
        tensors = {name: tensor_digest(w.shape, row_digests(w)) for name, w in self.weights.items()}
        if tensors != record["tensors"]:
            self.entries[-1]["digests"]["value"] = {
                name: tensors[name] for name in self.entries[-1]["digests"]["value"]
            }
            save_file(self.weights, self.folder / "model.safetensors")
        record["chain"]["start"] = digest_json(record["spec"] | {"inputs": record["inputs"]})
        chain, lines = record["chain"]["start"], []
        for entry in self.entries:
            entry.pop("chain", None)
            chain = link(chain, entry)
            lines.append(json.dumps(entry | {"chain": chain}) + "\n")
        (self.folder / "steps.jsonl").write_text("".join(lines), "utf-8")
        last = self.entries[-1]
        record |= {
            "spec_digests": {name: digest_json(value) for name, value in record["spec"].items()},
            "chain": record["chain"] | {"end": chain},
            "last": {key: last[key] for key in ("step", "loss", "held_out_loss") if key in last},
            "tensors": last["digests"]["value"],
            "model": sha256_file(self.folder / "model.safetensors"),
        }
        write_json(self.folder / "record.json", record)


@pytest.fixture
def forger(run: Path) -> Forger:
    """Of a copy of the finished run."""
    return Forger(run)


@pytest.fixture
def ask(compute: Compute, monkeypatch: pytest.MonkeyPatch, kept: Path, _computed: dict[str | None, Path]) -> Ask:
    """`twice` in this process; ranks come from the server of the tests, which torchrun would start for seconds.

    A job that was computed whole before, without a fault, leaves the same files: they are taken from there. The
    checkout counts as clean: tests also run while someone works in it.
    """

    def launch(job: Path, ranks: int, threads: int) -> None:
        own = {"scratch", "measured", "code"}
        asked = Job.model_validate_json(job.read_bytes())
        key = None if faults or asked.until else digest_json(asked.model_dump(mode="json", exclude=own))
        if key not in _computed:
            outcome = compute(job, ranks, **faults)
            if set(outcome.codes) != {0}:
                raise UserError(outcome.failure or outcome.log)
            if key is not None:
                _computed[key] = shutil.copytree(outcome.finished, kept / key)
        else:
            shutil.copytree(_computed[key], job.parent / "finished")

    faults: dict[str, Any] = {}
    monkeypatch.setattr("runner.verification.rerun.launch", launch)
    monkeypatch.setattr("runner.verification.verify.read_checkout", lambda: CLEAN)

    def invoke(*arguments: object, **fault: Any) -> tuple[int, str]:
        faults.clear()
        faults.update(fault)
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.output
        return result.exit_code, result.output

    return invoke


@pytest.fixture(scope="package")
def finished(store: Path, make_job: MakeJob, compute: Compute) -> Any:
    """A finished run that names its token store as it is."""
    outcome = compute(make_job({"inputs.token_store": sha256_file(store / "manifest.json")}), ranks=2)
    outcome.digests()
    return outcome


@pytest.fixture(scope="package")
def finetuned(finished: Any, store: Path, make_job: MakeJob, compute: Compute) -> Any:
    """A finished run that began from the weights of `finished`."""
    weights = finished.finished / "model.safetensors"
    inputs = {"token_store": sha256_file(store / "manifest.json"), "weights": sha256_file(weights)}
    changes = {"stage": "finetune", "inputs": inputs, "initial": str(weights), "training.optimizer": {"lr": 1e-3}}
    outcome = compute(make_job(changes), ranks=2)
    outcome.digests()
    return outcome


@pytest.fixture
def run(finished: Any, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return shutil.copytree(finished.finished, tmp_path / "run")
