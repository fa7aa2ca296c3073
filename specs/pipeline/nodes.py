"""The nodes that an experiment resolves into: what DVC reads, and what each stage receives.

A node holds every value that its stages depend on, defaults written out, and refers to other nodes by name.
"""

from pydantic import Field

from specs.schema.base import Items, Name, Section
from specs.schema.data import Benchmark, Corpus, Tokenizer, WeightedCorpus
from specs.schema.experiment import BenchmarkRun, Cluster, Experiment, Reproducibility
from specs.schema.quantities import Epochs, Positive
from specs.schema.training import Architecture, Instruction, Pretraining


class TokenizerNode(Section):
    """A tokenizer and the corpus that it is trained on."""

    corpus: Name
    tokenizer: Tokenizer


class TokenStoreNode(Section):
    """A corpus, as sequences of token ids."""

    corpus: Name
    tokenizer: Name
    context_length: Positive
    """A sequence holds one id more."""
    loss: str
    """`all`: every token is learnt. `answers`: only what the assistant says in conversations."""
    template: str
    """Chat template that conversations are rendered with."""
    weights: dict[str, Positive]
    """By source: a whole number that multiplies its epochs."""
    epochs: dict[str, Epochs] = Field(default_factory=dict)
    """How often each document of a source is seen in one pass, by source; once where it is not named."""
    may_be_empty: Items[str] = ()
    """Sources of which nothing need be left."""


class RunNode(Section):
    """One model: its architecture and both training phases."""

    corpus: Name
    finetuning_corpus: Name
    tokenizer: Name
    vocab_size: Positive
    pretraining_store: Name
    finetuning_store: Name
    architecture: Architecture
    pretraining: Pretraining
    finetuning: Instruction
    cluster: Cluster
    reproducibility: Reproducibility


class EvaluationNode(Section):
    """One run, and one benchmark that it is asked."""

    run: Name
    tokenizer: Name
    benchmark: Name
    context_length: Positive
    batch_size: Positive
    tile: Positive = 16
    threads: Positive
    portable: bool = False
    """Whether it is sampled with the kernels that have the same bits on any processor."""
    request: BenchmarkRun


KINDS: dict[str, type[Section]] = {
    "corpora": Corpus,
    "tokenizers": TokenizerNode,
    "token_stores": TokenStoreNode,
    "benchmarks": Benchmark,
    "runs": RunNode,
    "evaluations": EvaluationNode,
}
"""Kinds of nodes, in the order of the lock, with the section that each holds."""


def resolve(experiment: Experiment) -> dict[str, dict[str, Section]]:
    """Nodes of one experiment: kind, then name."""
    tokenizer, architecture = experiment.tokenizer, experiment.architecture
    pretraining_corpus, finetuning_corpus = experiment.corpus, experiment.finetuning.corpus
    template = experiment.finetuning.template

    def store_name(corpus: WeightedCorpus, suffix: str = "") -> str:
        return f"{corpus.name}-{tokenizer.name}-{architecture.context_length}{suffix}"

    def unweighted(corpus: WeightedCorpus) -> Corpus:
        plain = corpus.model_dump(exclude={"sources": {"__all__": {"epochs", "weight"}}})
        return Corpus.model_validate(plain)

    def store(corpus: WeightedCorpus, loss: str) -> TokenStoreNode:
        return TokenStoreNode(
            corpus=corpus.name,
            tokenizer=tokenizer.name,
            context_length=architecture.context_length,
            loss=loss,
            template=template,
            weights=corpus.weights,
            epochs=corpus.epochs,
            may_be_empty=corpus.may_be_empty,
        )

    pretraining_store = store_name(pretraining_corpus)
    finetuning_store = store_name(finetuning_corpus, "-answers")
    phase = experiment.finetuning.model_dump(exclude={"corpus"})
    reproducibility = experiment.reproducibility
    if reproducibility.portable:
        # No number of threads changes a bit there: another one must not run anything again.
        reproducibility = reproducibility.model_copy(update={"threads": 1})
    run = RunNode(
        corpus=pretraining_corpus.name,
        finetuning_corpus=finetuning_corpus.name,
        tokenizer=tokenizer.name,
        vocab_size=tokenizer.vocab_size,
        pretraining_store=pretraining_store,
        finetuning_store=finetuning_store,
        architecture=architecture,
        pretraining=experiment.pretraining,
        finetuning=Instruction.model_validate(phase),
        cluster=experiment.cluster,
        reproducibility=reproducibility,
    )
    return {
        "corpora": {corpus.name: unweighted(corpus) for corpus in (pretraining_corpus, finetuning_corpus)},
        "tokenizers": {tokenizer.name: TokenizerNode(corpus=pretraining_corpus.name, tokenizer=tokenizer)},
        "token_stores": {
            pretraining_store: store(pretraining_corpus, "all"),
            finetuning_store: store(finetuning_corpus, "answers"),
        },
        "benchmarks": {request.benchmark.name: request.benchmark for request in experiment.evaluation.benchmarks},
        "runs": {experiment.name: run},
        "evaluations": _evaluations(experiment, reproducibility),
    }


def _evaluations(experiment: Experiment, reproducibility: Reproducibility) -> dict[str, Section]:
    """A node for each benchmark that the experiment is asked."""
    return {
        f"{experiment.name}-{request.key}": EvaluationNode(
            run=experiment.name,
            tokenizer=experiment.tokenizer.name,
            benchmark=request.benchmark.name,
            context_length=experiment.architecture.context_length,
            batch_size=experiment.evaluation.batch_size,
            tile=experiment.evaluation.tile,
            threads=reproducibility.threads,
            portable=reproducibility.portable,
            request=request,
        )
        for request in experiment.evaluation.benchmarks
    }
