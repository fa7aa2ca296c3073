"""Memory of one rank in a training step, by component, from the shapes alone.

The peak lies at one of few moments of a step; at each of them what lives is known. Byte counts per token follow the
operations of `model.decoder`, buffers those of FSDP2 and `runner.training.reduction`.
`runner.planning.simulate` traces the real step and is what these formulas are tested against.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from specs.estimates.counts import parameters
from specs.schema.experiment import Experiment
from specs.schema.training import Architecture, Parallelism, Training

BYTES = {"fp32": 4, "bf16": 2}
_REDUCTION = "order-fixed reduction"


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


@dataclass(frozen=True)
class _Shapes:
    """Numbers that every moment needs; activations in bytes of one micro-batch, weights as counts."""

    compute: int
    wire: int
    layers: int
    embedding: int
    block: int
    root: int
    """Weights that FSDP gathers with the root: embedding, output, final norm."""
    total: int
    largest: int
    """Weights of the largest parameter."""
    residual: float
    """Bytes of one [tokens, d_model] tensor in the compute format."""
    wide: float
    """Bytes of one [tokens, d_ff] tensor in the compute format."""
    layer: float
    """What one layer saves for its backward pass without recomputation."""
    saved: float
    """What one layer saves with the recomputation that the spec asks for."""
    down: float
    """Gradient of the feed-forward's second matrix."""
    constant: float
    """Rotary angles and attention masks, shared by all layers."""
    logits: float
    """Chunked logits at their worst."""


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
    micro_batches = max(training.micro_batches // ranks, 1)
    moments = _moments(shapes, training.parallelism, micro_batches, ranks, order_fixed)
    name = max(moments, key=lambda each: sum(moments[each].values()))
    held = max(parts.get(_REDUCTION, 0.0) for parts in moments.values())
    return Breakdown(name, moments[name], held - moments[name].get(_REDUCTION, 0.0))


def gib(size: float) -> str:
    """A size for people: GiB, or MiB where it is small."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"


def _half(training: Training) -> bool:
    return training.precision.compute == "bf16"


def _shapes(architecture: Architecture, vocab_size: int, training: Training, kernel: str) -> _Shapes:
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
    return _Shapes(
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


def _moments(
    s: _Shapes, parallelism: Parallelism, micro_batches: int, ranks: int, order_fixed: bool
) -> dict[str, dict[str, float]]:
    """Every moment that may be the worst, with what lives then."""
    height = (
        micro_batches.bit_length() - 1
    )  # sums of earlier micro-batches that the fold keeps while the last micro-batch is computed
    early = [(0, False), (max(height - 1, 0), False)] if micro_batches > 1 else []
    found: dict[str, dict[str, float]] = {}
    for number, (sums, last) in enumerate([*early, (height, True)]):
        micro_batch = _MicroBatch(
            s, parallelism, ranks, order_fixed, 4 * s.total / ranks * sums, last, first=number == 0
        )
        for name, parts in micro_batch.moments().items():
            if sum(parts.values()) > sum(found.get(name, {}).values()):
                found[name] = parts
    shard = 4 * s.total / ranks
    # AdamW takes one parameter after another, and two intermediate results of it at a time.
    found["the optimizer's update"] = {"gradients": shard, "optimizer update": 2 * 4 * s.largest / ranks}
    state = {"master weights": shard, "optimizer state": 2 * shard}
    return {name: state | parts for name, parts in found.items()}


@dataclass(frozen=True)
class _MicroBatch:
    """One micro-batch of a step: what lives in its forward and backward pass besides the sharded state."""

    s: _Shapes
    parallelism: Parallelism
    ranks: int
    order_fixed: bool
    sums: float
    """Bytes of gradients of earlier micro-batches, folded."""
    last: bool
    """Gathered parameters are freed on the way, layer by layer."""
    first: bool
    """Parameters that stay gathered are gathered in this micro-batch."""

    @property
    def freed(self) -> int:
        """Blocks that are freed after their forward pass and gathered again."""
        s, p = self.s, self.parallelism
        return {"zero2": 0, "zero3": s.layers, "mixed": min(p.resharded_blocks, s.layers)}[p.sharding]

    def moments(self) -> dict[str, dict[str, float]]:
        """Components by moment."""
        return {**self.loss(), **self.layers(), **self.ends()}

    def loss(self) -> dict[str, dict[str, float]]:
        """Every layer's activations are there, and the logits, or the output's gradient in two formats."""
        s = self.s
        b = s.compute
        gathered = b * (s.root + (s.layers - self.freed) * s.block)
        buffer = b * s.block if self.first or self.freed else 0  # of the last gathering of the forward pass
        ahead = b * s.block if self.freed == s.layers else 0  # the last layer, on its way for the backward pass
        # The last norm's input in fp32, normed and scaled.
        activations = s.layers * s.saved + s.constant + s.residual * (4 / b + 2)
        cast = b * s.embedding if b < 4 else 0
        return {
            "the loss": {
                "gathered parameters": gathered + buffer,
                "activations": activations,
                "embedding and loss": 4 * s.embedding + s.logits + 2 * s.residual,
                "gradients": self.sums,
            },
            "the start of the backward pass": {
                "gathered parameters": gathered + ahead,
                "activations": activations - s.residual,
                "embedding and loss": 8 * s.embedding + cast + 2 * s.residual,
                "gradients": self.sums,
            },
        }

    def layers(self) -> dict[str, dict[str, float]]:
        """The worst layer of the backward pass, and the worst reduction of a layer's gradient."""
        s = self.s
        computed, reduced = [], []
        wire = s.wire * s.block
        for layer in range(s.layers):
            done = (s.layers - 1 - layer) * 4 * s.block / self.ranks
            held = wire if layer < s.layers - 1 else 0  # the input of the reduction before
            common = {
                "gathered parameters": self.gathered(layer),
                "activations": layer * s.saved + s.constant,
                "embedding and loss": s.compute * s.embedding + s.residual,
            }
            transient = s.layer + 2 * s.wide + s.down + s.residual
            computed.append(common | {"layer in backward": transient, "gradients": done + self.sums + held})
            own = 4 * s.block / self.ranks + wire
            freed = s.compute * s.block if self.last or layer < self.freed else 0  # FSDP frees before it reduces
            reduced.append(
                common
                | {"gathered parameters": self.gathered(layer) - freed, "gradients": done + self.sums + own}
                | self.reduction(s.block)
            )
        return {
            "the backward pass of a layer": max(computed, key=lambda parts: sum(parts.values())),
            "the reduction of a layer": max(reduced, key=lambda parts: sum(parts.values())),
        }

    def gathered(self, layer: int) -> float:
        """Gathered parameters while a layer (from 0) is computed backward."""
        s, freed = self.s, self.freed
        kept = max(layer + 1 - freed, 0) if self.last else s.layers - freed
        again = (layer < freed) + (1 <= layer <= freed)  # its own, and the next one on its way
        return s.compute * (s.root + (kept + again) * s.block)

    def ends(self) -> dict[str, dict[str, float]]:
        """The embedding's gradient is summed in fp32; then the embeddings are reduced, as one unit."""
        s, b = self.s, self.s.compute
        kept = b * (s.root + (0 if self.last else (s.layers - self.freed) * s.block))
        shards = s.layers * 4 * s.block / self.ranks + self.sums
        unit = s.root
        summed = 4 * s.embedding + (b * s.embedding + s.residual * 2 if b < 4 else 0)
        return {
            "the gradient of the embedding": {
                "gathered parameters": kept,
                "activations": s.constant,
                "embedding and loss": summed + b * s.embedding,
                "gradients": shards + s.wire * s.block,
            },
            "the reduction of the embeddings": {
                "gathered parameters": 0 if self.last else kept,
                "embedding and loss": b * s.embedding,
                "gradients": shards + s.wire * unit + 4 * unit / self.ranks,
            }
            | self.reduction(unit),
        }

    def reduction(self, unit: int) -> dict[str, float]:
        """The order-fixed reduction of a unit of weights: pieces received, and partial sums of the fold over ranks."""
        if not self.order_fixed:
            return {}
        return {_REDUCTION: self.s.wire * unit + 4 * unit / self.ranks * self.ranks.bit_length()}
