"""What it costs to run stages again: from what they took here before, scaled to the new size, else from a plan."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from specs.estimates.counts import flops_per_sequence, pretraining_steps, sequences_per_step
from specs.estimates.devices import DEVICES
from specs.estimates.plan import Plan, plan
from specs.loading.settings import load_settings
from specs.pipeline.dvc_graph import Rerun
from specs.schema.data import Corpus
from specs.schema.experiment import Experiment

TRAINING = ("pretrain", "finetune")
_CORPUS = ("fetch", "ingest", "filter", "dedup", "decontaminate", "augment", "card", "pack")


@dataclass(frozen=True)
class Price:
    """What one stage takes: seconds of wall time, hours of all devices, US dollars, kilowatt hours, bytes to download.

    None where it is not known: `how` then says why, else where the figures come from.
    """

    stage: str
    seconds: float | None
    device_hours: float | None
    money: float | None
    kilowatt_hours: float | None
    download: int | None
    how: str


def prices(old: Experiment, new: Experiment, stages: Rerun) -> tuple[list[Price], list[Price]]:
    """Prices of the stages that run again, checks aside, and of those that are reused, in the order of the pipeline."""
    teller = _Teller(old, new)
    again = [name for name in (*stages.changed, *stages.following) if name not in stages.checks]
    return [teller.price(name) for name in again], [teller.price(name) for name in stages.reused if "@" in name]


def total(prices: list[Price]) -> Price:
    """The sum of what is known; `how` names the stages of which nothing is."""
    unknown = [price.stage for price in prices if price.seconds is None]

    def add(values: Iterator[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) if known else None

    download = [price.download for price in prices if price.download is not None]
    return Price(
        "in all",
        add(price.seconds for price in prices),
        add(price.device_hours for price in prices),
        add(price.money for price in prices),
        add(price.kilowatt_hours for price in prices),
        sum(download) if download else None,
        f"besides {len(unknown)} stages of which nothing is known" if unknown else "",
    )


class _Teller:
    def __init__(self, old: Experiment, new: Experiment) -> None:
        self.old, self.new = old, new
        self.measured = load_settings().folder("measured")

    def price(self, name: str) -> Price:
        """The price of a stage by its name in the pipeline, such as `pretrain@smoke`."""
        stage, _, key = name.partition("@")
        download = self._download(stage, key)
        took = self._took(stage, key)
        if took is None and stage == "pretrain":
            planned = self._planned
            how = "as planned" if planned.seconds else "unknown: no speed of this device is known; run it once"
            energy = planned.kilowatt_hours
            return Price(name, planned.seconds, planned.device_hours, planned.money, energy, download, how)
        if took is None:
            return Price(name, None, None, None, None, download, "unknown: it never ran here")
        before, after = self._size(self.old, stage, key), self._size(self.new, stage, key)
        if not (before and after):
            how = "unknown: the size of what it reads is not stated" if stage != "report" else "as measured here"
            return Price(name, took if stage == "report" else None, None, None, None, download, how)
        seconds = took * after / before
        how = "as measured here" if after == before else f"measured here, scaled by {after / before:.3g}"
        if stage not in TRAINING:
            return Price(name, seconds, None, None, None, download, how)
        cluster, device = self.new.cluster, DEVICES[self.new.cluster.device]
        hours = seconds * cluster.devices / 3600
        money = hours * device.price if device.price else None
        energy = hours * device.power / 1000 if device.power else None
        return Price(name, seconds, hours, money, energy, download, how)

    @cached_property
    def _planned(self) -> Plan:
        return plan(self.new)

    def _took(self, stage: str, key: str) -> float | None:
        """Seconds that the stage took here last, under the new name of its node or the old one."""
        for name in dict.fromkeys((key, key.replace(self.new.name, self.old.name, 1))):
            folder = self.measured / f"{stage}@{name}"
            path = folder / "throughput.json" if stage in TRAINING else folder.with_name(f"{folder.name}.json")
            try:
                noted = json.loads(path.read_text("utf-8"))
                return float(noted["seconds"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return None

    def _size(self, experiment: Experiment, stage: str, key: str) -> float | None:
        """What the time of a stage is proportional to; none where that is not stated."""
        match stage:
            case "pretrain":
                per_sequence = flops_per_sequence(experiment.architecture, experiment.tokenizer.vocab_size)
                steps = pretraining_steps(experiment.pretraining, experiment.architecture)
                return float(per_sequence * steps * sequences_per_step(experiment.pretraining))
            case "finetune":
                per_sequence = flops_per_sequence(experiment.architecture, experiment.tokenizer.vocab_size)
                rows = _bytes(experiment.finetuning.corpus)
                return float(per_sequence * experiment.finetuning.epochs * rows) if rows else None
            case "tokenizer":
                return float(experiment.tokenizer.sample_bytes)
            case "complete" | "score":
                runs = {f"{experiment.name}-{run.key}": run for run in experiment.evaluation.benchmarks}
                run = runs.get(key) or runs.get(key.replace(self.new.name, self.old.name, 1))
                if run is None:
                    return None
                return float(run.samples * (run.max_new_tokens if stage == "complete" else 1))
            case "fetch-benchmark":
                return 1.0
            case _ if stage in _CORPUS:
                corpora = (experiment.corpus, experiment.finetuning.corpus)
                named = next((one for one in corpora if key == one.name or key.startswith(f"{one.name}-")), None)
                passes = sum(named.passes.values()) / len(named.passes) if named and stage == "pack" else 1.0
                size = _bytes(named) if named else None
                return size * passes if size else None
        return None

    def _download(self, stage: str, key: str) -> int | None:
        """Bytes that a fetch brings from the network: those of sources that the old experiment did not have."""
        if stage != "fetch":
            return None
        had = {source.sha256 for corpus in _corpora(self.old) for source in corpus.sources}
        wanted = [
            s for corpus in _corpora(self.new) if corpus.name == key for s in corpus.sources if s.sha256 not in had
        ]
        sizes = [source.size for source in wanted if source.size is not None]
        return sum(sizes) if len(sizes) == len(wanted) else None


def _corpora(experiment: Experiment) -> tuple[Corpus, Corpus]:
    return experiment.corpus, experiment.finetuning.corpus


def _bytes(corpus: Corpus) -> float | None:
    """Bytes of all sources of a corpus; none where one does not state its size."""
    sizes = [source.size for source in corpus.sources]
    return float(sum(size for size in sizes if size)) if all(sizes) else None
