"""A complete experiment: provenance, data, model, training, evaluation, and where it runs.

An experiment is a value. Nothing here computes a consequence (see `arithmetic`) or touches a file (see `loading`).
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, model_validator

from specs.schema.base import Items, Name, Section, SomeItems, require_unique
from specs.schema.data import Benchmark, Tokenizer, WeightedCorpus
from specs.schema.quantities import Bytes, Fraction, Natural, Positive, Real
from specs.schema.training import Architecture, Finetuning, Pretraining

Device = Literal["cpu", "A100-40GB", "A100-80GB", "H100-80GB", "H200-141GB", "B200-180GB"]


class Publication(Section):
    """Where the setup was published."""

    title: str
    institution: str | None = None
    country: str | None = None
    year: Annotated[int, Field(ge=1950, le=2100)] | None = None


class Claim(Section):
    """A number that the publication states, and how far the spec may be from it."""

    value: Real
    within: Fraction = 0.0
    """Allowed relative distance; 0 asks for equality."""


class Claims(Section):
    """What the publication states, each to be checked against what the spec implies."""

    parameters: Claim | None = None
    d_model: Claim | None = None
    n_layers: Claim | None = None
    n_heads: Claim | None = None
    context_length: Claim | None = None
    vocab_size: Claim | None = None
    batch_tokens: Claim | None = None
    training_tokens: Claim | None = None
    warmup_steps: Claim | None = None
    peak_lr: Claim | None = None
    final_lr_fraction: Claim | None = None
    clip_norm: Claim | None = None
    pass_at: Items[Positive] = ()
    """Values of k for which pass@k was published."""
    sharding: Literal["zero2", "zero3", "mixed"] | None = None
    """How weights and state were published to be divided among ranks."""
    fits_on: Device | None = None
    """The device that one rank of the run was published to fit on."""


class Limits(Section):
    """What one candidate program may use."""

    cpu_seconds: Positive = 5
    """Decides the verdict: a loaded machine then does not change scores."""
    wall_seconds: Positive = 30
    """Backstop for programs that wait instead of compute."""
    memory: Bytes = 1_073_741_824
    file_bytes: Bytes = 16_777_216
    threads: Positive = 16
    """A program is one process; it may not start others."""


class BenchmarkRun(Section):
    """One benchmark, and how the model is asked."""

    benchmark: Benchmark
    label: Name | None = None
    """What this run is called where one benchmark is scored in several ways; none means the benchmark's name."""
    protocol: Literal[
        "completion-v1",
        "chat-v1",
        "human-eval-v1",
        "bigcode-v1",
        "lm-eval-v1",
        "evalplus-base-v1",
        "evalplus-chat-v1",
    ] = "completion-v1"
    """Rendering of prompts, stop strings and extraction, named and versioned in `evaluation.protocols.registry`."""
    samples: Positive
    """Completions for each problem."""
    temperature: Annotated[Real, Field(ge=0)] = 0.8
    top_p: Fraction = 0.95
    max_new_tokens: Positive
    k: SomeItems[Positive] = (1, 10)
    seed: Natural = 1
    limits: Limits = Limits()

    @property
    def key(self) -> str:
        """The label, with the default written out."""
        return self.label or self.benchmark.name

    @model_validator(mode="after")
    def _enough_samples(self) -> Self:
        if max(self.k) > self.samples:
            raise ValueError(f"pass@{max(self.k)} needs at least {max(self.k)} samples, not {self.samples}")
        return self


class Evaluation(Section):
    """Every benchmark that the experiment is scored on."""

    batch_size: Positive = 16
    """Sequences under way at one time. Changes no completion."""
    tile: Positive = 16
    """Rows of one forward pass while sampling, filled up where fewer sequences are under way: matrix products round
    differently with another number. A batch size below it wastes the difference."""
    benchmarks: SomeItems[BenchmarkRun]

    @model_validator(mode="after")
    def _unique_names(self) -> Self:
        require_unique("benchmark run", [run.key for run in self.benchmarks])
        return self


class Cluster(Section):
    """Where the run is meant to take place. Not part of its identity at level `topology`."""

    device: Device
    devices: Positive
    devices_per_node: Positive

    @model_validator(mode="after")
    def _whole_nodes(self) -> Self:
        if self.devices > self.devices_per_node and self.devices % self.devices_per_node:
            raise ValueError(f"{self.devices} devices do not fill nodes of {self.devices_per_node}")
        return self


class Reproducibility(Section):
    """What may change while results stay identical to the bit (see docs/reproducibility.md)."""

    level: Literal["data", "restart", "topology"] = "topology"
    threads: Positive = 1
    """Compute threads of each rank: matrix products round differently with another number."""


class Experiment(Section):
    """A complete experiment."""

    name: Name
    description: str = ""
    source: Publication | None = None
    claims: Claims = Claims()
    assumptions: Annotated[dict[str, str], Field(default_factory=dict)]
    """Dotted path of a field that the publication leaves open: our choice and the reason."""
    corpus: WeightedCorpus
    tokenizer: Tokenizer
    architecture: Architecture
    pretraining: Pretraining
    finetuning: Finetuning
    evaluation: Evaluation
    cluster: Cluster
    reproducibility: Reproducibility = Reproducibility()

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        for phase_name, phase in (("pretraining", self.pretraining), ("finetuning", self.finetuning)):
            ranks = self.cluster.devices
            if phase.micro_batches % ranks or ranks & (ranks - 1):
                raise ValueError(
                    f"{phase_name}.micro_batches {phase.micro_batches} cannot be dealt to {ranks} devices: "
                    "the number of devices must be a power of two, at most the number of micro-batches"
                )
        for corpus in (self.corpus, self.finetuning.corpus):
            clean = {benchmark.name for benchmark in corpus.decontaminate.against}
            for run in self.evaluation.benchmarks:
                if run.benchmark.name not in clean:
                    raise ValueError(
                        f"benchmark {run.benchmark.name!r} is scored, but corpus {corpus.name!r} is not "
                        "decontaminated against it: list it in decontaminate.against"
                    )
        for run in self.evaluation.benchmarks:
            if run.max_new_tokens >= self.architecture.context_length:
                raise ValueError(
                    f"max_new_tokens {run.max_new_tokens} of {run.benchmark.name!r} leaves no room for a prompt "
                    f"in a context of {self.architecture.context_length}"
                )
        for path in self.assumptions:
            _require_path(self, path)
        return self


def _require_path(experiment: Experiment, path: str) -> None:
    value: object = experiment
    for part in path.split("."):
        if not isinstance(value, BaseModel) or part not in type(value).model_fields:
            raise ValueError(f"assumptions: {path!r} is not a field of the experiment")
        value = getattr(value, part)
