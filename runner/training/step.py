"""One training step: gradients of all micro-batches, folded in a fixed order, and one update."""

import math
from typing import Any

import torch
from torch import Tensor

from runner.training.data_loader import MicroBatch
from runner.training.diagnose import diagnose_nonfinite
from runner.training.optimizer import Optimizer, clip, squared_norms, total_norm
from runner.training.reduction import tree_sum
from runner.training.sharding import ShardedModel
from specs.common.errors import UserError
from specs.schema.training import Training


def train_step(
    model: ShardedModel, optimizer: Optimizer, training: Training, micro_batches: list[MicroBatch], step: int, lr: float
) -> dict[str, Any]:
    """A step (from 1) over all micro-batches of the global batch; this rank's are given. Returns its journal entry.

    The loss is the mean over all targets to learn in the global batch: their number is known before the first
    micro-batch is computed, so each micro-batch adds its own share. Raises UserError where there is none, or where a
    loss or the gradient is not finite; nothing is updated then.
    """
    counts = model.gather_values([float(sum(micro_batch.count for micro_batch in micro_batches))])
    targets = int(sum(count for (count,) in counts))
    if targets == 0:
        raise UserError(f"step {step}: none of its sequences has a target to learn; check the token store")
    gradients, own_losses = fold_micro_batches(model, training, micro_batches, targets)
    by_rank = model.gather_values(own_losses)
    losses = [by_rank[leaf % model.ranks][leaf // model.ranks] for leaf in range(training.micro_batches)]
    squares = squared_norms(model, gradients)
    norm = total_norm(squares)
    if not all(map(math.isfinite, [*losses, norm])):
        raise diagnose_nonfinite(model, training, micro_batches, step, targets, losses, squares)
    entry: dict[str, Any] = {"step": step, "loss": tree_sum(losses), "norm": norm, "lr": lr, "targets": targets}
    if training.skip_spikes_above is not None and norm > training.skip_spikes_above:
        return entry | {"skipped": True}
    clip(gradients, norm, training.clip_norm)
    optimizer.update(gradients, lr)
    return entry


def fold_micro_batches(
    model: ShardedModel, training: Training, micro_batches: list[MicroBatch], targets: int
) -> tuple[list[Tensor], list[float]]:
    """Gradient shards, folded over all micro-batches of all ranks, and the loss of each micro-batch of this rank."""
    gradients, losses = list[Tensor](), []
    for number, micro_batch in enumerate(micro_batches):
        model.begin(number, training.micro_batches)
        loss = model.loss(micro_batch, targets, training.loss_chunk)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = model.accumulate()
        losses.append(loss.detach())
    return gradients, [float(loss) for loss in torch.stack(losses).tolist()]
