"""How fast a device trains: as measured here, else as the nearest published run."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from specs.common.run_folder import ENVIRONMENT, THROUGHPUT
from specs.estimates.counts import flops_per_sequence, parameters
from specs.estimates.devices import DEVICES, Device, nearest_published
from specs.loading.settings import load_settings
from specs.schema.experiment import Experiment


@dataclass(frozen=True)
class Efficiency:
    """Tokens a second of one device, and where the figure comes from."""

    tokens_per_second: float | None
    utilisation: float | None
    """Model operations over peak; none where no peak is known."""
    source: str


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
