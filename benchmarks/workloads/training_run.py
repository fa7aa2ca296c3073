"""A training phase on one rank of this process, built as `runner.training.rank` builds it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from data_pipeline.tokens.token_store import TokenStore
from runner.monitoring.telemetry import Telemetry
from runner.training.build import build, initialise
from runner.training.checkpoints import Checkpoints
from runner.training.data_loader import DataLoader, MicroBatch
from runner.training.determinism import pin
from runner.training.journal import Journal
from runner.training.optimizer import Optimizer
from runner.training.run import Run
from runner.training.sharding import ShardedModel
from runner.training.step import train_step
from runner.training.watchdog import Watchdog
from specs.common.run_folder import RunFolder
from specs.estimates.counts import flops_per_sequence, sequences_per_step, tokens_per_step
from specs.schema.training import Architecture, Training

STEPS = 1_000
CPU = torch.device("cpu")


@contextlib.contextmanager
def one_rank(
    architecture: Architecture, vocab_size: int, training: Training, *, device: torch.device = CPU, threads: int = 1
) -> Iterator[tuple[ShardedModel, Optimizer]]:
    """What a step trains, at its beginning. One process group can exist at a time.

    Torch's strict mode is on inside, as it is in a run.
    """
    pin(threads, device)
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1)
    try:
        model, optimizer = build(architecture, vocab_size, training, init_device_mesh(device.type, (1,)))
        initialise(model, optimizer, training.seed)
        yield model, optimizer
    finally:
        torch.set_deterministic_debug_mode("default")
        dist.destroy_process_group()


@contextlib.contextmanager
def strict() -> Iterator[None]:
    """Torch's strict mode for what is done inside, where others of this process may use what it forbids."""
    torch.set_deterministic_debug_mode("error")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode("default")


@contextlib.contextmanager
def training_run(
    architecture: Architecture,
    training: Training,
    store: TokenStore,
    folder: Path,
    *,
    device: torch.device = CPU,
    threads: int = 1,
) -> Iterator[Run]:
    """A run at its first step, with the vocabulary of the store."""
    vocab_size = store.manifest.vocab_size
    flops = flops_per_sequence(architecture, vocab_size) * sequences_per_step(training)
    tokens = tokens_per_step(training, architecture)
    with one_rank(architecture, vocab_size, training, device=device, threads=threads) as (model, optimizer):
        yield Run(
            model=model,
            optimizer=optimizer,
            loader=DataLoader(store, training, device),
            checkpoints=Checkpoints(RunFolder(folder).checkpoints, "0" * 64, training.checkpoints, model, optimizer),
            journal=Journal(RunFolder(folder).steps, "0" * 64),
            telemetry=Telemetry(None, "benchmark", STEPS, tokens, flops, None),
            watchdog=Watchdog(600),
            training=training,
            steps=STEPS,
        )


def random_micro_batches(
    count: int, rows: int, length: int, vocab_size: int, *, seed: int = 1, device: torch.device = CPU
) -> list[MicroBatch]:
    """Random ids, one document a row, all targets learnt."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        ids = torch.randint(0, vocab_size, (rows, length + 1), generator=generator).to(device)
        tokens, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
        made.append(MicroBatch(tokens, targets, torch.ones_like(targets, dtype=torch.bool), torch.zeros_like(tokens)))
    return made


def first_step(run: Run, micro_batches: list[MicroBatch]) -> None:
    """The first step of a run, again and again: each time from other weights, at the same cost."""
    train_step(run.model, run.optimizer, run.training, micro_batches, 1, run.training.optimizer.lr)


def save(run: Run) -> None:
    """A whole save of the first step's state.

    `Checkpoints.save` alone returns while a thread still writes, whose time would count as that of whatever comes next.
    """
    assert run.journal
    run.checkpoints.save(1, "0" * 64, run.journal.path, run.journal.bytes)
    run.checkpoints.finish()
