"""What a run will need before it is run: memory, time, traffic, money, energy, over numbers of devices."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from specs.estimates.counts import parameters, pretraining_steps, sub_steps, tokens_per_step
from specs.estimates.devices import DEVICES, Device
from specs.estimates.efficiency import Efficiency, expected_efficiency
from specs.estimates.fit import devices_for, fewest_resharded, fits, with_training
from specs.estimates.memory import BYTES, Breakdown, breakdown, gib
from specs.schema.experiment import Experiment
from specs.schema.training import Parallelism

ENERGY_PRICE = 0.12
"""US dollars for a kilowatt hour: an assumption, near the industrial average of the US and of Korea in 2024."""


@dataclass(frozen=True)
class Plan:
    """One way to run the pretraining of an experiment. Sizes in bytes, times in seconds; none where unknown."""

    devices: int
    sharding: str
    resharded: int
    """Blocks that are gathered again in the backward pass, where the sharding is mixed."""
    sub_steps: int
    """Micro-batches that a device computes in a step."""
    idle: float
    """Share of the devices' time in which they have no micro-batch: the last sub-step has fewer than devices."""
    memory: Breakdown
    stock: Breakdown
    """The same with FSDP's own reduce-scatter."""
    fits: bool
    traffic: float
    """Bytes that a rank receives in a step, of which"""
    outside: float
    """bytes from other nodes, over its own adapter."""
    step_seconds: float | None
    bound: str
    """What a step waits for: `computation` or `network`."""
    steps: int
    tokens_per_step: int
    price: float | None
    power: float | None

    @property
    def label(self) -> str:
        """The sharding, with the number of re-gathered blocks where it is mixed."""
        return f"mixed, {self.resharded} blocks" if self.sharding == "mixed" else self.sharding

    @property
    def tokens_per_second(self) -> float | None:
        """Of all devices together."""
        return self.tokens_per_step / self.step_seconds if self.step_seconds else None

    @property
    def seconds(self) -> float | None:
        """Wall time of all steps."""
        return self.steps * self.step_seconds if self.step_seconds else None

    @property
    def device_hours(self) -> float | None:
        """Device-hours of all steps."""
        return self.seconds * self.devices / 3600 if self.seconds else None

    @property
    def money(self) -> float | None:
        """US dollars at the stated price of a device-hour."""
        return self.device_hours * self.price if self.device_hours and self.price else None

    @property
    def kilowatt_hours(self) -> float | None:
        """Energy of whole nodes at their maximum power."""
        return self.device_hours * self.power / 1000 if self.device_hours and self.power else None


def plan(
    experiment: Experiment,
    devices: int | None = None,
    parallelism: Parallelism | None = None,
    price: float | None = None,
    efficiency: Efficiency | None = None,
) -> Plan:
    """Plan the pretraining phase on a number of devices, as the spec says or with another division of memory."""
    ranks = devices or experiment.cluster.devices
    if parallelism is not None:
        experiment = with_training(experiment, parallelism=parallelism)
    offered = DEVICES[experiment.cluster.device]
    memory, stock = breakdown(experiment, ranks), breakdown(experiment, ranks, order_fixed=False)
    efficiency = efficiency or expected_efficiency(experiment)
    received, outside = traffic(experiment, ranks)
    batch = tokens_per_step(experiment.pretraining, experiment.architecture)
    number, of_micro_batch = sub_steps(experiment.pretraining, ranks), batch / experiment.pretraining.micro_batches
    computing = number * of_micro_batch / efficiency.tokens_per_second if efficiency.tokens_per_second else None
    moving = _moving(offered, received, outside)
    step = max(computing, moving) if computing is not None else None
    return Plan(
        devices=ranks,
        sharding=experiment.pretraining.parallelism.sharding,
        resharded=experiment.pretraining.parallelism.resharded_blocks,
        sub_steps=number,
        idle=1 - experiment.pretraining.micro_batches / (number * ranks),
        memory=memory,
        stock=stock,
        fits=offered.usable is None or memory.needed <= offered.usable,
        traffic=received,
        outside=outside,
        step_seconds=step,
        bound="network" if computing is not None and moving > computing else "computation",
        steps=pretraining_steps(experiment.pretraining, experiment.architecture),
        tokens_per_step=batch,
        price=offered.price if price is None else price,
        power=offered.power,
    )


def plans(experiment: Experiment, price: float | None = None) -> list[Plan]:
    """ZeRO-2, ZeRO-3 and a mix, over numbers of devices from one node (or device) to one micro-batch each."""
    options = []
    efficiency = expected_efficiency(experiment)
    for ranks in device_counts(experiment):
        for parallelism in divisions(experiment, ranks):
            options.append(plan(experiment, ranks, parallelism, price, efficiency))
    return options


def device_counts(experiment: Experiment) -> list[int]:
    """Devices worth looking at: from a node (one device for small batches) to one micro-batch each, each time with half
    as many micro-batches a device; and those of the spec."""
    micro_batches, own = experiment.pretraining.micro_batches, experiment.cluster.devices
    least = min(experiment.cluster.devices_per_node, micro_batches) if micro_batches > 16 else 1
    counts = {devices_for(experiment, 1 << power) for power in range(micro_batches.bit_length())}
    return sorted({count for count in counts if count >= least} | {own})


def divisions(experiment: Experiment, ranks: int) -> Iterator[Parallelism]:
    """ZeRO-2; a mix, with the fewest re-gathered blocks that fit where ZeRO-2 does not, else half of them; ZeRO-3."""
    given = experiment.pretraining.parallelism
    yield given.model_copy(update={"sharding": "zero2", "resharded_blocks": 0})
    half = experiment.architecture.n_layers // 2
    alone = with_training(experiment, parallelism=given.model_copy(update={"sharding": "zero2"}))
    blocks = half if fits(alone, ranks) else fewest_resharded(experiment, ranks) or half
    yield given.model_copy(update={"sharding": "mixed", "resharded_blocks": blocks})
    yield given.model_copy(update={"sharding": "zero3", "resharded_blocks": 0})


def traffic(experiment: Experiment, ranks: int) -> tuple[float, float]:
    """Bytes that one rank receives in a step: all, and those that come from other nodes over its own adapter.

    Parameters are gathered once a step (re-gathered blocks twice a micro-batch); nodes share what their adapters fetch.
    Gradients of every micro-batch go all-to-all, order-fixed: each rank receives its piece from every other rank.
    """
    training, count = experiment.pretraining, parameters(experiment.architecture, experiment.tokenizer.vocab_size).total
    layers, in_node = experiment.architecture.n_layers, min(experiment.cluster.devices_per_node, ranks)
    micro_batches = sub_steps(training, ranks)
    blocks = {"zero2": 0, "zero3": layers, "mixed": training.parallelism.resharded_blocks}
    share = blocks[training.parallelism.sharding] / layers
    vocabulary = experiment.tokenizer.vocab_size * experiment.architecture.d_model
    root = vocabulary * (1 if experiment.architecture.tie_embeddings else 2)
    again = (count - root) * share
    gathered = BYTES[training.precision.compute] * (count - again + 2 * micro_batches * again)
    reduced = float(BYTES[training.precision.wire] * count * micro_batches)
    nodes = max(ranks // in_node, 1)
    outside = (gathered / in_node + reduced) * (nodes - 1) / nodes
    return (gathered + reduced) * (ranks - 1) / ranks, outside


def _moving(offered: Device, received: float, outside: float) -> float:
    if offered.link is None or offered.network is None:
        return 0.0
    return max((received - outside) / offered.link, outside / offered.network)


def topology_note(option: Plan) -> str:
    """What level `topology` adds to the memory of a plan, in words."""
    extra, beside = option.memory.peak - option.stock.peak, option.memory.beside
    parts = ([f"{gib(extra)} at the peak"] if extra > 0 else []) + ([f"{gib(beside)} beside it"] if beside > 0 else [])
    return f"level topology adds {' and '.join(parts) or 'nothing'}: gradients in pieces, and their partial sums"


def fits_nowhere(options: Sequence[Plan]) -> list[int]:
    """Numbers of devices at which no division fits."""
    counts = dict.fromkeys(option.devices for option in options)
    return [count for count in counts if not any(option.fits for option in options if option.devices == count)]
