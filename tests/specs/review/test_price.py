import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from specs.estimates.plan import plan
from specs.loading.load import load_experiment
from specs.loading.settings import ROOT
from specs.pipeline.dvc_graph import Rerun, expand, lock_of, reruns
from specs.review.price import Price, prices, total
from specs.schema.experiment import Experiment

PIPELINE = (ROOT / "dvc.yaml").read_text("utf-8")


@pytest.fixture(autouse=True)
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of measurements, empty."""
    monkeypatch.setenv("TWICE_MEASURED", str(tmp_path))
    return tmp_path


def again(old: Experiment, new: Experiment) -> Rerun:
    return reruns(expand(PIPELINE, lock_of(old)), expand(PIPELINE, lock_of(new)))


def priced(old: Experiment, new: Experiment) -> dict[str, Price]:
    return {price.stage: price for price in prices(old, new, again(old, new))[0]}


def note(folder: Path, name: str, seconds: float) -> None:
    path = folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"seconds": seconds}), "utf-8")


def test_another_learning_rate_of_the_34b_costs_what_the_plan_says() -> None:
    old = load_experiment(ROOT / "specs" / "experiments" / "code-34b.yaml")
    optimizer = old.pretraining.optimizer.model_copy(update={"lr": 9e-5})
    new = old.model_copy(update={"pretraining": old.pretraining.model_copy(update={"optimizer": optimizer})})
    price, planned = priced(old, new)["pretrain@code-34b"], plan(new)
    assert (price.seconds, price.device_hours, price.money) == (planned.seconds, planned.device_hours, planned.money)
    assert price.kilowatt_hours == planned.kilowatt_hours and price.how == "as planned"
    assert round(price.money or 0) == 1_004_571


def test_a_stage_costs_what_it_took_here_scaled_to_its_new_size(
    smoke: Experiment, edited: Callable[[str, Any], Experiment], measured: Path
) -> None:
    note(measured, "pretrain@smoke/throughput", 100.0)
    note(measured, "complete@smoke-basics", 60.0)
    twice = edited("pretraining.tokens", 3_000_000)
    price = priced(smoke, twice)["pretrain@smoke"]
    assert price.seconds == pytest.approx(200, rel=0.01) and "scaled by" in price.how
    assert price.device_hours == pytest.approx(2 * 200 / 3600, rel=0.01)
    runs = [run.key for run in smoke.evaluation.benchmarks]
    samples = edited(f"evaluation.benchmarks.{runs.index('basics')}.samples", 30)
    assert priced(smoke, samples)["complete@smoke-basics"].seconds == pytest.approx(180)
    assert priced(smoke, samples)["score@smoke-basics"].seconds is None


def test_the_size_of_every_stage_that_a_change_runs_again_is_known(
    smoke: Experiment, edited: Callable[[str, Any], Experiment], measured: Path
) -> None:
    """Control: a stage whose time nobody measured is told as unknown, with the reason, and costs nothing by mistake."""
    new = edited("corpus.filter.min_bytes", 33)
    names = priced(smoke, new)
    assert {price.how for price in names.values()} == {
        "unknown: it never ran here",
        "unknown: no speed of this device is known; run it once",
    }
    for name in names:
        note(measured, f"{name}/throughput" if name.startswith(("pretrain", "finetune")) else name, 10.0)
    known = priced(smoke, new)
    assert {name: price.seconds for name, price in known.items()} == dict.fromkeys(names, 10.0)
    assert total(list(known.values())).seconds == 10.0 * len(names)


def test_only_sources_that_are_new_are_downloaded(smoke: Experiment, edited: Callable[[str, Any], Experiment]) -> None:
    assert priced(smoke, edited("corpus.sources.0.limit", 7))["fetch@smoke-code"].download == 0
    changed = edited("corpus.sources.0.sha256", "ab" * 32)
    assert priced(smoke, changed)["fetch@smoke-code"].download == smoke.corpus.sources[0].size


def test_what_is_reused_is_told_too(
    smoke: Experiment, edited: Callable[[str, Any], Experiment], measured: Path
) -> None:
    note(measured, "filter@smoke-code", 12.0)
    new = edited("pretraining.tokens", 1_600_000)
    reused = prices(smoke, new, again(smoke, new))[1]
    assert total(reused).seconds == 12.0 and "nothing is known" in total(reused).how
