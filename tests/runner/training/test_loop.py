"""What the loop does with what goes wrong, and with the phases that share it."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from data_pipeline.tokens.shuffle import Order
from data_pipeline.tokens.token_store import TokenStore
from runner.training.journal import read_steps
from specs.common.files import sha256_file

Compute = Callable[..., Any]
MakeJob = Callable[..., Path]
RARE, RARE_ROW = 129, 41


def first_use_of_the_rare_row(store: Path, seed: int) -> tuple[int, int]:
    """Step and micro-batch at which the row with the rare token is first trained on."""
    order = Order(TokenStore.open(store).shares, seed=seed, held_out=5)
    return divmod(list(order.rows(0, 80)).index(RARE_ROW), 8)


@pytest.fixture
def rare_micro_batch(store: Path) -> tuple[int, int]:
    return first_use_of_the_rare_row(store, 1)


@pytest.fixture
def poisoned(tmp_path: Path, reference: Any) -> Path:
    """Weights that are fine but for the row of the rare token."""
    weights = load_file(reference.finished / "model.safetensors")
    weights["embedding.weight"][RARE] = math.nan
    save_file(weights, tmp_path / "poisoned.safetensors")
    return tmp_path / "poisoned.safetensors"


@pytest.mark.parametrize("ranks", [1, 5])
def test_a_loss_that_is_not_finite_stops_and_names_step_micro_batch_and_module(
    ranks: int, rare_micro_batch: tuple[int, int], poisoned: Path, compute: Compute, make_job: MakeJob
) -> None:
    step, micro_batch = rare_micro_batch
    outcome = compute(make_job({"initial": str(poisoned), "steps": 10, "training.held_out.every": 100}), ranks)
    assert set(outcome.codes) == {2}
    assert (
        f"step {step + 1}: the loss of micro-batch {micro_batch} is not finite, from blocks.0.attention_norm on"
        in outcome.failure
    )
    lines = (outcome.job.parent / "steps.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == step, "the step must not be in the journal"


# With these seeds the rare row is computed by another rank: on two nodes of two also by the first one of the second.
@pytest.mark.parametrize(("layout", "seed"), [([1], 1), ([5], 6), ([2, 2], 1), ([2, 2], 8), ([3, 2], 6)], ids=str)
def test_a_gradient_that_is_not_finite_stops_and_names_step_micro_batch_and_tensor(
    layout: list[int], seed: int, store: Path, compute: Compute, make_job: MakeJob
) -> None:
    step, micro_batch = first_use_of_the_rare_row(store, seed)
    assert micro_batch == {1: 1, 6: 6, 8: 2}[seed]
    outcome = compute(make_job({"steps": 10, "training.seed": seed}), layout, fault="spoil_gradient", argument=RARE)
    assert set(outcome.codes) == {2}
    expected = f"step {step + 1}: the gradient of embedding.weight is not finite, from micro-batch {micro_batch};"
    assert expected in outcome.failure and "nothing was updated" in outcome.failure


def test_spikes_are_skipped_by_rule_and_recorded(compute: Compute, make_job: MakeJob, reference: Any) -> None:
    norms = [json.loads(line)["norm"] for line in (reference.finished / "steps.jsonl").read_text("utf-8").splitlines()]
    # The first step's norm is the same in both runs, and above the rule.
    limit = norms[0] * 0.999
    outcome = compute(make_job({"training.skip_spikes_above": limit}), ranks=2)
    outcome.digests()
    lines = [json.loads(line) for line in (outcome.finished / "steps.jsonl").read_text("utf-8").splitlines()]
    assert lines[0]["skipped"] and lines[0]["norm"] == norms[0]
    assert [line.get("skipped", False) for line in lines] == [line["norm"] > limit for line in lines]
    # Nothing was updated at the first step: the second sees the same weights.
    assert outcome.digests() == compute(make_job({"training.skip_spikes_above": limit}), ranks=4).digests()


def test_another_phase_goes_on_from_the_weights(compute: Compute, make_job: MakeJob, reference: Any) -> None:
    weights = reference.finished / "model.safetensors"
    changes = {
        "stage": "finetune",
        "initial": str(weights),
        "inputs": {"token_store": "0" * 64, "weights": sha256_file(weights)},
        "training.optimizer.lr": 1e-9,
        "steps": 2,
    }
    one, four = compute(make_job(changes), ranks=1), compute(make_job(changes), ranks=4)
    assert one.digests() == four.digests()
    before, after = load_file(weights), load_file(one.finished / "model.safetensors")
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    assert json.loads((one.finished / "record.json").read_text("utf-8"))["inputs"] == changes["inputs"]


def test_weights_of_another_architecture_are_refused(compute: Compute, make_job: MakeJob, reference: Any) -> None:
    changes = {"initial": str(reference.finished / "model.safetensors"), "architecture.d_ff": 36}
    outcome = compute(make_job(changes))
    assert outcome.codes == [2] and "it holds another model" in outcome.failure


def test_the_journal_is_a_chain_that_holds_what_happened(reference: Any) -> None:
    record = json.loads((reference.finished / "record.json").read_text("utf-8"))
    entries = list(read_steps(reference.finished / "steps.jsonl", record["chain"]["start"]))
    assert [entry["step"] for entry in entries] == [1, 2, 3, 4, 5, 6]
    assert entries[-1]["chain"] == record["chain"]["end"]
    assert [entry["step"] for entry in entries if "held_out_loss" in entry] == [3, 6]
    assert [entry["step"] for entry in entries if "digests" in entry] == [2, 4, 6]
    assert entries[-1]["digests"]["value"] == record["tensors"]
    assert abs(entries[0]["loss"] - math.log(130)) < 0.3, "a fresh model guesses evenly"


def test_a_window_of_steps_is_traced_and_changes_nothing(compute: Compute, make_job: MakeJob, reference: Any) -> None:
    outcome = compute(make_job({"trace": [2, 3]}), ranks=1)
    assert outcome.digests() == reference.digests()
    trace = json.loads((outcome.job.parent / "measured" / "trace-steps-2-3.json").read_text("utf-8"))
    names = [event.get("name") for event in trace["traceEvents"]]
    # One update for each of the two steps, and one backward pass for each micro-batch of them.
    assert sum("Optimizer.update" in str(name) for name in names) == 2


def test_telemetry_stays_out_of_the_finished_run(reference: Any) -> None:
    measured = reference.job.parent / "measured"
    lines = [json.loads(line) for line in (measured / "telemetry.jsonl").read_text("utf-8").splitlines()]
    assert len(lines) == 6 and all(line["tokens_per_second"] > 0 and line["data_wait"] < 1 for line in lines)
    assert list(measured.glob("events.out.tfevents.*"))
    environment = json.loads((measured / "environment.json").read_text("utf-8"))
    assert environment["attention"] == {"requested": "auto", "resolved": "sdpa"}
    assert environment["determinism"]["threads"] == 1 and environment["determinism"]["deterministic_algorithms"]
    assert sorted(path.name for path in reference.finished.iterdir()) == [
        "model.safetensors",
        "record.json",
        "steps.jsonl",
    ]
