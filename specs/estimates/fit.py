"""What would make a pretraining fit on its devices: single changes, found by the formulas of memory."""

from specs.estimates.counts import sub_steps
from specs.estimates.devices import DEVICES
from specs.estimates.memory import breakdown
from specs.schema.experiment import Experiment


def fewest_resharded(experiment: Experiment, ranks: int) -> int | None:
    """The fewest blocks to gather again in the backward pass so that the peak fits; none where no number does."""
    for blocks in range(1, experiment.architecture.n_layers + 1):
        parallelism = experiment.pretraining.parallelism.model_copy(
            update={"sharding": "mixed", "resharded_blocks": blocks}
        )
        if fits(with_training(experiment, parallelism=parallelism), ranks):
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
        if fits(with_training(experiment, loss_chunk=chunk), ranks):
            found.append(("pretraining.loss_chunk", chunk, "costs little: more, smaller products"))
            break
        chunk //= 2
    for recompute, cost in (("selective", "repeats cheap operations"), ("full", "a third more operations")):
        changed = training.parallelism.model_copy(update={"recompute": recompute})
        stronger = recompute != training.parallelism.recompute and training.parallelism.recompute != "full"
        if stronger and fits(with_training(experiment, parallelism=changed), ranks):
            found.append(("pretraining.parallelism.recompute", recompute, cost))
            break
    if training.parallelism.sharding != "zero3" and (blocks := fewest_resharded(experiment, ranks)):
        cost = f"with sharding: mixed; {blocks} of {experiment.architecture.n_layers} blocks are gathered twice"
        found.append(("pretraining.parallelism.resharded_blocks", blocks, cost))
    for number in range(sub_steps(training, ranks) - 1, 0, -1):
        devices = devices_for(experiment, number)
        if fits(experiment, devices):
            found.append(("cluster.devices", devices, f"{number} micro-batches on a device, in less time"))
            break
    half = training.micro_batch_size // 2
    if half and fits(with_training(experiment, micro_batch_size=half, micro_batches=training.micro_batches * 2), ranks):
        found.append(
            ("pretraining.micro_batch_size", half, f"with micro_batches: {training.micro_batches * 2}; other bits")
        )
    return found


def devices_for(experiment: Experiment, number: int) -> int:
    """The fewest devices on which a step takes so many sub-steps: whole nodes, where that is more than one."""
    micro_batches, of_node = experiment.pretraining.micro_batches, experiment.cluster.devices_per_node
    devices = -(-micro_batches // number)
    return devices if devices <= of_node else min(-(-devices // of_node) * of_node, micro_batches)


def with_training(experiment: Experiment, **changed: object) -> Experiment:
    """The experiment with other values in its pretraining section."""
    return experiment.model_copy(update={"pretraining": experiment.pretraining.model_copy(update=changed)})


def fits(experiment: Experiment, ranks: int) -> bool:
    """Whether the pretraining fits on so many of the published devices (else the cluster's)."""
    usable = DEVICES[experiment.claims.fits_on or experiment.cluster.device].usable
    return usable is None or breakdown(experiment, ranks).needed <= usable
