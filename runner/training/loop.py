"""The training loop: the same for pretraining and finetuning, the same bits for any number of ranks."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from runner.monitoring.telemetry import Telemetry
from runner.training.checkpoints import Checkpoints, State
from runner.training.data_loader import Batches, MicroBatch
from runner.training.digests import Journal, digests
from runner.training.fingerprints import Fingerprints
from runner.training.optimizer import Optimizer, clip, squared_norms, total_norm
from runner.training.reduction import Fold, tree_sum
from runner.training.schedule import learning_rate
from runner.training.sharding import ShardedModel
from runner.training.watchdog import Watchdog
from specs.common.errors import UserError
from specs.schema.training import Training


class Stopped(Exception):
    """The run was asked to stop; its state is saved."""


@dataclass
class Run:
    """One phase on one rank: everything that a step touches. The journal is kept by rank 0 alone."""

    model: ShardedModel
    optimizer: Optimizer
    batches: Batches
    checkpoints: Checkpoints
    journal: Journal | None
    telemetry: Telemetry
    training: Training
    steps: int
    until: int | None = None
    """Step to end after, before the last: for a part of a run that is executed again."""

    watchdog: Watchdog | None = None
    """With rows that do not come; none waits for ever."""

    def waiting(self, for_what: str) -> AbstractContextManager[None]:
        """Wait for something, as long as the watchdog allows."""
        return self.watchdog.waiting(for_what) if self.watchdog else nullcontext()

    def gather(self, values: list[float]) -> list[list[float]]:
        """The same number of values from every rank, by rank, in double precision."""
        mine = torch.tensor(values, dtype=torch.float64, device=self.model.device)
        everyone = mine.new_empty((self.model.ranks, len(values)))
        dist.all_gather(list(everyone), mine, group=self.model.group)
        return [[float(value) for value in row] for row in everyone.tolist()]


def train(run: Run, start: State | None, stop_asked: Callable[[], bool]) -> None:
    """Train from a state (none: the beginning) to the last step, saving state on the way.

    Raises Stopped once a rank was asked to stop, and UserError where a loss or a gradient is not finite.
    """
    training, telemetry = run.training, run.telemetry
    first, fingerprints = start.step if start else 0, Fingerprints(run.model)
    telemetry.begin(first)
    for index in range(first, run.until or run.steps):
        began = time.monotonic()
        with run.waiting(f"step {index + 1}: its rows of the token store"):
            micro_batches = run.batches.micro_batches(index, run.model.rank, run.model.ranks)
        waited = time.monotonic() - began
        if run.watchdog:
            run.watchdog.expect(f"the end of step {index + 1}")
        # Of the weights that enter the step: what goes wrong in memory between two steps is seen before it spreads.
        entering = fingerprints.take()
        try:
            entry = train_step(run, index, micro_batches) | {"weights": fingerprints.whole(entering)}
        except UserError:
            run.checkpoints.finish()  # every rank raises it, and what was computed before is good
            raise
        if start and start.code_change and index == first:
            entry["code_change"] = start.code_change
        step, last = index + 1, index + 1 == run.steps
        if training.held_out and (last or step % training.held_out.every == 0):
            entry["held_out_loss"] = held_out_loss(run)
        saving = last or step % training.checkpoints.every == 0
        if saving:
            entry["digests"] = state_digests(run.model, run.optimizer)
        if run.journal:
            run.journal.append(entry | {"rows": run.batches.rows_digest(index)})
        telemetry.step(entry, seconds=time.monotonic() - began, waited=waited)
        stopping = any(flag for (flag,) in run.gather([float(stop_asked())]))
        if saving or stopping:
            save(run, step)
        else:
            run.checkpoints.advance()
        if stopping and not last:
            run.checkpoints.finish()
            raise Stopped(f"stopped after step {step} of {run.steps} as asked; run the same command to go on")
    run.checkpoints.finish()


def train_step(run: Run, index: int, micro_batches: list[MicroBatch]) -> dict[str, Any]:
    """One step (from 0) over all micro-batches of the global batch; this rank's are given. Returns its journal entry.

    The loss is the mean over all targets to learn in the global batch: their number is known before the first
    micro-batch is computed, so each micro-batch adds its own share.
    """
    training, model = run.training, run.model
    targets = int(
        sum(count for (count,) in run.gather([float(sum(micro_batch.count for micro_batch in micro_batches))]))
    )
    if targets == 0:
        raise UserError(f"step {index + 1}: none of its sequences has a target to learn; check the token store")
    gradients, mine = fold_micro_batches(run, micro_batches, targets)
    by_rank = run.gather(mine)
    losses = [by_rank[rank][j] for j in range(len(micro_batches)) for rank in range(model.ranks)]
    squares = squared_norms(model, gradients)
    norm = total_norm(squares)
    if not all(map(math.isfinite, [*losses, norm])):
        raise blame(run, index, micro_batches, targets, losses, squares)
    lr = learning_rate(index, run.steps, training.optimizer.lr, training.schedule)
    entry: dict[str, Any] = {"step": index + 1, "loss": tree_sum(losses), "norm": norm, "lr": lr, "targets": targets}
    if training.skip_spikes_above is not None and norm > training.skip_spikes_above:
        return entry | {"skipped": True}
    clip(gradients, norm, training.clip_norm)
    run.optimizer.update(gradients, lr)
    return entry


def fold_micro_batches(run: Run, micro_batches: list[MicroBatch], targets: int) -> tuple[list[Tensor], list[float]]:
    """Gradient shards, folded over all micro-batches of all ranks, and the loss of each micro-batch of this rank."""
    fold, losses = Fold(), []
    for number, micro_batch in enumerate(micro_batches, 1):
        run.model.keep_gathered(number < len(micro_batches))
        loss = micro_batch_loss(run, micro_batch, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        fold.add(run.model.take_gradients())
        losses.append(loss.detach())
    return fold.total(), [float(loss) for loss in torch.stack(losses).tolist()]


def micro_batch_loss(run: Run, micro_batch: MicroBatch, targets: int) -> Tensor:
    """A micro-batch's share of the loss, when `targets` are learnt in all: a scalar."""
    run.model.before_micro_batch()
    return run.model.model.loss(
        micro_batch.tokens,
        micro_batch.targets,
        micro_batch.learnt,
        documents=micro_batch.documents,
        scale=1.0 / targets,
        chunk=run.training.loss_chunk,
    )


@torch.no_grad()
def held_out_loss(run: Run) -> float:
    """Mean loss (nats) over all targets of the held-out rows, with the weights of now."""
    ranks, count = run.model.ranks, run.batches.held_out_micro_batches()
    sums, targets = [0.0] * count, [0.0] * count
    for begin in range(0, count, ranks):
        # Gathering parameters is collective: a rank without a micro-batch of its own repeats the last one.
        micro_batch = run.batches.held_out(min(begin + run.model.rank, count - 1))
        shares = run.gather([float(micro_batch_loss(run, micro_batch, 1)), float(micro_batch.count)])
        for index, (loss, learnt) in zip(range(begin, count), shares, strict=False):
            sums[index], targets[index] = loss, learnt
    run.model.drop_gathered()
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
    chain: list[Any] = [(run.journal.chain, str(run.journal.path)) if run.journal else None]
    dist.broadcast_object_list(chain, src=0, group=run.model.group)
    run.checkpoints.save(step, chain[0][0], chain[0][1])


def blame(
    run: Run, index: int, micro_batches: list[MicroBatch], targets: int, losses: list[float], squares: list[float]
) -> UserError:
    """Find what is not finite by computing the step's micro-batches again: they give the same bits.

    Names the step, the micro-batch, and the first module whose output, or first tensor whose gradient, is not finite.
    """
    where = f"step {index + 1}"
    names = [shard.name for shard in run.model.shards]
    bad_micro_batches = [micro_batch for micro_batch, loss in enumerate(losses) if not math.isfinite(loss)]
    if bad_micro_batches:
        micro_batch, ranks = bad_micro_batches[0], run.model.ranks
        found = _first_broken_output(run, micro_batches[micro_batch // ranks], targets)
        everyone: list[Any] = [None] * ranks
        dist.all_gather_object(everyone, found, group=run.model.group)
        what = f"the loss of micro-batch {micro_batch} is not finite, from {everyone[micro_batch % ranks]} on"
    else:
        tensor = next((name for name, square in zip(names, squares, strict=True) if not math.isfinite(square)), None)
        broken = _first_broken_micro_batch(run, micro_batches, targets)
        source = "the sum over micro-batches, each of them finite" if broken is None else f"micro-batch {broken}"
        what = f"the gradient of {tensor or 'all tensors together'} is not finite, from {source}"
    return UserError(f"{where}: {what}; nothing was updated. The last checkpoint is whole: lower lr or clip_norm")


@torch.no_grad()
def _first_broken_output(run: Run, micro_batch: MicroBatch, targets: int) -> str:
    broken: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not output.isfinite().all():
                broken.append(name)

        return hook

    modules = [(name, module) for name, module in run.model.model.named_modules() if name]
    handles = [module.register_forward_hook(watch(name)) for name, module in modules]
    micro_batch_loss(run, micro_batch, targets)
    for handle in handles:
        handle.remove()
    return broken[0] if broken else "the cross-entropy"


def _first_broken_micro_batch(run: Run, micro_batches: list[MicroBatch], targets: int) -> int | None:
    reduction, ranks = run.model.reduction, run.model.ranks
    reduction.watch = True
    for number, micro_batch in enumerate(micro_batches):
        reduction.broken.clear()
        micro_batch_loss(run, micro_batch, targets).backward()  # type: ignore[no-untyped-call]
        finite = all(bool(gradient.isfinite().all()) for gradient in run.model.take_gradients())
        # One rank alone sends itself nothing: its own gradient tells.
        broken = set(reduction.broken) if ranks > 1 else set() if finite else {0}
        everyone: list[Any] = [None] * ranks
        dist.all_gather_object(everyone, broken, group=run.model.group)
        if found := set().union(*everyone):
            return number * ranks + int(min(found))
    return None
