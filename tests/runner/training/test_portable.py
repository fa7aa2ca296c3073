"""Level portable in the training loop: by the definition alone, on any processor, number of threads and of ranks."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from data_pipeline.tokens.shuffle import Order
from data_pipeline.tokens.token_store import TokenStore
from runner.training.job import Job
from tests.runner.training.sums_by_definition import halve, tree

# The definition in numpy stands beside the tests of the kernels.
sys.path.insert(0, str(Path(__file__).parents[2] / "model" / "portable"))
import definition
from definition_of_decoder import Model, initial

Digests = dict[str, str]
THREE_STEPS = {
    "level": "portable",
    "steps": 3,
    "training.precision": {"compute": "bf16", "wire": "bf16"},
    "training.schedule": {"warmup_steps": 3},
}
TUNING = {"stage": "finetune", "steps": 2, "training.loss_chunk": 7}

PRETRAINED = "07b2d16048eef0915e93e7ed1f26db471b21cc6a864e7d62ec405f796288f0c1"
FINETUNED = "74b208fe9203d4bd41b1e471c98d0e82b29624dc490241f199a9c49f45f7593b"
"""sha256 of the weights: committed, so that any processor can be held to them."""

Train = Callable[..., Any]


@pytest.fixture(scope="module")
def train(make_job: Callable[..., Path], compute: Callable[..., Any]) -> Train:
    """Run a job at level portable, held to the closed list, under a processor's name and on so many threads."""

    def run(changes: dict[str, Any], ranks: int = 1, processor: str = "native", threads: int = 1) -> Any:
        environment = {"TWICE_STRICT": "1", "TWICE_PROCESSOR": processor, "TWICE_THREADS": str(threads)}
        outcome = compute(make_job(THREE_STEPS | changes), ranks, fault="environment_variables", argument=environment)
        assert set(outcome.codes) == {0}, outcome.log + outcome.failure
        return outcome

    return run


@pytest.fixture(scope="module")
def pretrained(train: Train) -> Any:
    return train({})


def by_the_definition(job: Job) -> dict[str, np.ndarray]:
    """Weights after a job, in numpy: nothing of model.portable, of torch, or of the training loop."""
    training, store = job.training, TokenStore.open(Path(job.store))
    assert training.held_out
    order = Order(store.shares, training.seed, training.held_out.sequences)
    form = definition.Form(training.precision.compute == "bf16")
    windows = job.architecture.attention.windows(job.architecture.n_layers)
    weights = initial(job.architecture, job.vocab_size, training.seed)
    moments = {name: (np.zeros_like(w), np.zeros_like(w)) for name, w in weights.items()}
    for step in range(job.steps):
        rows = [store.rows(row) for row in order.step(step, training.micro_batches, training.micro_batch_size)]
        count, leaves = sum(int(r.loss[:, 1:].sum()) for r in rows), []
        for r in rows:
            model, tokens = Model(job.architecture, {n: form.rounded(w) for n, w in weights.items()}, form), r.tokens
            model.loss(tokens[:, :-1], tokens[:, 1:], r.documents[:, :-1], windows, 1 / count, r.loss[:, 1:] > 0)
            leaves.append(model.grads)
        gradients = {name: tree([leaf[name] for leaf in leaves]) for name in weights}
        squares = [halve(halve(g.reshape(len(g), -1).astype(np.float64) ** 2)) for g in gradients.values()]
        norm = math.sqrt(halve(np.array(squares)))
        lr = training.optimizer.lr * (step + 1) / (training.schedule.warmup_steps + 1)
        for name, gradient in gradients.items():
            if norm > training.clip_norm:
                gradient = gradient * np.float32(training.clip_norm / norm)
            decay = training.optimizer.weight_decay if gradient.ndim > 1 else 0.0
            weights[name], *moved = definition.adamw(weights[name], gradient, *moments[name], step + 1, lr, decay)
            moments[name] = moved[0], moved[1]
    return weights


@pytest.mark.parametrize("compute_in", ["bf16", "fp32"])
def test_the_definition_alone_gives_the_same_weights_after_three_steps(
    compute_in: str, train: Train, pretrained: Any
) -> None:
    outcome = pretrained
    if compute_in == "fp32":
        outcome = train({"training.precision": {"compute": "fp32"}})
    weights = load_file(outcome.finished / "model.safetensors")
    expected = by_the_definition(Job.model_validate_json(outcome.job.read_bytes()))
    assert expected.keys() == weights.keys()
    for name, values in weights.items():
        assert np.array_equal(values.view(np.uint32), expected[name].view(np.uint32)), name


@pytest.mark.parametrize("ranks", [2, 4])
def test_any_number_of_ranks_gives_the_same_bytes(ranks: int, train: Train, pretrained: Any) -> None:
    assert train({}, ranks=ranks).digests() == pretrained.digests()


@pytest.mark.parametrize(("processor", "threads"), [("native", 2), ("avx512", 1), ("avx2", 2), ("sse2", 1)])
def test_any_processor_gives_the_committed_weights(processor: str, threads: int, train: Train, pretrained: Any) -> None:
    first = train({}, processor=processor, threads=threads)
    assert first.digests() == pretrained.digests()
    assert first.digests()["model.safetensors"] == PRETRAINED
    tuned = train(TUNING | {"initial": str(first.finished / "model.safetensors")}, 2, processor, threads)
    assert tuned.digests()["model.safetensors"] == FINETUNED


@pytest.mark.parametrize(
    "parallelism",
    [
        {"sharding": "zero3"},
        {"sharding": "mixed", "resharded_blocks": 1, "recompute": "full"},
        {"recompute": "selective"},
    ],
)
def test_neither_sharding_nor_recomputation_changes_a_weight(
    parallelism: dict[str, Any], train: Train, pretrained: Any
) -> None:
    outcome = train({"training.parallelism": parallelism}, ranks=2)
    assert outcome.digests()["model.safetensors"] == pretrained.digests()["model.safetensors"]


def test_stock_kernels_fail_this_test(train: Train, pretrained: Any) -> None:
    stock = train({"level": "topology"})
    assert stock.digests()["model.safetensors"] != pretrained.digests()["model.safetensors"]


def test_threads_are_no_part_of_the_identity_and_the_level_is(make_job: Callable[..., Path]) -> None:
    portable, stock = (
        Job.model_validate_json(make_job(THREE_STEPS | {"level": level}).read_bytes())
        for level in ("portable", "topology")
    )
    assert portable.identity != stock.identity and portable.spec["level"] == "portable"
    assert stock.identity == stock.model_copy(update={"level": "restart"}).identity
