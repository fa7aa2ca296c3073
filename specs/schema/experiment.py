"""A complete experiment: provenance, data, model, training, evaluation, and where it runs.

An experiment is a value. Nothing here computes a consequence (see `estimates`) or touches a file (see `loading`).
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from specs.schema.base import Items, Name, Section, SomeItems, require_unique
from specs.schema.data import Benchmark, Tokenizer, WeightedCorpus
from specs.schema.quantities import Bytes, Fraction, Natural, Positive, Real, Seconds, Threads, Tokens
from specs.schema.training import Architecture, Finetuning, Pretraining

Level = Literal["data", "restart", "topology", "portable"]
Device = Literal["cpu", "A100-40GB", "A100-80GB", "H100-80GB", "H200-141GB", "B200-180GB"]


class Publication(Section):
    """Where the setup was published."""

    title: str
    """What was published."""
    institution: str | None = None
    """Who published it."""
    country: str | None = None
    """Where it was published."""
    year: Annotated[int, Field(ge=1950, le=2100)] | None = None
    """When it was published."""


class Claim(Section):
    """A number that the publication states, and how far the spec may be from it."""

    value: Real
    """What the publication states."""
    within: Fraction = 0.0
    """How near the spec must be: relative distance; 0 asks for equality."""


class Claims(Section):
    """What the publication states, each to be checked against what the spec implies."""

    parameters: Claim | None = None
    """All weights, embeddings included."""
    d_model: Claim | None = None
    """Channels of the model."""
    n_layers: Claim | None = None
    """Layers."""
    n_heads: Claim | None = None
    """Query heads."""
    context_length: Claim | None = None
    """Tokens in a sequence."""
    vocab_size: Claim | None = None
    """Pieces of the tokenizer."""
    batch_tokens: Claim | None = None
    """Tokens in the global batch."""
    training_tokens: Claim | None = None
    """Tokens seen in pretraining."""
    warmup_steps: Claim | None = None
    """Steps of linear warm-up."""
    peak_lr: Claim | None = None
    """Peak learning rate."""
    final_lr_fraction: Claim | None = None
    """Last learning rate over the peak."""
    clip_norm: Claim | None = None
    """Global norm that gradients are clipped at."""
    pass_at: Items[Positive] = ()
    """Values of k for which pass@k was published."""
    sharding: Literal["zero2", "zero3", "mixed"] | None = None
    """How weights and state were divided among ranks, as published."""
    fits_on: Device | None = None
    """The device that one rank of the run fitted on, as published."""


class Limits(Section):
    """What one candidate program may use."""

    cpu_seconds: Seconds = 5
    """Decides the verdict on slow programs: a loaded machine then does not change scores."""
    wall_seconds: Seconds = 30
    """Backstop for programs that wait instead of compute."""
    memory: Bytes = 1_073_741_824
    """Programs that need more fail."""
    file_bytes: Bytes = 16_777_216
    """Programs that write more fail."""
    threads: Threads = 16
    """Programs that start more threads fail. A program is one process; it may not start others."""


class BenchmarkRun(Section):
    """One benchmark, and how the model is asked."""

    benchmark: Benchmark
    """What is asked."""
    label: Name | None = None
    """Names the run of the benchmark, its artifacts and its row of scores, where one benchmark is scored in several
    ways; none means the benchmark's name."""
    protocol: Literal[
        "completion-v1",
        "chat-v1",
        "chat-v2",
        "human-eval-v1",
        "bigcode-v1",
        "lm-eval-v1",
        "evalplus-base-v1",
        "evalplus-chat-v1",
    ] = "chat-v2"
    """Prompt, stop strings and extraction: harnesses that differ here disagree by tens of points. Named and versioned
    in `evaluation.protocols`."""
    samples: Annotated[Positive, Field(le=100_000)]
    """Completions for each problem: the uncertainty of pass@k, and the cost of sampling."""
    temperature: Annotated[Real, Field(ge=0, le=5)] = 0.8
    """Spread of the samples: low favours pass@1, high favours pass@10."""
    top_p: Annotated[Fraction, Field(gt=0)] = 0.95
    """Tail of the distribution that sampling leaves out."""
    max_new_tokens: Tokens
    """Longer answers are cut: some problems then cannot be solved."""
    k: SomeItems[Positive] = (1, 10)
    """Which pass@k are reported."""
    seed: Natural = 1
    """Which samples are drawn."""
    limits: Limits = Limits()
    """What a candidate program may use before it counts as failed."""

    @property
    def key(self) -> str:
        """The label, with the default written out."""
        return self.label or self.benchmark.name

    @model_validator(mode="after")
    def _enough_samples(self) -> Self:
        if max(self.k) > self.samples:
            fitting = [k for k in self.k if k <= self.samples] or [1]
            raise ValueError(
                f"samples {self.samples} are too few for pass@{max(self.k)}: "
                f"write samples: {max(self.k)}, or k: {fitting}"
            )
        return self


class Evaluation(Section):
    """Every benchmark that the experiment is scored on."""

    batch_size: Annotated[Positive, Field(le=2**16)] = 16
    """Sequences sampled together: speed, not completions."""
    tile: Annotated[Positive, Field(le=2**12)] = 16
    """Rows of one forward pass: logits round differently, so completions may differ. Rows of one forward pass while
    sampling, filled up where fewer sequences are under way: matrix products round differently with another number. A
    batch size below it wastes the difference."""
    benchmarks: SomeItems[BenchmarkRun]
    """What the model is scored on."""

    @model_validator(mode="after")
    def _unique_names(self) -> Self:
        require_unique("benchmarks[{}]", [run.key for run in self.benchmarks], "give one of them a `label:`")
        return self


class Cluster(Section):
    """Where the run is meant to take place. Not part of its identity at level `topology`."""

    device: Device
    """Speed, memory and price of a rank."""
    devices: Annotated[Positive, Field(le=2**20)]
    """Time and memory of a rank; at level topology, not the result."""
    devices_per_node: Annotated[Positive, Field(le=1_024)]
    """How much traffic leaves a node."""

    @model_validator(mode="after")
    def _whole_nodes(self) -> Self:
        if self.devices > self.devices_per_node and self.devices % self.devices_per_node:
            raise ValueError(f"devices {self.devices} do not fill nodes of {self.devices_per_node} (devices_per_node)")
        return self


class Reproducibility(Section):
    """What may change while results stay identical to the bit (see docs/reproducibility.md)."""

    level: Level = "topology"
    """What may change while results stay identical to the bit. Not written, it is `portable` where `cluster.device` is
    a CPU: there the kernels with the same bits on any processor are also the faster ones."""
    threads: Annotated[Threads, Field(le=1_024)] = 1
    """Products round differently with another number of threads. Compute threads of each rank: matrix products round
    differently with another number. At level portable they do not, and all cores are used."""

    @property
    def portable(self) -> bool:
        """Whether results do not depend on the processor either."""
        return self.level == "portable"


class Experiment(Section):
    """A complete experiment."""

    name: Name
    """Keys the run, its artifacts and its evaluations."""
    description: str = ""
    """For readers alone."""
    source: Publication | None = None
    """Where the setup was published."""
    claims: Claims = Claims()
    """What the publication states."""
    assumptions: Annotated[dict[str, str], Field(default_factory=dict)]
    """What it leaves open. Dotted path of a field that the publication leaves open: our choice and the reason."""
    corpus: WeightedCorpus
    """What the model learns from."""
    tokenizer: Tokenizer
    """How text becomes ids."""
    architecture: Architecture
    """The model."""
    pretraining: Pretraining
    """The first training phase."""
    finetuning: Finetuning
    """The second training phase: instruction tuning."""
    evaluation: Evaluation
    """How the model is scored."""
    cluster: Cluster
    """Where it runs."""
    reproducibility: Reproducibility = Reproducibility()
    """What may change without changing a bit."""

    @model_validator(mode="before")
    @classmethod
    def _level_follows_the_device(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("cluster"), dict):
            return values
        stated = values.get("reproducibility", {})
        if values["cluster"].get("device") != "cpu" or not isinstance(stated, dict) or "level" in stated:
            return values
        return values | {"reproducibility": stated | {"level": "portable"}}

    @model_validator(mode="after")
    def _kernels_are_portable(self) -> Self:
        if not self.reproducibility.portable:
            return self
        for name, phase in (("pretraining", self.pretraining), ("finetuning", self.finetuning)):
            if phase.parallelism.compile:
                raise ValueError(
                    f"{name}.parallelism.compile makes other kernels on each processor: leave it out, or write "
                    "reproducibility.level topology"
                )
        if (backend := self.architecture.attention.backend) != "auto":
            raise ValueError(
                f"architecture.attention.backend {backend} differs between processors: write auto, or "
                "reproducibility.level topology"
            )
        return self

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        for phase_name, phase in (("pretraining", self.pretraining), ("finetuning", self.finetuning)):
            if phase.micro_batches < self.cluster.devices:
                raise ValueError(
                    f"{phase_name}.micro_batches {phase.micro_batches} leave some of {self.cluster.devices} devices "
                    f"without one: write cluster.devices: {phase.micro_batches} or fewer"
                )
        for path, corpus in (("corpus", self.corpus), ("finetuning.corpus", self.finetuning.corpus)):
            clean = {benchmark.name for benchmark in corpus.decontaminate.against}
            for run in self.evaluation.benchmarks:
                if run.benchmark.name not in clean:
                    raise ValueError(
                        f"{path}.decontaminate.against lacks benchmark {run.benchmark.name!r}, which is scored: list it"
                    )
        for index, run in enumerate(self.evaluation.benchmarks):
            if run.max_new_tokens >= self.architecture.context_length:
                raise ValueError(
                    f"evaluation.benchmarks[{index}].max_new_tokens {run.max_new_tokens} leaves no room for a prompt "
                    f"in a context of {self.architecture.context_length}"
                )
        for path in self.assumptions:
            _require_path(self, path)
        return self


def _require_path(experiment: Experiment, path: str) -> None:
    value: object = experiment
    for part in path.split("."):
        if not isinstance(value, BaseModel) or part not in type(value).model_fields:
            raise ValueError(f"assumptions.{path} is not a field of the experiment")
        value = getattr(value, part)
