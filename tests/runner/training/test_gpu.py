"""What the contract says of CUDA devices, where there is one: reruns, resumes, and numbers of devices."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from runner.training.fingerprints import fingerprint

Compute = Callable[..., Any]
MakeJob = Callable[..., Path]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

# The flash kernels take 16-bit numbers, and heads of a multiple of eight.
SIXTEEN_BIT = {
    "architecture.d_model": 48,
    "architecture.n_heads": 3,
    "training.precision": {"compute": "bf16", "wire": "bf16"},
}
BACKENDS = {
    "varlen": SIXTEEN_BIT | {"architecture.attention": {"pattern": "full", "backend": "varlen"}},
    "varlen with windows": SIXTEEN_BIT
    | {
        "architecture.attention": {
            "pattern": "interleaved",
            "window": 8,
            "global_every": 2,
            "backend": "varlen",
        }
    },
    "sdpa in bf16": SIXTEEN_BIT | {"architecture.attention": {"pattern": "full", "backend": "sdpa"}},
    "sdpa in fp32": {"architecture.attention": {"pattern": "full", "backend": "sdpa"}},
}


@pytest.fixture
def on_gpu(make_job: MakeJob) -> Callable[..., Path]:
    # The name says which kind of device is planned for; any CUDA device computes.
    return lambda changes: make_job({"device": "A100-80GB"} | changes)


@pytest.mark.parametrize("changes", BACKENDS.values(), ids=BACKENDS)
def test_a_gpu_gives_the_same_bytes_again(changes: dict[str, Any], compute: Compute, on_gpu: Any) -> None:
    once, again = compute(on_gpu(changes)), compute(on_gpu(changes))
    assert once.digests() == again.digests()


@pytest.mark.parametrize("changes", [BACKENDS["varlen"]], ids=["varlen"])
def test_killed_on_a_gpu_and_resumed_gives_the_same_bytes(
    changes: dict[str, Any], compute: Compute, on_gpu: Any
) -> None:
    job = on_gpu(changes)
    killed = compute(job, fault="die", argument=[4, 200])
    assert -9 in killed.codes, killed.log
    assert compute(job).digests() == compute(on_gpu(changes)).digests()


@pytest.mark.parametrize("recompute", ["full", "selective"])
def test_recomputation_on_a_gpu_changes_no_weight(recompute: str, compute: Compute, on_gpu: Any) -> None:
    plain = compute(on_gpu(BACKENDS["varlen"])).digests()
    saved = compute(on_gpu(BACKENDS["varlen"] | {"training.parallelism": {"recompute": recompute}})).digests()
    assert plain["model.safetensors"] == saved["model.safetensors"]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("changes", BACKENDS.values(), ids=BACKENDS)
def test_two_gpus_give_the_bytes_of_one(changes: dict[str, Any], compute: Compute, on_gpu: Any) -> None:
    assert compute(on_gpu(changes), ranks=2).digests() == compute(on_gpu(changes), ranks=1).digests()


def test_a_gpu_follows_the_loss_of_a_cpu(reference: Any, compute: Compute, on_gpu: Any) -> None:
    """No bits are promised between devices; in fp32 the curves lie together."""
    outcome = compute(on_gpu(BACKENDS["sdpa in fp32"] | {"architecture.attention": {}}))
    cpu = compute(on_gpu({"device": "cpu", "architecture.attention": {}}))
    for mine, theirs in zip(losses(outcome), losses(cpu), strict=True):
        assert abs(mine - theirs) < 1e-3 * theirs


def test_fingerprints_on_a_gpu_are_those_on_a_cpu(reference: Any) -> None:
    for weights in load_file(reference.finished / "model.safetensors").values():
        assert fingerprint(weights) == fingerprint(weights.cuda())


def losses(outcome: Any) -> list[float]:
    outcome.digests()
    return [json.loads(line)["loss"] for line in (outcome.finished / "steps.jsonl").read_text("utf-8").splitlines()]
