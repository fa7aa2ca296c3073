"""Sections of a spec that say what is trained and how: architecture, optimizer, schedule, parallelism."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from specs.schema.base import Section
from specs.schema.data import WeightedCorpus
from specs.schema.quantities import Fraction, Natural, Positive, Real


class Attention(Section):
    """Which keys each query may see, per layer; causal and, when packed, within its own document."""

    pattern: Literal["full", "sliding", "interleaved"] = "full"
    """`interleaved`: every `global_every`-th layer attends fully, the others within the window."""
    window: Positive | None = None
    """Keys that a query sees in a sliding layer, its own included."""
    global_every: Positive | None = None
    document_mask: bool = True
    """A token sees only its own document."""
    backend: Literal["auto", "reference", "sdpa", "varlen", "flash", "flex"] = "auto"
    """`auto` is resolved at launch and recorded; a named backend that is not available is an error."""

    @model_validator(mode="after")
    def _window_fits_pattern(self) -> Self:
        if (self.pattern == "full") != (self.window is None):
            raise ValueError(f"pattern {self.pattern!r} {'takes no' if self.window else 'needs a'} window")
        if (self.pattern == "interleaved") != (self.global_every is not None):
            raise ValueError(f"pattern {self.pattern!r} {'takes no' if self.global_every else 'needs'} global_every")
        return self


class Architecture(Section):
    """A decoder-only transformer: RMSNorm, rotary positions, SwiGLU."""

    d_model: Positive
    n_layers: Positive
    n_heads: Positive
    n_kv_heads: Positive | None = None
    """Key and value heads for grouped queries; none means one for each query head."""
    d_ff: Positive
    """Width of the SwiGLU feed-forward (three matrices)."""
    context_length: Positive
    attention: Attention = Attention()
    rope_theta: Real = 10_000.0
    norm_eps: Real = 1e-5
    tie_embeddings: bool = False
    init_std: Real = 0.02

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.d_model // self.n_heads

    @property
    def kv_heads(self) -> int:
        """Key and value heads, with the default written out."""
        return self.n_kv_heads or self.n_heads

    @model_validator(mode="after")
    def _shapes_divide(self) -> Self:
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model {self.d_model} is not divisible by n_heads {self.n_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head size {self.head_dim} (d_model / n_heads) is odd: rotary positions need it even")
        if self.n_heads % self.kv_heads:
            raise ValueError(f"n_heads {self.n_heads} is not divisible by n_kv_heads {self.kv_heads}")
        if self.attention.window and self.attention.window > self.context_length:
            raise ValueError(f"window {self.attention.window} exceeds context_length {self.context_length}")
        return self


class AdamW(Section):
    """AdamW (Loshchilov and Hutter, 2019); decay applies to matrices, not to norms."""

    kind: Literal["adamw"] = "adamw"
    lr: Annotated[Real, Field(gt=0)]
    """Peak learning rate."""
    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    eps: Annotated[Real, Field(gt=0)] = 1e-8
    weight_decay: Annotated[Real, Field(ge=0)] = 0.1


class Schedule(Section):
    """Learning rate over steps: linear warm-up to the peak, then the named decay to a fraction of it."""

    kind: Literal["cosine", "constant", "wsd"] = "cosine"
    warmup_steps: Natural
    final_fraction: Fraction = 0.1
    """Learning rate at the last step, as a fraction of the peak."""
    decay_fraction: Fraction = 0.1
    """Share of all steps that the decay takes at the end (`wsd` only)."""


class Precision(Section):
    """Number formats. Master weights, optimizer state and folds are always fp32."""

    compute: Literal["fp32", "bf16"] = "bf16"
    wire: Literal["fp32", "bf16"] = "fp32"
    """Format of gradients between ranks."""

    @model_validator(mode="after")
    def _wire_is_exact(self) -> Self:
        if self.wire == "bf16" and self.compute != "bf16":
            raise ValueError("wire bf16 would round the fp32 gradients of compute fp32: write wire fp32")
        return self


class Parallelism(Section):
    """How weights, gradients and optimizer state are divided among ranks."""

    sharding: Literal["zero2", "zero3", "mixed"] = "zero2"
    """`zero2`: parameters stay gathered between forward and backward; gradients and state are sharded."""
    resharded_blocks: Natural = 0
    """`mixed`: so many of the first blocks are gathered again in the backward pass."""
    recompute: Literal["none", "full", "selective"] = "none"
    compile: bool = False
    """Layers through torch.compile: faster steps after a slow start; other bits than without, the same on any number of
    ranks. It needs a C++ compiler on a CPU."""

    @model_validator(mode="after")
    def _compiled_layers_choose_for_themselves(self) -> Self:
        if self.compile and self.recompute == "selective":
            raise ValueError("recompute selective does not go with compile: write recompute full, or none")
        return self


class Checkpoints(Section):
    """When training state is saved."""

    every: Positive
    """Steps between checkpoints; the last step is always saved."""
    keep: Positive = 2
    """How many of the newest stay while the run goes on."""
    keep_every: Positive | None = None
    """Checkpoints at multiples of so many steps stay for good, for `twice verify --steps`; none means none does."""


class HeldOut(Section):
    """Loss on sequences that are never trained on."""

    sequences: Positive
    every: Positive
    """Steps between measurements; the last step is always measured."""


class Training(Section):
    """One training phase over a token store."""

    seed: Natural = 1
    micro_batches: Positive
    """Micro-batch slots of the global batch: the unit that a rank computes and that reductions fold over."""
    micro_batch_size: Positive = 1
    optimizer: AdamW
    schedule: Schedule
    clip_norm: Annotated[Real, Field(gt=0)] = 1.0
    precision: Precision = Precision()
    parallelism: Parallelism = Parallelism()
    checkpoints: Checkpoints
    held_out: HeldOut | None = None
    loss_chunk: Positive = 1024
    """Positions whose logits exist at one time."""
    skip_spikes_above: Annotated[Real, Field(gt=0)] | None = None
    """Gradient norm from which a step's update is skipped (and recorded); none skips never."""

    @model_validator(mode="after")
    def _micro_batches_form_a_tree(self) -> Self:
        if self.micro_batches & (self.micro_batches - 1):
            raise ValueError(
                f"micro_batches {self.micro_batches} is not a power of two: reductions fold them in a balanced tree"
            )
        return self


class Pretraining(Training):
    """Next-token prediction over the corpus."""

    tokens: Positive
    """Training stops at the first step at which so many tokens have been seen."""


class Instruction(Training):
    """Instruction tuning: loss on answers only."""

    template: Literal["turns-v1"] = "turns-v1"
    """Chat template; its control tokens are part of every tokenizer."""
    epochs: Positive = 1


class Finetuning(Instruction):
    """Instruction tuning and the corpus that it learns from."""

    corpus: WeightedCorpus
