"""How far a second execution came from what was recorded, where bits differ: numbers, tensors, and the loss of both."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from data_pipeline.tokens.token_store import TokenStore
from model.weights import load_for_sampling
from runner.training.data_loader import DataLoader, MicroBatch
from runner.training.sharding import DTYPES
from runner.verification.recorded_run import RecordedRun
from runner.verification.rerun import Inputs
from runner.verification.tensor_distance import relative_difference, relative_norms
from specs.common.errors import UserError
from specs.common.files import canonical_json

NUMBERS = ("loss", "norm", "held_out_loss")
"""What rounding may move; rows, targets and learning rates may not differ at all."""
_BITS = ("chain", "weights", "digests", "code_change", *NUMBERS)
_FOLLOWS = ("chain", "last", "tensors", "model", "code_changes")


@dataclass(frozen=True)
class Deviation:
    """Differences of a recorded run and its second execution; the largest of each kind, relative."""

    exact: list[str] = field(default_factory=list)
    """What may not differ at all, and does."""
    numbers: dict[str, float] = field(default_factory=dict)
    """Of each number of the journal, over all steps."""
    tensor: tuple[str, float] | None = None
    """The tensor whose difference has the largest norm, over the norm of the tensor; none of a part."""
    given_loss: float | None = None
    """Loss of the weights that were given, computed here on the held-out rows; none of a part."""
    executed_loss: float | None = None
    """The same of the weights that the second execution left."""

    def within(self, tolerance: float) -> bool:
        """Whether every number, every tensor and the loss of the given weights lie within a relative tolerance."""
        distances = [*self.numbers.values()]
        if self.tensor is not None:
            distances.append(self.tensor[1])
        if self.given_loss is not None and self.executed_loss is not None:
            distances.append(relative_difference(self.given_loss, self.executed_loss))
        return not self.exact and all(distance <= tolerance for distance in distances)

    def as_json(self) -> dict[str, Any]:
        """For scripts: what is not finite is null."""
        plain = asdict(self)
        losses = {key: plain[key] for key in ("given_loss", "executed_loss")}
        plain |= {key: value if value is not None and math.isfinite(value) else None for key, value in losses.items()}
        if self.tensor is not None and not math.isfinite(self.tensor[1]):
            plain["tensor"] = (self.tensor[0], None)
        return plain


def deviation(run: RecordedRun, again: RecordedRun, first: int, last: int, *, whole: bool, inputs: Inputs) -> Deviation:
    """Compare a run with its second execution from step `first` to `last`; `whole`: and their finished weights."""
    exact, numbers = list[str](), dict.fromkeys(NUMBERS, 0.0)
    for one, other in zip(run.entries(), again.entries(), strict=False):
        if not first <= one["step"] <= last:
            continue
        for name in NUMBERS:
            if (name in one) != (name in other):
                exact.append(f"step {one['step']}: {name} is missing in one of them")
            elif name in one:
                numbers[name] = max(numbers[name], relative_difference(one[name], other[name]))
        exact += [f"step {one['step']}: {key}" for key in _differing(one, other, _BITS)]
    if not whole:
        return Deviation(exact, numbers)
    assert run.record is not None and again.record is not None
    exact += [f"record: {key}" for key in _differing(run.record, again.record, _FOLLOWS)]
    tensor = max(relative_norms(run.weights(), again.weights()), key=lambda pair: pair[1])
    return Deviation(exact, numbers, tensor, loss_of(run, inputs), loss_of(again, inputs))


@torch.no_grad()
def loss_of(run: RecordedRun, inputs: Inputs) -> float:
    """Mean loss (nats) of a run's finished weights over its held-out rows; where it has none, over those of step 1."""
    job = run.job()
    dtype = DTYPES[job.training.precision.compute]
    model = load_for_sampling(run.files.weights, job.architecture, job.vocab_size, dtype=dtype)
    total, targets = 0.0, 0
    for micro_batch in _rows(
        DataLoader(TokenStore.open(inputs.store, verify=False), job.training, torch.device("cpu"))
    ):
        loss = model.loss(
            micro_batch.tokens,
            micro_batch.targets,
            micro_batch.learnt,
            documents=micro_batch.documents,
            scale=1.0,
            chunk=job.training.loss_chunk,
        )
        total, targets = total + float(loss), targets + micro_batch.count
    if not targets:
        raise UserError(f"{inputs.store}: its held-out rows have no target to learn: their loss says nothing")
    return total / targets if math.isfinite(total) else math.inf


def lines(found: Deviation) -> Iterator[str]:
    """The deviation for people."""
    yield from (f"may not differ: {what}" for what in found.exact[:10])
    for name, distance in found.numbers.items():
        yield f"{name}: differs by {distance:.3g} of its value at most"
    if found.tensor is not None:
        yield f"weights: {found.tensor[0]} differs most, by {found.tensor[1]:.3g} of its norm"
    if found.given_loss is not None and found.executed_loss is not None:
        yield f"held-out loss: {found.given_loss:.6g} of the weights given, {found.executed_loss:.6g} of those made"


def _rows(loader: DataLoader) -> Iterator[MicroBatch]:
    count = loader.held_out_micro_batches()
    if count:
        yield from (loader.held_out(index) for index in range(count))
    else:
        yield from loader.micro_batches(0, 0, 1)


def _differing(one: dict[str, Any], other: dict[str, Any], ignored: tuple[str, ...]) -> list[str]:
    keys = [key for key in dict.fromkeys([*one, *other]) if key not in ignored]
    return [key for key in keys if canonical_json([one.get(key)]) != canonical_json([other.get(key)])]
