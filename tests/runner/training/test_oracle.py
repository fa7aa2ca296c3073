"""A second implementation of the same training: flat ZeRO-2 by hand, without FSDP, collectives or torch's optimizer.

It shares the model with the runner, and the definition of the tree; everything else is written again, the simplest way.
"""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from data_pipeline.tokens.shuffle import Order
from data_pipeline.tokens.token_store import TokenStore
from model.decoder.init import initialise
from model.decoder.transformer import Transformer
from runner.training.job import Job
from tests.runner.training.sums_by_definition import halve, tree


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def once(exact: Tensor) -> Tensor:
    """The result of one operation of fp32, from that of fp64: rounding twice is as rounding once (Figueroa, 1995)."""
    return exact.float().double()


def single(value: float) -> float:
    return float(np.float32(value))


def micro_batch_gradient(model: Transformer, rows: Any, count: int, chunk: int) -> list[Tensor]:
    tokens = torch.from_numpy(rows.tokens.astype(np.int64))
    documents = torch.from_numpy(rows.documents.astype(np.int64))[:, :-1]
    learnt = torch.from_numpy(rows.loss.astype(bool))[:, 1:]
    model.zero_grad()
    model.loss(tokens[:, :-1], tokens[:, 1:], learnt, documents=documents, scale=1.0 / count, chunk=chunk).backward()
    return [parameter.grad.float() for parameter in model.parameters()]


def flat_zero2(job: Job, dtype: torch.dtype, ranks: int) -> dict[str, Tensor]:
    """Weights after the job, with masters and moments cut into `ranks` equal pieces of one flat vector."""
    training, store = job.training, TokenStore.open(Path(job.store))
    assert training.held_out and training.optimizer.weight_decay
    order = Order(store.shares, training.seed, training.held_out.sequences)
    model = Transformer(job.architecture, job.vocab_size)
    initialise(model, training.seed)
    names, shapes = zip(*((name, p.shape) for name, p in model.named_parameters()), strict=True)
    sizes = [shape.numel() for shape in shapes]
    master = torch.cat([p.detach().flatten() for p in model.parameters()])
    decayed = torch.cat([torch.full((n,), len(s) > 1) for n, s in zip(sizes, shapes, strict=True)])
    first, second = torch.zeros_like(master), torch.zeros_like(master)
    model = model.to(dtype)
    adam = training.optimizer
    for step in range(job.steps):
        with torch.no_grad():
            for parameter, values in zip(model.parameters(), master.split(sizes), strict=True):
                parameter.copy_(values.view(parameter.shape))
        micro_batches = [store.rows(row) for row in order.step(step, training.micro_batches, training.micro_batch_size)]
        count = sum(int(rows.loss[:, 1:].sum()) for rows in micro_batches)
        by_micro_batch = [micro_batch_gradient(model, rows, count, training.loss_chunk) for rows in micro_batches]
        gradients = [tree(list(leaves)) for leaves in zip(*by_micro_batch, strict=True)]
        squares = [halve(halve(g.view(g.shape[0], -1).double().numpy() ** 2)) for g in gradients]
        norm = math.sqrt(halve(np.array(squares)))
        flat = torch.cat([g.flatten() for g in gradients])
        if norm > training.clip_norm:
            flat *= training.clip_norm / norm
        if step < training.schedule.warmup_steps:
            lr = adam.lr * (step + 1) / (training.schedule.warmup_steps + 1)
        else:
            done = (step - training.schedule.warmup_steps) / (job.steps - 1 - training.schedule.warmup_steps)
            lr = adam.lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))
        correction1, correction2 = 1 - adam.beta1 ** (step + 1), 1 - adam.beta2 ** (step + 1)
        for piece in torch.arange(len(flat)).chunk(ranks):
            at = slice(int(piece[0]), int(piece[-1]) + 1)
            p, g, m, v = (whole[at].double() for whole in (master, flat, first, second))
            p = torch.where(decayed[at], once(p * single(1 - lr * adam.weight_decay)), p)
            m = once(once(m * single(adam.beta1)) + once(g * single(1 - adam.beta1)))
            v = once(once(v * single(adam.beta2)) + once(once(g * g) * single(1 - adam.beta2)))
            divisor = once(once(once(v.sqrt()) / single(math.sqrt(correction2))) + single(adam.eps))
            p = once(p - once(once(m / divisor) * single(lr / correction1)))
            for whole, result in ((master, p), (first, m), (second, v)):
                whole[at] = result.float()
    return {n: w.view(s) for n, w, s in zip(names, master.split(sizes), shapes, strict=True)}


@pytest.mark.parametrize(("compute_in", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_hand_written_flat_zero2_gives_the_same_bits(
    compute_in: str,
    dtype: torch.dtype,
    one_thread: None,
    compute: Callable[..., Any],
    make_job: Callable[..., Path],
) -> None:
    job = make_job({"training.precision": {"compute": compute_in}})
    outcome = compute(job, ranks=2)
    outcome.digests()
    trained = load_file(outcome.finished / "model.safetensors")
    # Three pieces: a division that FSDP cannot make.
    oracle = flat_zero2(Job.model_validate(json.loads(job.read_text("utf-8"))), dtype, ranks=3)
    assert trained.keys() == oracle.keys()
    different = [name for name, values in oracle.items() if not torch.equal(values, trained[name])]
    assert not different
