"""The flagship: one set of bits for any number of ranks, however the model is sharded."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.training.determinism import environment_of_ranks
from specs.common.files import tree_digests
from specs.loading.settings import ROOT


@pytest.mark.parametrize("ranks", [2, 4])
def test_any_number_of_ranks_gives_the_same_bytes(
    ranks: int, reference: Any, compute: Callable[..., Any], make_job: Callable[..., Path]
) -> None:
    # Uneven shards, clipping at every step, held-out loss, digests of weights and moments: all of it in these files.
    assert compute(make_job(), ranks=ranks).digests() == reference.digests()


def test_one_micro_batch_for_each_rank(
    compute: Callable[..., Any], make_job: Callable[..., Path], reference: Any
) -> None:
    assert compute(make_job(), ranks=8).digests() == reference.digests()


def test_two_nodes_of_two_ranks_give_the_same_bytes(
    reference: Any, compute: Callable[..., Any], make_job: Callable[..., Path]
) -> None:
    """Folded inside each node, then across nodes."""
    outcome = compute(make_job(), ranks=4, per_node=2)
    assert outcome.digests() == reference.digests()
    environment = json.loads((outcome.job.parent / "measured" / "environment.json").read_text("utf-8"))
    assert (environment["ranks"], environment["ranks_per_node"]) == (4, 2)


def test_folding_across_nodes_first_fails_this_test(
    reference: Any, compute: Callable[..., Any], make_job: Callable[..., Path]
) -> None:
    """The two stages in the other order add the same numbers in another tree."""
    outcome = compute(make_job(), ranks=4, per_node=2, fault="across_first")
    assert outcome.digests() != reference.digests()


def test_stock_reduction_fails_this_test(
    compute: Callable[..., Any], make_job: Callable[..., Path], reference: Any
) -> None:
    assert compute(make_job(), ranks=4, fault="stock").digests() != reference.digests()


@pytest.mark.parametrize(
    "changes",
    [
        {"training.parallelism": {"sharding": "zero3"}},
        {"training.parallelism": {"sharding": "mixed", "resharded_blocks": 1}},
        {"training.parallelism": {"recompute": "full"}},
        {"training.parallelism": {"recompute": "selective"}},
    ],
    ids=["zero3", "mixed", "full", "selective"],
)
def test_sharding_and_recomputation_do_not_change_weights(
    changes: dict[str, Any], compute: Callable[..., Any], make_job: Callable[..., Path], reference: Any
) -> None:
    outcome = compute(make_job(changes), ranks=2)
    assert outcome.digests()["model.safetensors"] == reference.digests()["model.safetensors"]


def test_tied_embeddings_and_full_attention_are_as_invariant(
    compute: Callable[..., Any], make_job: Callable[..., Path]
) -> None:
    changes = {"architecture.tie_embeddings": True, "architecture.attention": {"pattern": "full"}}
    assert compute(make_job(changes), ranks=1).digests() == compute(make_job(changes), ranks=4).digests()


def test_bf16_on_the_wire_loses_nothing_of_bf16_gradients(
    compute: Callable[..., Any], make_job: Callable[..., Path]
) -> None:
    wide, narrow = ({"training.precision": {"compute": "bf16", "wire": wire}} for wire in ("fp32", "bf16"))
    one, four = compute(make_job(wide), ranks=1).digests(), compute(make_job(narrow), ranks=4).digests()
    assert one["model.safetensors"] == four["model.safetensors"]


def test_the_run_learns(reference: Any) -> None:
    lines = [json.loads(line) for line in (reference.finished / "steps.jsonl").read_text("utf-8").splitlines()]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert all(line["norm"] > 0.1 for line in lines), "clipping was meant to be active"


@pytest.fixture(scope="module")
def fifty(compute: Callable[..., Any], make_job: Callable[..., Path]) -> Any:
    return compute(make_job({"steps": 50, "training.checkpoints.every": 10}), ranks=1)


@pytest.mark.thorough
@pytest.mark.parametrize(("ranks", "per_node"), [(2, 2), (4, 4), (8, 8), (4, 2), (8, 2), (8, 4), (4, 1)])
def test_fifty_steps_on_any_layout(
    ranks: int, per_node: int, fifty: Any, compute: Callable[..., Any], make_job: Callable[..., Path]
) -> None:
    job = make_job({"steps": 50, "training.checkpoints.every": 10})
    assert compute(job, ranks=ranks, per_node=per_node).digests() == fifty.digests()


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_compiled_layers_are_as_invariant(compute: Callable[..., Any], make_job: Callable[..., Path]) -> None:
    changes = {"training.parallelism": {"compile": True}}
    alone = compute(make_job(changes), ranks=1).digests()
    assert compute(make_job(changes), ranks=2).digests() == alone
    assert compute(make_job(changes), ranks=4).digests() == alone


@pytest.mark.thorough
def test_two_agents_of_torchrun_as_two_nodes(reference: Any, make_job: Callable[..., Path]) -> None:
    """Started as on two machines: an agent on each, which meet at an address."""
    job = make_job()
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    options = ["--nnodes=2", "--nproc-per-node=2", "--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}"]
    command = [sys.executable, "-m", "torch.distributed.run", *options, "--rdzv-id=nodes", "--local-addr=localhost"]
    environment = os.environ | environment_of_ranks(1) | {"GLOO_SOCKET_IFNAME": "lo"}
    agents = [
        subprocess.Popen(
            [*command, "-m", "runner.training.worker", job], cwd=ROOT, env=environment, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    logs = [agent.communicate()[1] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], logs
    assert tree_digests(job.parent / "finished") == reference.digests()
    environment = json.loads((job.parent / "measured" / "environment.json").read_text("utf-8"))
    assert (environment["ranks"], environment["ranks_per_node"]) == (4, 2)
