"""The training loop: the same for pretraining and finetuning, the same bits for any number of ranks."""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from runner.training.checkpoints import State
from runner.training.data_loader import DataLoader
from runner.training.digests import digests
from runner.training.fingerprints import Fingerprints
from runner.training.optimizer import Optimizer
from runner.training.run import Run
from runner.training.schedule import learning_rate
from runner.training.sharding import ShardedModel
from runner.training.step import train_step
from specs.common.errors import UserError


class Stopped(Exception):
    """The run was asked to stop; its state is saved."""


def train(run: Run, start: State | None, stop_requested: Callable[[], bool]) -> None:
    """Train from a state (none: the beginning) to the last step, saving state on the way.

    Raises Stopped once a rank was asked to stop, and UserError where a loss or a gradient is not finite.
    """
    training, telemetry = run.training, run.telemetry
    first, fingerprints = start.step if start else 0, Fingerprints(run.model)
    telemetry.begin(first)
    for index in range(first, run.until or run.steps):
        began, step, last = time.monotonic(), index + 1, index + 1 == run.steps
        with run.watchdog.waiting(f"step {step}: its rows of the token store"):
            micro_batches = run.loader.micro_batches(index, run.model.rank, run.model.ranks)
        waited = time.monotonic() - began
        run.watchdog.expect(f"the end of step {step}")
        # Of the weights that enter the step: what goes wrong in memory between two steps is seen before it spreads.
        entering = fingerprints.take()
        lr = learning_rate(index, run.steps, training.optimizer.lr, training.schedule)
        try:
            entry = train_step(run.model, run.optimizer, training, micro_batches, step, lr)
        except UserError:
            run.checkpoints.finish()  # every rank raises it, and what was computed before is good
            raise
        entry["weights"] = fingerprints.whole(entering)
        if start and start.code_change and index == first:
            entry["code_change"] = start.code_change
        if training.held_out and (last or step % training.held_out.every == 0):
            entry["held_out_loss"] = held_out_loss(run.model, run.loader, training.loss_chunk)
        saving = last or step % training.checkpoints.every == 0
        if saving:
            entry["digests"] = state_digests(run.model, run.optimizer)
        if run.journal:
            run.journal.append(entry | {"rows": run.loader.rows_digest(index)})
        telemetry.step(entry, seconds=time.monotonic() - began, waited=waited)
        stopping = any(flag for (flag,) in run.model.gather_values([float(stop_requested())]))
        if saving or stopping:
            save(run, step)
        else:
            run.checkpoints.advance()
        if stopping and not last:
            run.checkpoints.finish()
            raise Stopped(f"stopped after step {step} of {run.steps} as asked; run the same command to go on")
    run.checkpoints.finish()


@torch.no_grad()
def held_out_loss(model: ShardedModel, loader: DataLoader, chunk: int) -> float:
    """Mean loss (nats) over all targets of the held-out rows, with the weights of now. chunk: as in `Transformer.loss`.

    Raises UserError where there is no target to learn among them.
    """
    ranks, count = model.ranks, loader.held_out_micro_batches()
    sums, targets = [0.0] * count, [0.0] * count
    for begin in range(0, count, ranks):
        # Gathering parameters is collective: a rank without a micro-batch of its own repeats the last one.
        micro_batch = loader.held_out(min(begin + model.rank, count - 1))
        shares = model.gather_values([float(model.loss(micro_batch, 1, chunk)), float(micro_batch.count)])
        for index, (loss, learnt) in zip(range(begin, count), shares, strict=False):
            sums[index], targets[index] = loss, learnt
    model.drop_gathered()
    if not sum(targets):
        raise UserError("none of the held-out sequences has a target to learn; hold out more (held_out.sequences)")
    return math.fsum(sums) / math.fsum(targets)


def state_digests(model: ShardedModel, optimizer: Optimizer) -> dict[str, dict[str, str]]:
    """Digest of every tensor of the training state, whole, by kind and name."""
    return {
        "value": digests(model, [shard.values for shard in model.shards]),
        "first": digests(model, optimizer.first),
        "second": digests(model, optimizer.second),
    }


def save(run: Run, step: int) -> None:
    """Begin to save the state after a step, on every rank."""
    journal: list[Any] = [(run.journal.chain, run.journal.path, run.journal.bytes) if run.journal else None]
    dist.broadcast_object_list(journal, src=0, group=run.model.group)
    run.checkpoints.save(step, *journal[0])
