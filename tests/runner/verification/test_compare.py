"""Where two runs diverge: named to the step, the tensor, and the bit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from runner.cli import main
from runner.verification.compare import compare
from runner.verification.recorded_run import read_run
from runner.verification.tensor_distance import TensorDifference, tensor_differences, ulps
from specs.common.files import tree_digests

Compute = Callable[..., Any]
MakeJob = Callable[..., Path]

STEP, BIT = 17, 3
TENSOR = "blocks.1.feed_forward.gate_up.weight"
TWENTY = {"steps": 20, "training.checkpoints.every": 10, "training.held_out.every": 100}


def ask(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result.exit_code, result.output


@pytest.mark.parametrize("compute_in", [pytest.param("fp32", marks=pytest.mark.thorough), "bf16"])
def test_one_flipped_bit_at_step_17_is_named(compute_in: str, compute: Compute, make_job: MakeJob) -> None:
    changes = TWENTY | {"training.precision": {"compute": compute_in}}
    clean = compute(make_job(changes), ranks=1)
    clean.digests()
    at = list(read_run(clean.finished).shapes).index(TENSOR)
    # The second rank of two has rows 35 to 69, of 18 columns: the 41st of its elements is [37, 4].
    spoilt = compute(make_job(changes), ranks=2, fault="flip_bit", argument=[STEP, at, 40, BIT], rank=1)
    spoilt.digests()
    found = compare(read_run(clean.finished), read_run(spoilt.finished))
    assert found.divergence and not found.spec and found.equal == STEP - 1
    assert (found.divergence.step, found.divergence.what, found.divergence.tensors) == (STEP, "weights", [TENSOR])
    if compute_in == "bf16":
        # Rounded away: no loss and no norm of this step tells, the weights do.
        assert not found.divergence.numbers
    else:
        assert found.divergence.numbers["norm"][2] > 0
    code, text = ask("compare", clean.finished, spoilt.finished)
    assert code == 1 and f"step {STEP} is the first to differ, in its weights" in text
    assert f"{TENSOR}: one flipped bit, at [37, 4], by {1 << BIT} ulps" in text


def test_runs_of_different_specs_are_told_so_first(reference: Any, compute: Compute, make_job: MakeJob) -> None:
    other = compute(make_job({"training.optimizer.lr": 2e-2}))
    code, text = ask("compare", reference.finished, other.finished)
    first, header, value, step, *_ = text.splitlines()
    assert code == 1 and first == "these are runs of different specs or inputs: 1 values differ"
    assert str(reference.finished) in header and value.split() == ["training.optimizer.lr", "0.01", "0.02"]
    # The first step begins from the same weights; its update takes another rate.
    assert step == "step 1 is the first to differ, in its lr: another learning rate was taken"


def test_another_seed_diverges_with_the_data(reference: Any, compute: Compute, make_job: MakeJob) -> None:
    other = compute(make_job({"training.seed": 2, "steps": 2}))
    found = compare(read_run(reference.finished), read_run(other.finished))
    assert set(found.spec) == {"training.seed", "steps"} and found.divergence and found.divergence.what == "rows"
    assert found.steps == (6, 2) and len(found.states["finished weights"]) > 10


def test_another_architecture_is_compared_without_its_tensors(
    reference: Any, compute: Compute, make_job: MakeJob
) -> None:
    other = compute(make_job({"architecture.d_ff": 36, "steps": 1}))
    found = compare(read_run(reference.finished), read_run(other.finished))
    assert "architecture.d_ff" in found.spec and not found.states
    assert found.divergence and found.divergence.tensors == []


def test_another_order_of_additions_diverges_in_the_norm(reference: Any, compute: Compute, make_job: MakeJob) -> None:
    stock = compute(make_job(), ranks=4, fault="stock")
    found = compare(read_run(reference.finished), read_run(stock.finished))
    assert found.divergence and found.divergence.what == "norm" and not found.divergence.tensors
    assert found.divergence.spread, "the update spreads it"
    assert all(tensor.largest > 0 for tensor in found.states["finished weights"])
    # While both still have their checkpoints, distances are told at the first one after they diverge.
    early = compare(read_run(reference.job.parent), read_run(stock.job.parent)).states
    assert list(early) == ["after step 4"] and early["after step 4"]


def test_equal_runs_are_the_same(reference: Any, compute: Compute, make_job: MakeJob) -> None:
    two = compute(make_job(), ranks=2)
    assert ask("compare", reference.finished, two.finished) == (
        0,
        "the same: 6 steps, every loss, norm and weight equal to the bit\n",
    )
    code, text = ask("compare", reference.finished, two.finished, "--format", "json")
    assert code == 0 and json.loads(text)["same"] and json.loads(text)["divergence"] is None


def test_weights_that_were_changed_afterwards_are_told(reference: Any, tmp_path: Path) -> None:
    shutil.copytree(reference.finished, tmp_path / "run")
    weights = load_file(tmp_path / "run" / "model.safetensors")
    weights["norm.weight"].view(torch.int32)[5] += 7
    save_file(weights, tmp_path / "run" / "model.safetensors")
    record = json.loads((tmp_path / "run" / "record.json").read_text("utf-8"))
    record["model"] = tree_digests(tmp_path / "run")["model.safetensors"]
    (tmp_path / "run" / "record.json").write_text(json.dumps(record), "utf-8")
    found = compare(read_run(reference.finished), read_run(tmp_path / "run"))
    assert found.divergence is None and not found.same
    assert any("norm.weight" in problem for problem in found.problems[1])
    assert found.states == {"finished weights": [TensorDifference("norm.weight", 1, 18, 7, (5,))]}


def test_a_run_in_progress_is_compared_as_far_as_it_is(begun: Path, reference: Any) -> None:
    newest = begun.parent / "checkpoints" / "step-5" / "steps.jsonl"
    # The line that a kill left torn is none.
    (begun.parent / "steps.jsonl").write_bytes(newest.read_bytes() + b'{"step": 6, "lo')
    code, text = ask("compare", reference.finished, begun.parent)
    assert code == 1 and "steps 1 to 5 are equal to the bit" in text and text.endswith("has 5\n")


def test_a_damaged_journal_is_refused_by_line(reference: Any, tmp_path: Path) -> None:
    shutil.copytree(reference.finished, tmp_path / "run")
    path = tmp_path / "run" / "steps.jsonl"
    path.write_text(path.read_text("utf-8").replace('"targets": 2', '"targets": 3', 1), "utf-8")
    code, text = ask("compare", reference.finished, tmp_path / "run")
    assert code == 1 and f"{tmp_path / 'run'} contradicts itself" in text
    assert "steps.jsonl:1: the digest chain breaks here" in text


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    code, text = ask("compare", tmp_path, tmp_path)
    assert code == 2 and "is no run" in text


@given(st.floats(-1e300, 1e300), st.integers(0, 50))
def test_ulps_count_the_numbers_between(start: float, steps: int) -> None:
    value = start
    for _ in range(steps):
        value = float(np.nextafter(value, np.inf))
    assert ulps(start, value) == ulps(value, start) == steps


def test_distances_of_tensors_cross_zero_and_see_its_sign() -> None:
    tiny = torch.tensor([0.0, 1.0]).nextafter(torch.tensor([1.0, 2.0]))
    first, second = torch.tensor([-tiny[0].item(), 1.0, 0.0]), torch.tensor([tiny[0].item(), tiny[1].item(), -0.0])
    (found,) = tensor_differences(iter([("x", first)]), iter([("x", second)]))
    assert found == TensorDifference("x", 3, 3, 2, (0,))
    assert not list(tensor_differences(iter([("x", first)]), iter([("x", first.clone())])))
