"""What follows from a change of an experiment: stages, quantities, whether scores compare, whether checkpoints load."""

from collections.abc import Callable
from dataclasses import dataclass

from specs.common.errors import UserError
from specs.estimates.counts import (
    flops_per_sequence,
    parameters,
    pretraining_steps,
    sequences_per_step,
    tokens_per_step,
)
from specs.estimates.disk import checkpoint_bytes, raw_bytes
from specs.estimates.plan import plan
from specs.pipeline.dvc_graph import Rerun, expand, lock_of, reruns
from specs.review.diff import Change, changes
from specs.review.price import Price, prices, total
from specs.review.revisions import Side, text_here
from specs.schema.experiment import BenchmarkRun, Experiment
from specs.schema.training import Architecture

PIPELINE = "dvc.yaml"


@dataclass(frozen=True)
class Quantity:
    """A number that follows from the spec, before and after; none where it is not known."""

    name: str
    unit: str
    old: float | None
    new: float | None


@dataclass(frozen=True)
class Comparability:
    """Whether the scores of one benchmark run may be set side by side."""

    run: str
    comparable: bool | None
    """None: it exists on one side only."""
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Loading:
    """What becomes of training state that the old experiment left."""

    resumes: bool
    """A run may go on from it, to the bits of an uninterrupted one."""
    weights: bool
    """Weights load into the new model: names and shapes agree."""
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """Everything that a reviewer of a change wants to know."""

    old: str
    new: str
    changes: tuple[Change, ...]
    stages: Rerun
    quantities: tuple[Quantity, ...]
    scores: tuple[Comparability, ...]
    caveats: tuple[str, ...]
    """What bears on every score."""
    loading: Loading
    again: tuple[Price, ...]
    """What the stages take that run again."""
    spared: Price
    """What the stages took that are reused."""

    @property
    def empty(self) -> bool:
        """Whether no field differs and no stage re-runs, checks aside."""
        return not self.changes and set(self.stages.changed) <= set(self.stages.checks) and not self.stages.gone


def difference(old: Side, new: Side) -> Difference:
    """Compare two experiments. Raises UserError where a state of the project has no readable pipeline."""
    before, after = old.experiment, new.experiment
    changed = tuple(changes(before, after))
    stages = _stages(old, new)
    again, reused = prices(before, after, stages)
    return Difference(
        old=old.label,
        new=new.label,
        changes=changed,
        stages=stages,
        quantities=tuple(_quantities(before, after)) if changed else (),
        scores=tuple(_scores(before, after)) if changed else (),
        caveats=tuple(_caveats(before, after)) if changed else (),
        loading=_loading(before, after),
        again=tuple(again),
        spared=total(reused),
    )


def _stages(old: Side, new: Side) -> Rerun:
    # A revision from before the pipeline is taken to have had today's.
    here = new.text(PIPELINE) or text_here(PIPELINE)
    if here is None:
        raise UserError(f"there is no {PIPELINE}, so nothing can be said of stages")
    before = expand(old.text(PIPELINE) or here, lock_of(old.experiment))
    return reruns(before, expand(here, lock_of(new.experiment)), _touched(old, new))


def _touched(old: Side, new: Side) -> Callable[[str], bool]:
    def touched(path: str) -> bool:
        left, right = old.changed_code(path), new.changed_code(path)
        if left is not None and right is not None and left != right:
            return True
        # A folder of specs is touched by any edit of a file that either experiment was read from.
        return path == "specs" and old.specs != new.specs

    return touched


def _quantities(old: Experiment, new: Experiment) -> list[Quantity]:
    left, right = _numbers(old), _numbers(new)
    return [Quantity(name, unit, left[name, unit], value) for (name, unit), value in right.items()]


def _numbers(experiment: Experiment) -> dict[tuple[str, str], float | None]:
    architecture, training = experiment.architecture, experiment.pretraining
    steps = pretraining_steps(training, architecture)
    sequences = steps * sequences_per_step(training)
    per_sequence = flops_per_sequence(architecture, experiment.tokenizer.vocab_size)
    planned = plan(experiment)
    asked = sum(run.samples for run in experiment.evaluation.benchmarks)
    return {
        ("parameters", ""): parameters(architecture, experiment.tokenizer.vocab_size).total,
        ("pretraining tokens", ""): steps * tokens_per_step(training, architecture),
        ("steps", ""): steps,
        ("FLOPs of a token", ""): per_sequence / architecture.context_length,
        ("FLOPs of pretraining", ""): float(per_sequence * sequences),
        ("memory of a device", "bytes"): planned.memory.needed,
        ("device-hours of pretraining", "h"): planned.device_hours,
        ("money at the stated price", "$"): planned.money,
        ("token store before compression, if no sequence is seen twice", "bytes"): raw_bytes(
            sequences, architecture.context_length
        ),
        ("checkpoint", "bytes"): checkpoint_bytes(parameters(architecture, experiment.tokenizer.vocab_size).total),
        ("samples for each problem, over all benchmarks", ""): asked,
    }


_ASKING = {
    "protocol": "the protocol (prompt, stops, extraction)",
    "samples": "the number of samples",
    "temperature": "the temperature",
    "top_p": "top_p",
    "max_new_tokens": "the length of answers",
    "seed": "the seed of sampling",
    "limits": "the limits of the sandbox",
}


def _scores(old: Experiment, new: Experiment) -> list[Comparability]:
    left = {run.key: run for run in old.evaluation.benchmarks}
    right = {run.key: run for run in new.evaluation.benchmarks}
    verdicts = []
    for key in dict.fromkeys((*left, *right)):
        if key not in left or key not in right:
            side = "new" if key in right else "old"
            verdicts.append(Comparability(key, None, (f"scored in the {side} experiment only",)))
            continue
        reasons = tuple(_incomparable(left[key], right[key]))
        verdicts.append(Comparability(key, not reasons, reasons))
    return verdicts


def _incomparable(old: BenchmarkRun, new: BenchmarkRun) -> list[str]:
    reasons = []
    if old.benchmark.source.sha256 != new.benchmark.source.sha256:
        reasons.append("the problems themselves changed")
    if old.benchmark.problem_schema != new.benchmark.problem_schema:
        reasons.append("problems are read in another way")
    if (old.benchmark.first_id, old.benchmark.last_id) != (new.benchmark.first_id, new.benchmark.last_id):
        reasons.append("the test split changed")
    reasons += [f"{words} changed" for field, words in _ASKING.items() if getattr(old, field) != getattr(new, field)]
    if not set(old.k) & set(new.k):
        reasons.append("no k is reported by both")
    return reasons


def _caveats(old: Experiment, new: Experiment) -> list[str]:
    notes = []
    if old.tokenizer != new.tokenizer or old.corpus != new.corpus:
        notes.append("losses per token do not compare: the tokenizer, or the text that it is trained on, changed")
    for where, left, right in (
        ("pretraining", old.corpus, new.corpus),
        ("finetuning", old.finetuning.corpus, new.finetuning.corpus),
    ):
        if left.decontaminate != right.decontaminate:
            notes.append(f"decontamination of the {where} corpus changed: a difference in scores may be contamination")
    if old.finetuning.template != new.finetuning.template:
        notes.append("the chat template changed: chat protocols ask in other words")
    if old.architecture.context_length > new.architecture.context_length:
        notes.append("the context is shorter: less of a long prompt is seen")
    if _rounding(old) != _rounding(new):
        notes.append("level portable or threads changed: sampling may take other turns")
    return notes


_SHAPES = ("d_model", "n_layers", "n_heads", "kv_heads", "d_ff", "tie_embeddings")


def _loading(old: Experiment, new: Experiment) -> Loading:
    shapes = [name for name in _SHAPES if getattr(old.architecture, name) != getattr(new.architecture, name)]
    if old.tokenizer.vocab_size != new.tokenizer.vocab_size:
        shapes.append("vocab_size")
    if shapes and not _same_shapes(old.architecture, new.architecture, old, new):
        return Loading(False, False, (f"shapes differ: {', '.join(shapes)}",))
    reasons = []
    for name in ("architecture", "pretraining", "corpus", "tokenizer"):
        if getattr(old, name) != getattr(new, name):
            reasons.append(f"{name} changed")
    if _rounding(old) != _rounding(new):
        reasons.append("reproducibility changed: other kernels, or threads, round differently")
    if new.reproducibility.level not in ("topology", "portable") and old.cluster.devices != new.cluster.devices:
        reasons.append(f"level {new.reproducibility.level} does not allow another number of devices")
    if old.name != new.name:
        reasons.append("the run has another name")
    note = ("the tokenizer changed: ids mean other pieces",) if old.tokenizer != new.tokenizer else ()
    return Loading(not reasons, True, (*reasons, *note))


def _rounding(experiment: Experiment) -> int | None:
    """What decides how matrix products round, besides shapes: the threads of stock kernels; none at level portable."""
    return None if experiment.reproducibility.portable else experiment.reproducibility.threads


def _same_shapes(left: Architecture, right: Architecture, old: Experiment, new: Experiment) -> bool:
    # Heads cut the same matrices in other places: names and shapes of files agree, what they compute does not.
    names = ("d_model", "n_layers", "d_ff", "tie_embeddings")
    keys = (left.kv_heads * left.head_dim, right.kv_heads * right.head_dim)
    equal = all(getattr(left, name) == getattr(right, name) for name in names) and keys[0] == keys[1]
    return equal and old.tokenizer.vocab_size == new.tokenizer.vocab_size and left.n_heads == right.n_heads
