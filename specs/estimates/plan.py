"""What a run will need before it is run: memory, time, traffic, money, energy, over numbers of devices."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from specs.common.run_folder import ENVIRONMENT, THROUGHPUT
from specs.estimates.counts import flops_per_sequence, parameters, pretraining_steps, tokens_per_step
from specs.estimates.devices import DEVICES, Device, nearest_published
from specs.estimates.memory import BYTES, Breakdown, breakdown, gib
from specs.loading.settings import load_settings
from specs.schema.experiment import Experiment
from specs.schema.training import Parallelism

ENERGY_PRICE = 0.12
"""US dollars for a kilowatt hour: an assumption, near the industrial average of the US and of Korea in 2024."""


@dataclass(frozen=True)
class Efficiency:
    """Tokens a second of one device, and where the figure comes from."""

    tokens_per_second: float | None
    utilisation: float | None
    """Model operations over peak; none where no peak is known."""
    source: str


@dataclass(frozen=True)
class Plan:
    """One way to run the pretraining of an experiment. Sizes in bytes, times in seconds; none where unknown."""

    devices: int
    sharding: str
    resharded: int
    """Blocks that are gathered again in the backward pass, where the sharding is mixed."""
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
    computing = batch / (efficiency.tokens_per_second * ranks) if efficiency.tokens_per_second else None
    moving = _moving(offered, received, outside)
    step = max(computing, moving) if computing is not None else None
    return Plan(
        devices=ranks,
        sharding=experiment.pretraining.parallelism.sharding,
        resharded=experiment.pretraining.parallelism.resharded_blocks,
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
    """ZeRO-2, ZeRO-3 and a mix, over every power of two of devices from one node (or device) to all micro-batches."""
    found = []
    efficiency = expected_efficiency(experiment)
    for ranks in device_counts(experiment):
        for parallelism in divisions(experiment, ranks):
            found.append(plan(experiment, ranks, parallelism, price, efficiency))
    return found


def device_counts(experiment: Experiment) -> list[int]:
    """Powers of two of devices worth looking at: from a node (one device for small batches) to one micro-batch each."""
    first = experiment.cluster.devices_per_node if experiment.pretraining.micro_batches > 16 else 1
    first = min(1 << (first.bit_length() - 1), experiment.pretraining.micro_batches)
    counts = [first << power for power in range(experiment.pretraining.micro_batches.bit_length())]
    return [count for count in counts if count <= experiment.pretraining.micro_batches]


def divisions(experiment: Experiment, ranks: int) -> Iterator[Parallelism]:
    """ZeRO-2; a mix, with the fewest re-gathered blocks that fit where ZeRO-2 does not, else half of them; ZeRO-3."""
    given = experiment.pretraining.parallelism
    yield given.model_copy(update={"sharding": "zero2", "resharded_blocks": 0})
    half = experiment.architecture.n_layers // 2
    alone = with_training(experiment, parallelism=given.model_copy(update={"sharding": "zero2"}))
    blocks = half if _fits(alone, ranks) else fewest_resharded(experiment, ranks) or half
    yield given.model_copy(update={"sharding": "mixed", "resharded_blocks": blocks})
    yield given.model_copy(update={"sharding": "zero3", "resharded_blocks": 0})


def fewest_resharded(experiment: Experiment, ranks: int) -> int | None:
    """The fewest blocks to gather again in the backward pass so that the peak fits; none where no number does."""
    for blocks in range(1, experiment.architecture.n_layers + 1):
        parallelism = experiment.pretraining.parallelism.model_copy(
            update={"sharding": "mixed", "resharded_blocks": blocks}
        )
        if _fits(with_training(experiment, parallelism=parallelism), ranks):
            return blocks
    return None


def smallest_change(experiment: Experiment) -> list[tuple[str, int | str, str]]:
    """Single changes that make the pretraining fit on the published device (else the cluster's), cheapest first.

    Each as field, value and what it costs.
    """
    training, ranks = experiment.pretraining, experiment.cluster.devices
    found: list[tuple[str, int | str, str]] = []
    chunk = training.loss_chunk // 2
    while chunk >= 128:
        if _fits(with_training(experiment, loss_chunk=chunk), ranks):
            found.append(("pretraining.loss_chunk", chunk, "costs little: more, smaller products"))
            break
        chunk //= 2
    for recompute, cost in (("selective", "repeats cheap operations"), ("full", "a third more operations")):
        changed = training.parallelism.model_copy(update={"recompute": recompute})
        stronger = recompute != training.parallelism.recompute and training.parallelism.recompute != "full"
        if stronger and _fits(with_training(experiment, parallelism=changed), ranks):
            found.append(("pretraining.parallelism.recompute", recompute, cost))
            break
    if training.parallelism.sharding != "zero3" and (blocks := fewest_resharded(experiment, ranks)):
        cost = f"with sharding: mixed; {blocks} of {experiment.architecture.n_layers} blocks are gathered twice"
        found.append(("pretraining.parallelism.resharded_blocks", blocks, cost))
    devices = ranks * 2
    while devices <= training.micro_batches:
        if _fits(experiment, devices):
            found.append(("cluster.devices", devices, "the same device-hours in less time"))
            break
        devices *= 2
    half = training.micro_batch_size // 2
    if half and _fits(
        with_training(experiment, micro_batch_size=half, micro_batches=training.micro_batches * 2), ranks
    ):
        found.append(
            ("pretraining.micro_batch_size", half, f"with micro_batches: {training.micro_batches * 2}; other bits")
        )
    return found


def with_training(experiment: Experiment, **changed: object) -> Experiment:
    """The experiment with other values in its pretraining section."""
    return experiment.model_copy(update={"pretraining": experiment.pretraining.model_copy(update=changed)})


def _fits(experiment: Experiment, ranks: int) -> bool:
    usable = DEVICES[experiment.claims.fits_on or experiment.cluster.device].usable
    return usable is None or breakdown(experiment, ranks).needed <= usable


def expected_efficiency(experiment: Experiment, measured: Path | None = None) -> Efficiency:
    """Tokens a second of one device: from a measured run of this experiment, else from the nearest published one."""
    folder = measured or load_settings().folder("measured")
    offered = DEVICES[experiment.cluster.device]
    per_sequence = flops_per_sequence(experiment.architecture, experiment.tokenizer.vocab_size)
    per_token = per_sequence / experiment.architecture.context_length
    if (found := _measured(folder / f"pretrain@{experiment.name}", offered, per_token)) is not None:
        rate, said = found
        return Efficiency(
            rate, rate * per_token / offered.peak if offered.peak else None, f"measured: {folder.name}/{said}"
        )
    count = parameters(experiment.architecture, experiment.tokenizer.vocab_size).total
    run = nearest_published(offered.name, count, experiment.architecture.context_length)
    if run is None or offered.peak is None or experiment.pretraining.precision.compute != "bf16":
        return Efficiency(
            None, None, f"unknown: no run on {offered.name} was measured here, and none is cited; run one"
        )
    borrowed = "" if run.device == offered.name else f", of {run.device}"
    return Efficiency(run.utilisation * offered.peak / per_token, run.utilisation, f"published{borrowed}: {run.source}")


def _measured(folder: Path, offered: Device, per_token: float) -> tuple[float, str] | None:
    """Tokens a second of one rank, and in what run; none where no run was measured on such a device.

    per_token: operations for a token of the spec. Where the run had others, its operations a second are kept, not its
    tokens.
    """
    try:
        throughput = json.loads((folder / THROUGHPUT).read_text("utf-8"))
        environment = json.loads((folder / ENVIRONMENT).read_text("utf-8"))
        rate, ranks = float(throughput["tokens_per_second"]), int(environment["ranks"])
        had = float(throughput["flops_per_token"])
        names = [str(name) for name in environment["devices"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    part = offered.name.split("-")[0]
    same = not names if offered.name == "cpu" else any(part in name for name in names)
    if not (same and rate > 0 and ranks > 0 and had > 0):
        return None
    another = "" if math.isclose(had, per_token) else f", scaled from {had:.4g} operations for a token"
    return rate / ranks * had / per_token, f"{folder.name}, {ranks} ranks on this machine{another}"


def traffic(experiment: Experiment, ranks: int) -> tuple[float, float]:
    """Bytes that one rank receives in a step: all, and those that come from other nodes over its own adapter.

    Parameters are gathered once a step (re-gathered blocks twice a micro-batch); nodes share what their adapters fetch.
    Gradients of every micro-batch go all-to-all, order-fixed: each rank receives its piece from every other rank.
    """
    training, count = experiment.pretraining, parameters(experiment.architecture, experiment.tokenizer.vocab_size).total
    layers, in_node = experiment.architecture.n_layers, min(experiment.cluster.devices_per_node, ranks)
    micro_batches = training.micro_batches // ranks
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


def topology_note(each: Plan) -> str:
    """What level `topology` adds to the memory of a plan, in words."""
    extra, beside = each.memory.peak - each.stock.peak, each.memory.beside
    parts = ([f"{gib(extra)} at the peak"] if extra > 0 else []) + ([f"{gib(beside)} beside it"] if beside > 0 else [])
    return f"level topology adds {' and '.join(parts) or 'nothing'}: gradients in pieces, and their partial sums"


def fits_nowhere(found: Sequence[Plan]) -> list[int]:
    """Numbers of devices at which no division fits."""
    counts = dict.fromkeys(each.devices for each in found)
    return [count for count in counts if not any(each.fits for each in found if each.devices == count)]
