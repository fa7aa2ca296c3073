"""Memory of one rank in a training step, by component, from the shapes alone.

The peak lies at one of few moments of a step; at each of them what lives is known. Byte counts per token follow the
operations of `model.decoder`, buffers those of FSDP2 and `runner.training.reduction`.
`runner.planning.simulate` traces the real step and is what these formulas are tested against.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from specs.estimates.counts import parameters
from specs.estimates.moments import REDUCTION, Shapes, worst_moments
from specs.schema.experiment import Experiment
from specs.schema.training import Architecture, Training

BYTES = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class Breakdown:
    """What one rank needs at the worst moment of a step."""

    moment: str
    components: Mapping[str, float]
    """Bytes by component at that moment."""
    beside: float = 0.0
    """Bytes that the order-fixed reduction holds at its own worst moment, where that is another one. On a GPU it runs
    on a stream of its own, whose memory the computation cannot use: it comes on top."""

    @property
    def peak(self) -> float:
        """All components together, in bytes."""
        return sum(self.components.values())

    @property
    def needed(self) -> float:
        """Bytes that a device must offer."""
        return self.peak + self.beside


def breakdown(experiment: Experiment, ranks: int, *, order_fixed: bool = True) -> Breakdown:
    """Peak of pretraining on `ranks` ranks, each with its share of the micro-batches.

    `order_fixed`: with the reduction that no world size changes; otherwise FSDP's own reduce-scatter.
    """
    kernel = "fused" if experiment.cluster.device != "cpu" and _half(experiment.pretraining) else "masked"
    return training_memory(
        experiment.architecture,
        experiment.tokenizer.vocab_size,
        experiment.pretraining,
        ranks,
        kernel=kernel,
        order_fixed=order_fixed,
    )


def training_memory(
    architecture: Architecture,
    vocab_size: int,
    training: Training,
    ranks: int,
    *,
    kernel: str = "fused",
    order_fixed: bool = True,
) -> Breakdown:
    """Peak of a training phase on `ranks` ranks; arguments otherwise as in `breakdown`.

    kernel: `fused`, where attention keeps its output alone, or `masked`, where masks exist (and, in bf16, scores).
    """
    shapes = _shapes(architecture, vocab_size, training, kernel)
    moments = worst_moments(shapes, training, ranks, order_fixed)
    name = max(moments, key=lambda moment: sum(moments[moment].values()))
    reduction = max(parts.get(REDUCTION, 0.0) for parts in moments.values())
    return Breakdown(name, moments[name], reduction - moments[name].get(REDUCTION, 0.0))


def gib(size: float) -> str:
    """A size for people: GiB, or MiB where it is small."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"


def _half(training: Training) -> bool:
    return training.precision.compute == "bf16"


def _shapes(architecture: Architecture, vocab_size: int, training: Training, kernel: str) -> Shapes:
    b = BYTES[training.precision.compute]
    count = parameters(architecture, vocab_size)
    length, layers = architecture.context_length, architecture.n_layers
    tokens = training.micro_batch_size * length
    channels, wide = architecture.d_model, architecture.d_ff
    keys = architecture.kv_heads * architecture.head_dim
    # Keys and values that are repeated for the heads that share them let go of the product that they came from.
    attention = 3 * channels + 3 * keys if keys == channels else 4 * channels
    # Queries, keys, values, rotated queries and keys, attention's output; two norms (input in fp32, normed, scaled);
    # gate and up, silu of the gate, their product.
    layer: float = tokens * (b * (4 * wide + 4 * channels + attention) + 8 * channels + 4 * architecture.n_heads)
    windows = 1 if architecture.attention.pattern != "interleaved" else 2
    constant: float = 8.0 * length * architecture.head_dim
    if kernel == "masked":
        square = float(training.micro_batch_size * length * length)
        # A boolean mask for each distinct window; fp32 keeps it as numbers with each layer, bf16 writes scores out.
        constant += windows * square
        layer += 4 * square if b == 4 else (2 * architecture.n_heads + 1) * b * square
    saved = {
        "none": layer,
        "full": float(b * tokens * channels),
        "selective": float(b * tokens * (2 * wide + 4 * channels + 2 * keys)),
    }[training.parallelism.recompute]
    chunk: float = float(min(training.loss_chunk, tokens) * vocab_size)
    several = tokens > training.loss_chunk
    # New and old logits and probabilities while one chunk takes over from another, or the weight's gradient at the end.
    turning = (16 if b == 2 else 12) * chunk if several else 0.0
    adding = (10 if b == 2 else 8) * chunk + b * vocab_size * channels
    return Shapes(
        compute=b,
        wire=BYTES[training.precision.wire],
        layers=layers,
        embedding=vocab_size * channels,
        block=(count.attention + count.feed_forward) // layers + 2 * channels,
        root=count.embedding + count.output + channels,
        total=count.total,
        largest=channels * max(vocab_size, 2 * wide, channels + 2 * keys),
        residual=b * tokens * channels,
        wide=b * tokens * wide,
        layer=float(layer),
        saved=float(saved),
        down=b * channels * wide,
        constant=constant,
        logits=max(turning, adding),
    )
