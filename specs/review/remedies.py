"""For a claim that is missed: the values of a named field that would meet it, found by arithmetic, not by search."""

import math
from dataclasses import dataclass

from specs.estimates.counts import parameters, sequences_per_step
from specs.schema.experiment import Claim, Experiment
from specs.schema.training import Architecture

# Widths that tile well: 256 and 128 for tensor cores, 64 at least (NVIDIA, Matrix Multiplication Background, 2023).
MULTIPLES = (256, 128, 64, 1)


@dataclass(frozen=True)
class Remedy:
    """A field and the value that would meet a claim."""

    field: str
    value: int | float | str
    low: float | None = None
    high: float | None = None
    """The exact range of values that meet it, both ends included; none where the value is the only one."""
    note: str = ""

    def __str__(self) -> str:
        value = self.value if isinstance(self.value, str) else f"{self.value:,}"
        text = f"{self.field}: {value}"
        if self.low is not None and self.high is not None:
            text += f" (any from {self.low:,} to {self.high:,})"
        return f"{text}{f', {self.note}' if self.note else ''}"


FIELDS = {
    "d_model": "architecture.d_model",
    "n_layers": "architecture.n_layers",
    "n_heads": "architecture.n_heads",
    "context_length": "architecture.context_length",
    "vocab_size": "tokenizer.vocab_size",
    "warmup_steps": "pretraining.schedule.warmup_steps",
    "peak_lr": "pretraining.optimizer.lr",
    "final_lr_fraction": "pretraining.schedule.final_fraction",
    "clip_norm": "pretraining.clip_norm",
}
"""Claims that state the value of one field."""


def remedies(experiment: Experiment, name: str, claim: Claim | None) -> tuple[Remedy, ...]:
    """Values of single fields that would meet a missed claim, the field that one would turn to first at the front.

    Empty where no value of one field does. `claim` is none for `fits_on` alone.
    """
    if claim is None:
        from specs.estimates.fit import smallest_change

        return tuple(Remedy(field, value, note=note) for field, value, note in smallest_change(experiment))
    low, high = sorted((claim.value * (1 - claim.within), claim.value * (1 + claim.within)))
    if name == "parameters":
        return _parameter_fields(experiment, claim.value, low, high)
    if name == "batch_tokens":
        return _batch(experiment, claim.value, low, high)
    if name == "training_tokens":
        return _tokens(experiment, claim.value, low, high)
    value = claim.value
    return (Remedy(FIELDS[name], int(value) if value.is_integer() and value > 1 else value),)


def _parameter_fields(experiment: Experiment, target: float, low: float, high: float) -> tuple[Remedy, ...]:
    """Parameters are linear in `d_ff` and in `n_layers`: solve for each."""
    remedies = []
    for field in ("d_ff", "n_layers"):

        def count(value: int, field: str = field) -> int:
            changed: Architecture = experiment.architecture.model_copy(update={field: value})
            return parameters(changed, experiment.tokenizer.vocab_size).total

        slope = count(2) - count(1)
        rest = count(1) - slope
        remedy = _linear(
            f"architecture.{field}", slope, rest, target, low, high, MULTIPLES if field == "d_ff" else (1,)
        )
        remedies += [remedy] if remedy else []
    return tuple(remedies)


def _linear(
    field: str, slope: int, rest: int, target: float, low: float, high: float, multiples: tuple[int, ...]
) -> Remedy | None:
    first, last = max(math.ceil((low - rest) / slope), 1), math.floor((high - rest) / slope)
    exact = (target - rest) / slope
    for multiple in multiples:
        value = multiple * max(round(exact / multiple), 1)
        if first <= value <= last:
            return Remedy(field, value, first, last, f"a multiple of {multiple}" if multiple > 1 else "")
    return None


def _batch(experiment: Experiment, target: float, low: float, high: float) -> tuple[Remedy, ...]:
    """Micro-batches are at least the devices, and a multiple of them where one meets the claim; sequences in a
    micro-batch are any number."""
    training, length = experiment.pretraining, experiment.architecture.context_length
    devices, tokens = experiment.cluster.devices, training.micro_batch_size * length
    remedies = []
    remedy = _linear("pretraining.micro_batches", tokens, 0, target, max(low, devices * tokens), high, (devices, 1))
    remedies += [remedy] if remedy else []
    per_micro_batch = training.micro_batches * length
    first, last = max(math.ceil(low / per_micro_batch), 1), math.floor(high / per_micro_batch)
    if first <= last:
        value = min(max(round(target / per_micro_batch), first), last)
        remedies.append(Remedy("pretraining.micro_batch_size", value, first, last))
    return tuple(remedies)


def _tokens(experiment: Experiment, target: float, low: float, high: float) -> tuple[Remedy, ...]:
    """Training ends with a whole step: steps x batch must lie in the range."""
    batch = sequences_per_step(experiment.pretraining) * experiment.architecture.context_length
    first, last = max(math.ceil(low / batch), 1), math.floor(high / batch)
    if first > last:
        return ()
    steps = min(max(round(target / batch), first), last)
    value = int(target) if first <= math.ceil(target / batch) <= last else steps * batch
    return (Remedy("pretraining.tokens", value, (first - 1) * batch + 1, last * batch),)
