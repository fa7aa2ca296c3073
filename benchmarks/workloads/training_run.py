"""A training phase on one rank of this process, built from the parts that `runner.training.rank` builds it from."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from data_pipeline.tokens.token_store import TokenStore
from model.decoder.init import initial_values
from model.decoder.transformer import Transformer
from runner.monitoring.telemetry import Telemetry
from runner.training.checkpoints import Checkpoints
from runner.training.data_loader import Batches
from runner.training.determinism import pin
from runner.training.digests import Journal
from runner.training.loop import Run
from runner.training.optimizer import Optimizer
from runner.training.sharding import DTYPES, ShardedModel
from specs.common.run_folder import RunFolder
from specs.estimates.counts import flops_per_sequence, sequences_per_step, tokens_per_step
from specs.schema.training import Architecture, Training

STEPS = 1_000
CPU = torch.device("cpu")


@contextlib.contextmanager
def rigged(
    architecture: Architecture,
    training: Training,
    store: TokenStore,
    folder: Path,
    *,
    device: torch.device = CPU,
    threads: int = 1,
) -> Iterator[Run]:
    """A run at its first step, with the vocabulary of the store. One process group can exist at a time."""
    pin(threads, device)
    vocabulary = store.manifest.vocab_size
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
    try:
        with torch.device("meta"):
            transformer = Transformer(
                architecture,
                vocabulary,
                recompute=training.parallelism.recompute,
                device=device.type,
                dtype=DTYPES[training.precision.compute],
            )
        mesh = init_device_mesh(device.type, (1,))
        model = ShardedModel(transformer, mesh, training.precision, training.parallelism, device)
        for shard in model.shards:
            values = initial_values(architecture, training.seed, shard.name, 0, shard.values.numel())
            shard.values.copy_(values.view(shard.values.shape))
        optimizer = Optimizer(training.optimizer, model.shards, device.type)
        optimizer.reset()
        batches = Batches(store, training, device)
        checkpoints = Checkpoints(RunFolder(folder).checkpoints, "0" * 64, training.checkpoints, model, optimizer)
        journal = Journal(RunFolder(folder).steps, "0" * 64)
        flops = flops_per_sequence(architecture, vocabulary) * sequences_per_step(training)
        tokens = tokens_per_step(training, architecture)
        telemetry = Telemetry(None, "benchmark", STEPS, tokens, flops, None)
        yield Run(model, optimizer, batches, checkpoints, journal, telemetry, training, STEPS)
    finally:
        # The strict flag is this run's alone: what is measured beside it may use what it forbids.
        torch.set_deterministic_debug_mode("default")
        dist.destroy_process_group()


def save(run: Run) -> None:
    """A whole save of the first step's state.

    `Checkpoints.save` alone returns while a thread still writes, whose time would count as that of whatever comes next.
    """
    assert run.journal
    run.checkpoints.save(1, "0" * 64, run.journal.path)
    run.checkpoints.finish()
