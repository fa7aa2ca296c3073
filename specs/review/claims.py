"""Claims of a publication against what the spec implies, and what would meet those that are missed."""

from dataclasses import dataclass

from specs.estimates.counts import (
    flops_per_sequence,
    parameters,
    pretraining_steps,
    sequences_per_step,
    tokens_per_step,
)
from specs.estimates.devices import DEVICES
from specs.estimates.memory import breakdown, gib
from specs.review.remedies import Remedy, remedies
from specs.schema.experiment import Claim, Experiment


@dataclass(frozen=True)
class Verdict:
    """One number of a publication beside the spec's own; `claimed` is none where the publication states nothing."""

    name: str
    claimed: float | str | None
    implied: float | str
    within: float
    how: str
    """The arithmetic, in words."""
    met: bool | None
    """None where nothing is claimed."""
    remedies: tuple[Remedy, ...] = ()

    @property
    def distance(self) -> float | None:
        """Relative distance, signed: positive where the spec exceeds the claim; none where no number is claimed."""
        if isinstance(self.claimed, str) or isinstance(self.implied, str) or self.claimed is None:
            return None
        return (self.implied - self.claimed) / self.claimed if self.claimed else float(self.implied)

    @property
    def status(self) -> str:
        """`met`, `missed` or `unstated`."""
        return "unstated" if self.met is None else "met" if self.met else "missed"


def derived(experiment: Experiment) -> dict[str, int | float]:
    """Numbers that follow from the spec, by name."""
    architecture, pretraining = experiment.architecture, experiment.pretraining
    vocab_size = experiment.tokenizer.vocab_size
    count = parameters(architecture, vocab_size)
    steps = pretraining_steps(pretraining, architecture)
    batch = tokens_per_step(pretraining, architecture)
    per_sequence = flops_per_sequence(architecture, vocab_size)
    return {
        "parameters": count.total,
        "parameters_embedding": count.embedding + count.output,
        "parameters_attention": count.attention,
        "parameters_feed_forward": count.feed_forward,
        "parameters_norms": count.norms,
        "tokens_per_step": batch,
        "steps": steps,
        "training_tokens": steps * batch,
        "tokens_per_parameter": steps * batch / count.total,
        "flops_per_token": per_sequence / architecture.context_length,
        "flops_per_sequence": per_sequence,
        "flops_per_step": per_sequence * sequences_per_step(pretraining),
        "flops_total": per_sequence * sequences_per_step(pretraining) * steps,
    }


def audit(experiment: Experiment) -> list[Verdict]:
    """Every number that a publication may state, as met, missed or unstated, in the order of the claims."""
    verdicts = [_number(experiment, name, value, how) for name, (value, how) in _implied(experiment).items()]
    return [*verdicts, _pass_at(experiment), _sharding(experiment), _fits_on(experiment), _year(experiment)]


def _implied(experiment: Experiment) -> dict[str, tuple[float, str]]:
    architecture, pretraining = experiment.architecture, experiment.pretraining
    numbers = derived(experiment)
    return {
        "parameters": (
            numbers["parameters"],
            "embeddings {parameters_embedding:,} + attention {parameters_attention:,} + feed-forward "
            "{parameters_feed_forward:,} + norms {parameters_norms:,}".format(**numbers),
        ),
        "d_model": (architecture.d_model, "architecture.d_model"),
        "n_layers": (architecture.n_layers, "architecture.n_layers"),
        "n_heads": (architecture.n_heads, "architecture.n_heads"),
        "context_length": (architecture.context_length, "architecture.context_length"),
        "vocab_size": (experiment.tokenizer.vocab_size, "tokenizer.vocab_size"),
        "batch_tokens": (
            numbers["tokens_per_step"],
            f"{pretraining.micro_batches} micro-batches x {pretraining.micro_batch_size} sequences"
            f" x {architecture.context_length}",
        ),
        "training_tokens": (numbers["training_tokens"], f"{numbers['steps']:,} steps x {numbers['tokens_per_step']:,}"),
        "warmup_steps": (pretraining.schedule.warmup_steps, "pretraining.schedule.warmup_steps"),
        "peak_lr": (pretraining.optimizer.lr, "pretraining.optimizer.lr"),
        "final_lr_fraction": (pretraining.schedule.final_fraction, "pretraining.schedule.final_fraction"),
        "clip_norm": (pretraining.clip_norm, "pretraining.clip_norm"),
    }


def _number(experiment: Experiment, name: str, implied: float, how: str) -> Verdict:
    claim: Claim | None = getattr(experiment.claims, name)
    if claim is None:
        return Verdict(name, None, implied, 0.0, how, None)
    distance = abs(implied - claim.value) / abs(claim.value) if claim.value else abs(implied)
    met = distance <= claim.within
    return Verdict(name, claim.value, implied, claim.within, how, met, () if met else remedies(experiment, name, claim))


def _pass_at(experiment: Experiment) -> Verdict:
    claimed = experiment.claims.pass_at
    scored = sorted({k for run in experiment.evaluation.benchmarks for k in run.k})
    met = set(claimed) <= set(scored) if claimed else None
    missing = ", ".join(str(k) for k in claimed if k not in scored)
    fix = () if met or met is None else (Remedy("evaluation.benchmarks.k", f"add {missing}"),)
    shown = ", ".join(map(str, claimed)) or None
    return Verdict("pass_at", shown, ", ".join(map(str, scored)), 0.0, "evaluation.benchmarks, k", met, fix)


def _sharding(experiment: Experiment) -> Verdict:
    claimed, implied = experiment.claims.sharding, experiment.pretraining.parallelism.sharding
    met = None if claimed is None else claimed == implied
    fix = () if met or claimed is None else (Remedy("pretraining.parallelism.sharding", claimed),)
    return Verdict("sharding", claimed, implied, 0.0, "pretraining.parallelism.sharding", met, fix)


def _fits_on(experiment: Experiment) -> Verdict:
    claimed, ranks = experiment.claims.fits_on, experiment.cluster.devices
    peak = breakdown(experiment, ranks).needed
    if claimed is None:
        return Verdict("fits_on", None, f"{gib(peak)} per device", 0.0, f"predicted peak on {ranks:,} devices", None)
    usable = DEVICES[claimed].usable
    met = usable is None or peak <= usable
    offered = "no fixed memory" if usable is None else f"{gib(usable)} usable"
    how = f"predicted peak on {ranks:,} devices against {offered} of {claimed}"
    fix = () if met else remedies(experiment, "fits_on", None)
    return Verdict("fits_on", claimed, f"{gib(peak)} per device", 0.0, how, met, fix)


def _year(experiment: Experiment) -> Verdict:
    device = DEVICES[experiment.claims.fits_on or experiment.cluster.device]
    stated = experiment.source.year if experiment.source else None
    if device.year is None or stated is None:
        return Verdict("year", stated and str(stated), "no date", 0.0, "source.year; no device with a date", None)
    how = f"source.year, no earlier than {device.name} ({device.year})"
    return Verdict("year", str(stated), f"{device.year} or later", 0.0, how, stated >= device.year)


def unexplained(experiment: Experiment) -> list[str]:
    """Fields that bear on results and that neither a claim nor an assumption covers; none where nothing is claimed."""
    if not any(claim for claim in experiment.claims.model_dump().values()):
        return []
    stated = {
        "parameters": "",
        "d_model": "architecture.d_model",
        "n_layers": "architecture.n_layers",
        "n_heads": "architecture.n_heads",
        "context_length": "architecture.context_length",
        "batch_tokens": "pretraining.micro_batches",
        "training_tokens": "pretraining.tokens",
        "warmup_steps": "pretraining.schedule",
        "final_lr_fraction": "pretraining.schedule",
        "peak_lr": "pretraining.optimizer.lr",
        "clip_norm": "pretraining.clip_norm",
        "sharding": "pretraining.parallelism",
    }
    claims = experiment.claims.model_dump()
    covered = {path for name, path in stated.items() if claims[name]} | set(experiment.assumptions)
    # They change how fast or how often, not what.
    covered |= {"pretraining.checkpoints", "pretraining.held_out", "pretraining.loss_chunk"}
    covered |= {"architecture.attention.backend", "architecture.init_std", "architecture.norm_eps"}

    def leaves(prefix: str, value: object) -> list[str]:
        if isinstance(value, dict):
            return [leaf for key, inner in value.items() for leaf in leaves(f"{prefix}.{key}", inner)]
        return [] if value is None else [prefix]

    paths = [
        leaf
        for section in ("architecture", "pretraining", "cluster")
        for leaf in leaves(section, getattr(experiment, section).model_dump(exclude_unset=True))
    ]
    return [path for path in paths if not any(path == c or path.startswith(f"{c}.") for c in covered)]
