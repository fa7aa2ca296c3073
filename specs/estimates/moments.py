"""What lives in a rank's memory at each moment of a training step that may be the worst one."""

from dataclasses import dataclass

from specs.estimates.counts import sub_steps
from specs.schema.training import Parallelism, Training

REDUCTION = "order-fixed reduction"


@dataclass(frozen=True)
class Shapes:
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


@dataclass(frozen=True)
class Partials:
    """Partial sums that the order-fixed fold keeps of a unit of weights in a sub-step, each as large as its shard."""

    before: int
    most: int
    """At one time while the unit is reduced, what has just arrived counted in where it is copied to fp32."""
    after: int


def partials(micro_batches: int, ranks: int, number: int, copied: bool) -> Partials:
    """Those of sub-step `number` (from 0). A fold of n leaves keeps a partial sum for each bit of n.

    copied: gradients travel in another format than fp32, so each that arrives is copied.
    """
    begin, end = number * ranks, min((number + 1) * ranks, micro_batches)
    before, after = begin.bit_count(), end.bit_count() if end < micro_batches else 0
    most = max((leaf.bit_count() for leaf in range(begin, end)), default=0) + 1
    return Partials(before, most if copied else max(before, after), after)


def worst_moments(s: Shapes, training: Training, ranks: int, order_fixed: bool) -> dict[str, dict[str, float]]:
    """Every moment that may be the worst, with what lives then; of each, in the worst sub-step."""
    last, shard = sub_steps(training, ranks) - 1, 4 * s.total / ranks
    worst: dict[str, dict[str, float]] = {}
    for sub_step in dict.fromkeys(
        _SubStep(
            s,
            training.parallelism,
            ranks,
            partials(training.micro_batches, ranks, number, copied=s.wire < 4) if order_fixed else None,
            first=number == 0,
            last=number == last,
        )
        for number in range(last + 1)
    ):
        for name, parts in sub_step.moments().items():
            if sum(parts.values()) > sum(worst.get(name, {}).values()):
                worst[name] = parts
    # AdamW takes one parameter after another, and two intermediate results of it at a time.
    worst["the optimizer's update"] = {"gradients": shard, "optimizer update": 2 * 4 * s.largest / ranks}
    state = {"master weights": shard, "optimizer state": 2 * shard}
    return {name: state | parts for name, parts in worst.items()}


@dataclass(frozen=True)
class _SubStep:
    """One micro-batch of a rank: what lives in its forward and backward pass besides the sharded state."""

    s: Shapes
    parallelism: Parallelism
    ranks: int
    partials: Partials | None
    """None with FSDP's own reduction, which adds to the gradients of the sub-steps before."""
    first: bool
    """Parameters that stay gathered are gathered in this sub-step."""
    last: bool
    """Gathered parameters are freed on the way, layer by layer."""

    @property
    def freed(self) -> int:
        """Blocks that are freed after their forward pass and gathered again."""
        s, p = self.s, self.parallelism
        return {"zero2": 0, "zero3": s.layers, "mixed": min(p.resharded_blocks, s.layers)}[p.sharding]

    def moments(self) -> dict[str, dict[str, float]]:
        """Components by moment."""
        return {**self.loss(), **self.layers(), **self.ends()}

    def sums(self, done: int, unit: int = 0) -> dict[str, float]:
        """Gradients and partial sums while the last `done` blocks are reduced already, and a unit of weights is."""
        s, shard = self.s, 4 / self.ranks
        outputs = shard * (done * s.block + unit)
        if self.partials is None:
            return {"gradients": outputs if self.first else shard * (s.total + unit)}
        if not self.last:
            # Until gradients are whole, all units share the memory of the largest; it grows when it first is needed.
            outputs = shard * s.block if done or unit else 0.0
            if unit == s.root > s.block or not self.first:
                outputs = shard * (max(s.root, s.block) + (s.block if self.first else 0))
        waiting = self.partials.before * (s.total - done * s.block)
        return {"gradients": outputs, REDUCTION: shard * (waiting + self.partials.after * done * s.block)}

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
            }
            | self.sums(0),
            "the start of the backward pass": {
                "gathered parameters": gathered + ahead,
                "activations": activations - s.residual,
                "embedding and loss": 8 * s.embedding + cast + 2 * s.residual,
            }
            | self.sums(0),
        }

    def layers(self) -> dict[str, dict[str, float]]:
        """The worst layer of the backward pass, and the worst reduction of a layer's gradient."""
        s = self.s
        computed, reduced = [], []
        wire = s.wire * s.block
        for layer in range(s.layers):
            done = s.layers - 1 - layer
            sums = self.sums(done)
            common = {
                "gathered parameters": self.gathered(layer),
                "activations": layer * s.saved + s.constant,
                "embedding and loss": s.compute * s.embedding + s.residual,
            }
            transient = s.layer + 2 * s.wide + s.down + s.residual
            inputs = wire if done else 0  # of the reduction before
            computed.append(common | sums | {"layer in backward": transient, "gradients": sums["gradients"] + inputs})
            freed = s.compute * s.block if self.last or layer < self.freed else 0  # FSDP frees before it reduces
            reduced.append(
                common | {"gathered parameters": self.gathered(layer) - freed} | self.reduction(done, s.block)
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
        sums = self.sums(s.layers)
        summed = 4 * s.embedding + (b * s.embedding + s.residual * 2 if b < 4 else 0)
        return {
            "the gradient of the embedding": {
                "gathered parameters": kept,
                "activations": s.constant,
                "embedding and loss": summed + b * s.embedding,
            }
            | sums
            | {"gradients": sums["gradients"] + s.wire * s.block},
            "the reduction of the embeddings": {
                "gathered parameters": 0 if self.last else kept,
                "embedding and loss": b * s.embedding,
            }
            | self.reduction(s.layers, s.root),
        }

    def reduction(self, done: int, unit: int) -> dict[str, float]:
        """While a unit of weights is reduced: FSDP's input, the output, pieces that arrive, partial sums."""
        sums = self.sums(done, unit)
        sums["gradients"] += self.s.wire * unit
        if self.partials is not None:
            more = self.partials.most - self.partials.before
            sums[REDUCTION] += self.s.wire * unit + 4 * unit / self.ranks * more
        return sums
