"""What level `topology` costs: the order-fixed step beside stock FSDP2 that synchronises every micro-batch.

Two ranks of one machine, the same model, micro-batches, precision and optimizer, taken in turn within the same
processes. Stock: FSDP2's own reduce-scatter after each micro-batch, gradients accumulated in shards, `clip_grad_norm_`,
fused AdamW. Ours: `train_step` of the runner. Time is processor time of a rank, and wall time beside it.
"""

import os
import socket
import sys
import time
from collections.abc import Callable
from statistics import median

import click
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultReduceScatter

from benchmarks.workloads.training_run import random_micro_batches
from runner.training.build import build, initialise
from runner.training.data_loader import MicroBatch
from runner.training.determinism import environment_of_ranks, pin
from runner.training.optimizer import Optimizer
from runner.training.sharding import ShardedModel
from runner.training.step import train_step
from specs.schema.training import Architecture, Training

VOCABULARY = 8192
ARCHITECTURE = Architecture(d_model=256, n_layers=4, n_heads=4, d_ff=768, context_length=512)
CPU = torch.device("cpu")


def built(phase: Training) -> tuple[ShardedModel, Optimizer]:
    """One rank's part of the step."""
    model, optimizer = build(ARCHITECTURE, VOCABULARY, phase, init_device_mesh("cpu", (dist.get_world_size(),)))
    initialise(model, optimizer, phase.seed)
    return model, optimizer


def stock(phase: Training, micro_batches: list[MicroBatch]) -> Callable[[], object]:
    """The usual loop over FSDP2."""
    sharded, _ = built(phase)
    for module in sharded.model.modules():
        if isinstance(module, FSDPModule):
            module.set_custom_reduce_scatter(DefaultReduceScatter())
    parameters = list(sharded.model.parameters())
    values = phase.optimizer
    adamw = torch.optim.AdamW(
        parameters, lr=values.lr, betas=(values.beta1, values.beta2), weight_decay=values.weight_decay, fused=True
    )
    targets = sum(micro_batch.count for micro_batch in micro_batches) * sharded.ranks

    def step() -> None:
        for number, micro_batch in enumerate(micro_batches, 1):
            sharded.keep_gathered(number < len(micro_batches))
            sharded.loss(micro_batch, targets, phase.loss_chunk).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, phase.clip_norm)
        adamw.step()
        adamw.zero_grad(set_to_none=True)

    return step


def rank_main(rank: int, ranks: int, port: int, rounds: int, wire: str) -> None:
    """One rank: both steps in turn; rank 0 prints."""
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    pin(1, CPU)
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    phase = Training.model_validate(
        {
            "micro_batches": 2 * ranks,
            "optimizer": {"lr": 1e-4},
            "micro_batch_size": 2,
            "schedule": {"kind": "constant", "warmup_steps": 0},
            "precision": {"compute": "bf16", "wire": wire},
            "checkpoints": {"every": 1000},
        }
    )
    shape = (phase.micro_batches // ranks, phase.micro_batch_size, ARCHITECTURE.context_length, VOCABULARY)
    micro_batches = random_micro_batches(*shape, seed=rank)
    model, optimizer = built(phase)
    steps = {
        "twice": lambda: train_step(model, optimizer, phase, micro_batches, 1, phase.optimizer.lr),
        "stock FSDP2": stock(phase, micro_batches),
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for index in range(rounds + 1):
        for name, step in steps.items():
            dist.barrier()
            cpu, wall = time.process_time(), time.monotonic()
            step()
            used = torch.tensor([time.process_time() - cpu, time.monotonic() - wall])
            everyone = torch.empty((ranks, 2))
            dist.all_gather(list(everyone), used)
            if index:
                taken[name].append((float(everyone[:, 0].sum()), float(everyone[:, 1].max())))
    if rank == 0:
        tokens_per_step = phase.micro_batches * phase.micro_batch_size * ARCHITECTURE.context_length
        for name, pairs in taken.items():
            cpus, walls = zip(*pairs, strict=True)
            rates = f"{tokens_per_step / median(cpus):8,.0f} tokens per processor second, "
            print(f"{name:12s} {rates}{tokens_per_step / median(walls):8,.0f} per second of wall time")
        for place, what in enumerate(("processor time", "wall time")):
            ratios = [b[place] / a[place] for a, b in zip(taken["twice"], taken["stock FSDP2"], strict=True)]
            print(f"twice is {median(ratios):.2f}x stock by {what} (of {min(ratios):.2f} to {max(ratios):.2f})")
    dist.destroy_process_group()


@click.command(epilog="Example: python -m benchmarks.studies.reduction_cost --rounds 9")
@click.option("--ranks", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True)
@click.option("--wire", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True, help="Of both.")
def main(ranks: int, rounds: int, wire: str) -> None:
    """Print tokens per second of both, and the ratio."""
    wanted = environment_of_ranks(1)
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        # The allocator reads its settings once, and both profit from them.
        os.execve(
            sys.executable,
            [sys.executable, "-m", "benchmarks.studies.reduction_cost", *sys.argv[1:]],
            os.environ | wanted,
        )
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    mp.spawn(rank_main, (ranks, port, rounds, wire), nprocs=ranks)  # type: ignore[attr-defined,no-untyped-call]


if __name__ == "__main__":
    main()
