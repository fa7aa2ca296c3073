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

from data_pipeline.tokens.token_store import TokenStore
from runner.training.determinism import environment_of_ranks
from specs.common.files import tree_digests
from specs.loading.settings import ROOT
from tests.runner.conftest import write_store

# Ranks of each node. The ranks of nodes with the same power of two each are folded in two stages.
LAYOUTS = [[1], [2], [3], [4], [5], [6], [7], [8], [2, 2], [2, 2, 2], [3, 2], [2, 3], [3, 3], [4, 1], [4, 3], [4, 4]]
OFTEN = [[2], [3], [5], [8], [2, 2], [3, 2]]
"""Those that are tried each time; the others are thorough."""
# The fold's tree is balanced, has three subtrees, is ragged inside a node, or is as small as it can be.
MICRO_BATCHES = {8: OFTEN, 12: [[5]], 11: [[2, 2]], 1: []}
PHASES: dict[str, dict[str, Any]] = {
    **{f"{number} micro-batches": {"training.micro_batches": number} for number in MICRO_BATCHES},
    # From none to thirty targets in a micro-batch.
    "answers": {"store": "answers"},
    "bf16": {"training.precision": {"compute": "bf16", "wire": "bf16"}},
    "zero3": {"training.parallelism": {"sharding": "zero3"}},
    "mixed, recomputed": {
        "training.parallelism": {"sharding": "mixed", "resharded_blocks": 1, "recompute": "selective"}
    },
}
EACH_TIME = [(f"{number} micro-batches", layout) for number, layouts in MICRO_BATCHES.items() for layout in layouts]
EACH_TIME += [("answers", [3]), ("bf16", [3]), ("zero3", [3]), ("mixed, recomputed", [3, 2])]
CASES = [
    pytest.param(phase, layout, marks=() if (phase, layout) in EACH_TIME else pytest.mark.thorough)
    for phase, changes in PHASES.items()
    for layout in LAYOUTS
    if sum(layout) <= changes.get("training.micro_batches", 8)
]


@pytest.fixture(scope="module")
def alone(compute: Callable[..., Any], make_job: Callable[..., Path], answers: Path) -> Callable[[str], Any]:
    """A phase of `PHASES` on one rank."""
    outcomes: dict[str, Any] = {}

    def run(phase: str) -> Any:
        if phase not in outcomes:
            outcomes[phase] = compute(job_of(phase, make_job, answers))
        return outcomes[phase]

    return run


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of which few positions are learnt, in some rows none."""
    return write_store(tmp_path_factory.mktemp("answers") / "store", learnt=0.4)


def job_of(phase: str, make_job: Callable[..., Path], answers: Path) -> Path:
    changes = PHASES[phase]
    return make_job(changes | ({"store": str(answers)} if "store" in changes else {}))


@pytest.mark.parametrize(("phase", "layout"), CASES, ids=str)
def test_any_number_of_ranks_on_any_nodes_gives_the_same_bytes(
    phase: str,
    layout: list[int],
    alone: Callable[[str], Any],
    compute: Callable[..., Any],
    make_job: Callable[..., Path],
    answers: Path,
) -> None:
    # Uneven shards, clipping at every step, held-out loss, digests of weights and moments: all of it in these files.
    outcome = compute(job_of(phase, make_job, answers), layout)
    assert outcome.digests() == alone(phase).digests()
    environment = json.loads((outcome.job.parent / "measured" / "environment.json").read_text("utf-8"))
    assert (environment["ranks"], environment["ranks_per_node"]) == (sum(layout), layout[0])


def test_micro_batches_of_answers_hold_from_no_target_to_many(answers: Path) -> None:
    learnt = TokenStore.open(answers).rows(range(80)).loss[:, 1:].sum(1)
    assert learnt.min() == 0 and learnt.max() >= 20


@pytest.mark.parametrize(
    ("layout", "fault"),
    [
        pytest.param([2, 2], "across_first", id="nodes folded before the ranks of a node"),
        pytest.param([4], "stock", id="a reduction in which a collective adds"),
        pytest.param([5], "reversed_pieces", id="pieces folded from the last rank to the first"),
        pytest.param([5], "idle_ranks_learn", id="what ranks without a micro-batch compute is folded too"),
    ],
)
def test_another_order_or_another_leaf_fails_this_test(
    layout: list[int], fault: str, reference: Any, compute: Callable[..., Any], make_job: Callable[..., Path]
) -> None:
    assert compute(make_job(), layout, fault=fault).digests() != reference.digests()


def test_more_ranks_than_micro_batches_are_refused(compute: Callable[..., Any], make_job: Callable[..., Path]) -> None:
    outcome = compute(make_job({"training.micro_batches": 2}), 3)
    assert outcome.codes == [2, 2, 2]
    assert outcome.failure == "3 ranks for 2 micro-batches: give any number from 1 to 2"


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
@pytest.mark.parametrize("layout", [[2], [3], [4], [7], [8], [2, 2], [3, 2], [4, 4], [1, 1, 1, 1]], ids=str)
def test_fifty_steps_on_any_layout(
    layout: list[int], fifty: Any, compute: Callable[..., Any], make_job: Callable[..., Path]
) -> None:
    job = make_job({"steps": 50, "training.checkpoints.every": 10})
    assert compute(job, layout).digests() == fifty.digests()


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
