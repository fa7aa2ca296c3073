"""Sections of a spec that say what is trained and how: architecture, optimizer, schedule, parallelism."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from specs.schema.base import Section
from specs.schema.data import WeightedCorpus
from specs.schema.quantities import Fraction, Natural, Positive, Real, Sequences, Steps, Tokens


class Attention(Section):
    """Which keys each query may see, per layer; causal and, when packed, within its own document."""

    pattern: Literal["full", "sliding", "interleaved"] = "full"
    """Which layers see all earlier tokens. `full`: all; `sliding`: none; `interleaved`: every `global_every`-th layer
    attends fully, the others within the window."""
    window: Tokens | None = None
    """How far sliding layers see: time and reach. Counts the query's own position."""
    global_every: Positive | None = None
    """How often a layer sees everything: every so many layers."""
    document_mask: bool = True
    """Whether a token sees only its own document in a packed sequence."""
    backend: Literal["auto", "reference", "sdpa", "varlen", "flash", "flex"] = "auto"
    """The kernel: other bits, the same mathematics. `auto` is resolved at launch and recorded; a named backend that is
    not available is an error."""

    @model_validator(mode="after")
    def _window_fits_pattern(self) -> Self:
        if (self.pattern == "full") != (self.window is None):
            raise ValueError(f"pattern {self.pattern!r} {'takes no' if self.window else 'needs a'} window")
        if (self.pattern == "interleaved") != (self.global_every is not None):
            raise ValueError(f"pattern {self.pattern!r} {'takes no' if self.global_every else 'needs'} global_every")
        return self

    def windows(self, n_layers: int) -> tuple[int | None, ...]:
        """Window of each layer; none where a layer sees every earlier token."""
        match self.pattern:
            case "full":
                return (None,) * n_layers
            case "sliding":
                return (self.window,) * n_layers
            case "interleaved":
                period = self.global_every or 1  # the last layer of every period sees all
                return tuple(None if (i + 1) % period == 0 else self.window for i in range(n_layers))


class Architecture(Section):
    """A decoder-only transformer: RMSNorm, rotary positions, SwiGLU."""

    d_model: Annotated[Positive, Field(le=2**20)]
    """Width: parameters grow with it, quadratically."""
    n_layers: Annotated[Positive, Field(le=10_000)]
    """Depth: parameters, time and saved activations grow with it."""
    n_heads: Annotated[Positive, Field(le=2**16)]
    """Heads: with d_model it sets the head size, which attention kernels are picky about."""
    n_kv_heads: Positive | None = None
    """Key and value heads: fewer make sampling cheaper and weights smaller. None means one for each query head."""
    d_ff: Annotated[Positive, Field(le=2**24)]
    """Width of the SwiGLU feed-forward (three matrices): most of the parameters."""
    context_length: Annotated[Tokens, Field(le=2**27)]
    """Tokens in a sequence: token stores are packed anew, attention grows with its square."""
    attention: Attention = Attention()
    """Which earlier tokens a token sees."""
    rope_theta: Annotated[Real, Field(gt=1, le=1e12)] = 10_000.0
    """Base of the rotary angles: how far positions are told apart."""
    norm_eps: Annotated[Real, Field(gt=0, le=0.1)] = 1e-5
    """Floor of the norm's denominator."""
    tie_embeddings: bool = False
    """One matrix for input and output saves vocabulary x width parameters."""
    init_std: Annotated[Real, Field(gt=0, le=10)] = 0.02
    """Scale of the first weights."""

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
            raise ValueError(
                f"n_heads {self.n_heads} make heads of {self.head_dim} channels (d_model / n_heads): rotary positions "
                "need an even number"
            )
        if self.n_heads % self.kv_heads:
            raise ValueError(f"n_heads {self.n_heads} is not divisible by n_kv_heads {self.kv_heads}")
        if self.attention.window and self.attention.window > self.context_length:
            raise ValueError(f"attention.window {self.attention.window} exceeds context_length {self.context_length}")
        return self


class AdamW(Section):
    """AdamW (Loshchilov and Hutter, 2019); decay applies to matrices, not to norms."""

    kind: Literal["adamw"] = "adamw"
    """The update rule."""
    lr: Annotated[Real, Field(gt=0, le=10)]
    """Peak learning rate: the setting that results are most sensitive to."""
    beta1: Annotated[Fraction, Field(lt=1)] = 0.9
    """Memory of the gradient's mean."""
    beta2: Annotated[Fraction, Field(lt=1)] = 0.95
    """Memory of the gradient's square: lower values forgive spikes sooner."""
    eps: Annotated[Real, Field(gt=0, le=0.1)] = 1e-8
    """Floor of the update's denominator."""
    weight_decay: Annotated[Real, Field(ge=0, le=10)] = 0.1
    """Pull of matrices towards zero."""


class Schedule(Section):
    """Learning rate over steps: linear warm-up to the peak, then the named decay to a fraction of it."""

    kind: Literal["cosine", "constant", "wsd"] = "cosine"
    """Shape of the learning rate over steps."""
    warmup_steps: Annotated[Natural, Field(json_schema_extra={"unit": "steps"})]
    """How gently training starts."""
    final_fraction: Fraction = 0.1
    """How far the learning rate falls: at the last step, as a fraction of the peak."""
    decay_fraction: Annotated[Fraction, Field(gt=0)] = 0.1
    """How long the last decay takes, as a share of all steps (`wsd` only)."""


class Precision(Section):
    """Number formats. Master weights, optimizer state and folds are always fp32."""

    compute: Literal["fp32", "bf16"] = "bf16"
    """Format of matrix products: speed, memory and rounding."""
    wire: Literal["fp32", "bf16"] = "fp32"
    """Format of gradients between ranks: traffic and, in bf16 under fp32, rounding."""

    @model_validator(mode="after")
    def _wire_is_exact(self) -> Self:
        if self.wire == "bf16" and self.compute != "bf16":
            raise ValueError("wire bf16 would round the fp32 gradients of compute fp32: write wire: fp32")
        return self


class Parallelism(Section):
    """How weights, gradients and optimizer state are divided among ranks."""

    sharding: Literal["zero2", "zero3", "mixed"] = "zero2"
    """Memory against network traffic: the same bits. `zero2`: parameters stay gathered between forward and backward;
    gradients and state are sharded."""
    resharded_blocks: Natural = 0
    """Memory against network traffic: the same bits. Under `mixed` so many of the first blocks are gathered again in
    the backward pass."""
    recompute: Literal["none", "full", "selective"] = "none"
    """Memory against a third more computation: the same result."""
    compile: bool = False
    """Layers through torch.compile: faster steps after a slow start; other bits than without, the same on any number of
    ranks. It needs a C++ compiler on a CPU."""

    @model_validator(mode="after")
    def _compiled_layers_choose_for_themselves(self) -> Self:
        if self.compile and self.recompute == "selective":
            raise ValueError("recompute selective does not go with compile: write recompute: full, or none")
        return self


class Checkpoints(Section):
    """When training state is saved."""

    every: Steps
    """Steps between checkpoints: work lost to a failure against time spent saving. The last step is always saved."""
    keep: Positive = 2
    """How many of the newest checkpoints stay while the run goes on: disk space."""
    keep_every: Steps | None = None
    """From where parts of the run can be executed again, and disk space. Checkpoints at multiples of so many steps stay
    for good, for `twice verify --steps`; none means none does."""


class HeldOut(Section):
    """Loss on sequences that are never trained on."""

    sequences: Sequences
    """Sequences that are never trained on."""
    every: Steps
    """Steps between measurements of the held-out loss; the last step is always measured."""


class Training(Section):
    """One training phase over a token store."""

    seed: Natural = 1
    """First weights and the order of the data."""
    micro_batches: Annotated[Positive, Field(le=2**20)]
    """Micro-batches of the global batch, the unit that a rank computes and that reductions fold over: gradient noise,
    steps, and how many ranks can share them."""
    micro_batch_size: Annotated[Sequences, Field(le=2**16)] = 1
    """Sequences of a micro-batch, computed at once: memory of a rank, and the global batch."""
    optimizer: AdamW
    """The update rule."""
    schedule: Schedule
    """Learning rate over steps."""
    clip_norm: Annotated[Real, Field(gt=0, le=1e6)] = 1.0
    """How far one bad batch can move the weights."""
    precision: Precision = Precision()
    """Number formats."""
    parallelism: Parallelism = Parallelism()
    """How memory is divided."""
    checkpoints: Checkpoints
    """When state is saved."""
    held_out: HeldOut | None = None
    """Loss on text that is never trained on."""
    loss_chunk: Tokens = 1024
    """Positions whose logits exist at one time: memory of the logits."""
    skip_spikes_above: Annotated[Real, Field(gt=0)] | None = None
    """Gradient norm from which a step's update is left out (and recorded); none leaves out nothing."""


class Pretraining(Training):
    """Next-token prediction over the corpus."""

    tokens: Tokens
    """Length of training: cost is proportional to it. It stops at the first step at which so many tokens have been
    seen."""


class Instruction(Training):
    """Instruction tuning: loss on answers only."""

    template: Literal["turns-v1"] = "turns-v1"
    """How conversations are written out: the chat template, whose control tokens are part of every tokenizer."""
    epochs: Positive = 1
    """How often the instructions are seen."""


class Finetuning(Instruction):
    """Instruction tuning and the corpus that it learns from."""

    corpus: WeightedCorpus
    """The instructions that the model is tuned on."""
