"""Where a loss or a gradient that is not finite comes from."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from runner.training.data_loader import MicroBatch
from runner.training.sharding import ShardedModel
from specs.common.errors import UserError
from specs.schema.training import Training


def diagnose_nonfinite(
    model: ShardedModel,
    training: Training,
    micro_batches: list[MicroBatch],
    step: int,
    targets: int,
    losses: list[float],
    squares: list[float],
) -> UserError:
    """The error that names what is not finite: step, micro-batch, and the first module or tensor.

    The step's micro-batches are computed again: they give the same bits. micro_batches: this rank's; losses: of all
    micro-batches of the step; squares: squared norm of each parameter's gradient.
    """
    bad = next((number for number, loss in enumerate(losses) if not math.isfinite(loss)), None)
    if bad is not None:
        module = _first_broken_output(model, micro_batches[bad // model.ranks], targets, training.loss_chunk)
        by_rank: list[Any] = [None] * model.ranks
        dist.all_gather_object(by_rank, module, group=model.group)
        what = f"the loss of micro-batch {bad} is not finite, from {by_rank[bad % model.ranks]} on"
    else:
        names = [shard.name for shard in model.shards]
        tensor = next((name for name, square in zip(names, squares, strict=True) if not math.isfinite(square)), None)
        broken = _first_broken_micro_batch(model, training, micro_batches, targets)
        source = "the sum over micro-batches, each of them finite" if broken is None else f"micro-batch {broken}"
        what = f"the gradient of {tensor or 'all tensors together'} is not finite, from {source}"
    return UserError(f"step {step}: {what}; nothing was updated. The last checkpoint is whole: lower lr or clip_norm")


@torch.no_grad()
def _first_broken_output(model: ShardedModel, micro_batch: MicroBatch, targets: int, chunk: int) -> str:
    """Name of the first module with an output that is not finite."""
    broken: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not output.isfinite().all():
                broken.append(name)

        return hook

    modules = [(name, module) for name, module in model.model.named_modules() if name]
    handles = [module.register_forward_hook(watch(name)) for name, module in modules]
    model.loss(micro_batch, targets, chunk)
    for handle in handles:
        handle.remove()
    return broken[0] if broken else "the cross-entropy"


def _first_broken_micro_batch(
    model: ShardedModel, training: Training, micro_batches: list[MicroBatch], targets: int
) -> int | None:
    """Number of the first micro-batch with a gradient that is not finite; none where each is finite alone."""
    ranks = model.ranks
    for number, micro_batch in enumerate(micro_batches):
        leaves = min(training.micro_batches - number * ranks, ranks)
        model.begin(0, leaves)  # a step of one sub-step
        for reduction in model.reductions:
            reduction.watch, reduction.broken = True, set()
        model.loss(micro_batch, targets, training.loss_chunk).backward()  # type: ignore[no-untyped-call]
        finite = all(bool(gradient.isfinite().all()) for gradient in model.accumulate())
        # One rank alone sends itself nothing: its own gradient tells.
        broken = set[int]() if finite else {0}
        if ranks > 1:
            broken = set().union(*(reduction.broken for reduction in model.reductions))
        by_rank: list[Any] = [None] * ranks
        dist.all_gather_object(by_rank, broken, group=model.group)
        if senders := set().union(*by_rank):
            return number * ranks + int(min(senders))
    return None
