"""Values that are valid and unusual: each with the published practice that it departs from."""

from collections.abc import Iterator
from dataclasses import dataclass

from specs.estimates.counts import parameters, pretraining_steps, sequences_per_step, sub_steps, tokens_per_step
from specs.estimates.disk import packed_here
from specs.schema.data import Corpus
from specs.schema.experiment import Experiment
from specs.schema.sources import GitCommit, HttpsFile, HubFile, PackageIndexFile, Source


@dataclass(frozen=True)
class Lint:
    """One remark: where, what, and whose practice it is measured by."""

    path: str
    message: str
    source: str


GPT3 = "Brown et al., 2020 (arXiv:2005.14165), table 2.1"
LLAMA = "Touvron et al., 2023 (arXiv:2302.13971), table 2"
PEAK_LR: tuple[tuple[float, float, str], ...] = (
    (125e6, 6.0e-4, GPT3),
    (350e6, 3.0e-4, GPT3),
    (760e6, 2.5e-4, GPT3),
    (1.3e9, 2.0e-4, GPT3),
    (2.7e9, 1.6e-4, GPT3),
    (6.7e9, 1.2e-4, GPT3),
    (6.7e9, 3.0e-4, LLAMA),
    (13e9, 1.0e-4, GPT3),
    (13e9, 3.0e-4, LLAMA),
    (32.5e9, 1.5e-4, LLAMA),
    (65.2e9, 1.5e-4, LLAMA),
    (175e9, 0.6e-4, GPT3),
)
"""Parameters, peak learning rate, source."""
FLASH_HEADS = (32, 64, 96, 128, 192, 256)
"""Head sizes that flash attention has kernels for."""

LOWEST_LR, HIGHEST_LR = 1e-7, 3e-2
"""Peak learning rates that AdamW is used with, at any size of model."""
MOST_PASSES = 4
"""Passes over the same text that are worth nearly as much as new text."""

_FAR = 3.0
"""A learning rate is far when it lies beyond this factor from every published run of nearly that size."""
_ALIKE = 2.5
"""Runs whose sizes differ by less than this factor are of nearly one size."""


def lint(experiment: Experiment) -> list[Lint]:
    """Every remark on an experiment, in the order of its sections."""
    return [
        *_corpora(experiment),
        *_tokenizer(experiment),
        *_architecture(experiment),
        *_learning_rate(experiment),
        *_schedule(experiment),
        *_tokens(experiment),
        *_passes(experiment),
        *_batch(experiment),
        *_samples(experiment),
    ]


def _corpora(experiment: Experiment) -> Iterator[Lint]:
    benchmarks = {run.benchmark.name: run.benchmark for run in experiment.evaluation.benchmarks}
    for where, corpus in (("corpus", experiment.corpus), ("finetuning.corpus", experiment.finetuning.corpus)):
        for source in corpus.sources:
            for benchmark in benchmarks.values():
                if source.sha256 == benchmark.source.sha256 or _mentions(source, benchmark.name):
                    message = f"source {source.name!r} looks like benchmark {benchmark.name!r}, which is scored"
                    yield Lint(f"{where}.sources", message, "Lee et al., 2022, on train-test overlap")
        yield from _prompts(where, corpus)


def _prompts(where: str, corpus: Corpus) -> Iterator[Lint]:
    words = corpus.decontaminate.ngram_words
    for benchmark in corpus.decontaminate.against:
        if words > 13:
            message = (
                f"prompts of {benchmark.name!r} may stay in the corpus: many are shorter than a run of {words} words"
            )
            yield Lint(f"{where}.decontaminate.ngram_words", message, "Brown et al., 2020, appendix C (13 words)")


def _mentions(source: Source, benchmark: str) -> bool:
    match source.locator:
        case PackageIndexFile(project=project):
            place = project
        case HttpsFile(url=url):
            place = url
        case HubFile(dataset=dataset, path=path):
            place = f"{dataset}/{path}"
        case GitCommit(repository=repository):
            place = repository
        case _:
            place = source.filename
    plain = "".join(filter(str.isalnum, place.lower()))
    return "".join(filter(str.isalnum, benchmark.lower())) in plain and len(benchmark) > 3


def _tokenizer(experiment: Experiment) -> Iterator[Lint]:
    size = experiment.tokenizer.vocab_size
    if size % 64:
        nearest = 64 * max(round(size / 64), 8)
        message = f"{size:,} is not a multiple of 64 (nearest: {nearest:,}): products over the vocabulary tile badly"
        yield Lint("tokenizer.vocab_size", message, "NVIDIA, Matrix Multiplication Background, tile quantization")


def _architecture(experiment: Experiment) -> Iterator[Lint]:
    architecture = experiment.architecture
    head = architecture.head_dim
    if head not in FLASH_HEADS:
        sizes = ", ".join(map(str, FLASH_HEADS))
        message = f"head size {head} (d_model / n_heads): flash attention pads it to the next of {sizes}"
        if head > 256:
            message = f"head size {head} (d_model / n_heads): flash attention supports at most 256"
        yield Lint("architecture.n_heads", message, "flash-attention 2, csrc/flash_attn/src/static_switch.h")
    for field in ("d_model", "d_ff"):
        if (value := getattr(architecture, field)) % 64:
            message = f"{value:,} is not a multiple of 64: matrix products tile badly"
            yield Lint(f"architecture.{field}", message, "NVIDIA, Matrix Multiplication Background, tile quantization")


def _learning_rate(experiment: Experiment) -> Iterator[Lint]:
    for phase, training in (("pretraining", experiment.pretraining), ("finetuning", experiment.finetuning)):
        if not LOWEST_LR <= training.optimizer.lr <= HIGHEST_LR:
            message = (
                f"{training.optimizer.lr:.1e} is outside {LOWEST_LR:.0e} to {HIGHEST_LR:.0e}: "
                "AdamW learns nothing below and diverges above, at any size"
            )
            yield Lint(f"{phase}.optimizer.lr", message, f"{GPT3}; Wortsman et al., 2023 (arXiv:2309.14322)")
    size, lr = (
        parameters(experiment.architecture, experiment.tokenizer.vocab_size).total,
        experiment.pretraining.optimizer.lr,
    )
    alike = [run for run in PEAK_LR if size / _ALIKE <= run[0] <= size * _ALIKE]
    if alike and not any(rate / _FAR <= lr <= rate * _FAR for _, rate, _ in alike):
        low, high = min(rate for _, rate, _ in alike), max(rate for _, rate, _ in alike)
        shown = f"{low:.1e}" if low == high else f"{low:.1e} to {high:.1e}"
        message = f"{lr:.1e} is far from published runs of {size / 1e9:.3g}B parameters: {shown}"
        yield Lint("pretraining.optimizer.lr", message, "; ".join(dict.fromkeys(source for _, _, source in alike)))


def _schedule(experiment: Experiment) -> Iterator[Lint]:
    warmup = experiment.pretraining.schedule.warmup_steps
    steps = pretraining_steps(experiment.pretraining, experiment.architecture)
    share = warmup / steps
    if warmup >= steps:
        message = f"warm-up takes {warmup:,} steps, training {steps:,}: the peak is never reached"
        yield Lint("pretraining.schedule.warmup_steps", message, "arithmetic")
    elif not 0.0005 <= share <= 0.1:
        message = f"{warmup:,} of {steps:,} steps are {share:.2%} of training; published runs take 0.1% to 5%"
        source = "Brown et al., 2020 (0.1%: 375M of 300B tokens); Touvron et al., 2023 (0.6%: 2,000 steps)"
        yield Lint("pretraining.schedule.warmup_steps", message, source)


def _tokens(experiment: Experiment) -> Iterator[Lint]:
    count = parameters(experiment.architecture, experiment.tokenizer.vocab_size).total
    ratio = experiment.pretraining.tokens / count
    if not 10 <= ratio <= 2000:
        message = (
            f"{ratio:.3g} tokens for each parameter; about 20 are best for a fixed budget, and 1,900 were published"
        )
        yield Lint("pretraining.tokens", message, "Hoffmann et al., 2022; Llama 3 8B, 2024 (15T tokens)")


def _passes(experiment: Experiment) -> Iterator[Lint]:
    source = "Muennighoff et al., 2023 (arXiv:2305.16264): repeats beyond four passes give little"
    if (packed := packed_here(experiment)) is not None:
        steps = pretraining_steps(experiment.pretraining, experiment.architecture)
        passes = steps * sequences_per_step(experiment.pretraining) / packed[0]
        if passes > MOST_PASSES:
            message = f"training passes {passes:.1f} times over the {packed[0]:,} rows that were packed here"
            yield Lint("pretraining.tokens", message, source)
    if experiment.finetuning.epochs > MOST_PASSES:
        message = f"{experiment.finetuning.epochs} passes over the instructions"
        yield Lint("finetuning.epochs", message, source)


def _samples(experiment: Experiment) -> Iterator[Lint]:
    for index, run in enumerate(experiment.evaluation.benchmarks):
        if run.temperature == 0 and run.samples > 1:
            message = f"{run.samples} samples at temperature 0 are equal: one says as much"
            yield Lint(f"evaluation.benchmarks[{index}].samples", message, "arithmetic")


def _batch(experiment: Experiment) -> Iterator[Lint]:
    training, length = experiment.pretraining, experiment.architecture.context_length
    claim = experiment.claims.batch_tokens
    if claim is not None and claim.value % length:
        message = (
            f"the published batch of {claim.value:,.0f} tokens is no whole number of {length:,}-token sequences "
            f"({claim.value / length:,.2f}): {tokens_per_step(training, experiment.architecture):,} stands in"
        )
        yield Lint("claims.batch_tokens", message, "arithmetic")
    per_micro_batch = training.micro_batch_size * length
    if per_micro_batch > training.loss_chunk and per_micro_batch % training.loss_chunk:
        message = (
            f"{training.loss_chunk:,} does not divide the {per_micro_batch:,} positions of a micro-batch: "
            "the last chunk is short"
        )
        yield Lint("pretraining.loss_chunk", message, "arithmetic")
    if experiment.cluster.devices_per_node & (experiment.cluster.devices_per_node - 1):
        message = (
            f"{experiment.cluster.devices_per_node} devices in a node are no power of two: gradients travel between "
            "nodes before they are folded, so many times as many bytes"
        )
        yield Lint("cluster.devices_per_node", message, "docs/reproducibility.md")
    for phase, section in (("pretraining", experiment.pretraining), ("finetuning", experiment.finetuning)):
        devices, number = experiment.cluster.devices, sub_steps(section, experiment.cluster.devices)
        if (as_fast := -(-section.micro_batches // number)) < devices:
            message = (
                f"{devices} devices take {number} micro-batches each at most, and so do {as_fast}: the others of "
                f"{devices} have no work in the last sub-step of a step"
            )
            yield Lint(f"{phase}.micro_batches", message, "docs/reproducibility.md")
