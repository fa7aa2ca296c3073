import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from specs.common.errors import UserError
from specs.estimates.devices import DEVICES, device
from specs.loading.load import load_experiment
from specs.loading.settings import ROOT
from specs.pipeline.nodes import resolve
from specs.review.claims import audit, unexplained
from specs.review.lints import lint
from specs.schema.experiment import Experiment


@pytest.fixture(scope="module")
def code_34b() -> Experiment:
    return load_experiment(ROOT / "specs" / "experiments" / "code-34b.yaml")


def changed(experiment: Experiment, section: str, **values: Any) -> Experiment:
    return experiment.model_copy(update={section: getattr(experiment, section).model_copy(update=values)})


def missed(experiment: Experiment) -> dict[str, Any]:
    return {verdict.name: verdict for verdict in audit(experiment) if verdict.met is False}


def test_every_number_of_the_publication_is_met(code_34b: Experiment) -> None:
    verdicts = {verdict.name: verdict for verdict in audit(code_34b)}
    published = {
        "parameters": 34e9,
        "d_model": 5120,
        "n_layers": 48,
        "n_heads": 40,
        "context_length": 8192,
        "warmup_steps": 2000,
        "peak_lr": 2e-5,
        "final_lr_fraction": 0.1,
        "clip_norm": 1.0,
        "batch_tokens": 2e6,
        "training_tokens": 700e9,
        "vocab_size": 64_000,
        "sharding": "zero2",
        "fits_on": "A100-80GB",
        "pass_at": "1, 10",
        "year": "2022",
    }
    assert {name: verdict.claimed for name, verdict in verdicts.items()} == published
    assert {verdict.status for verdict in verdicts.values()} == {"met"}


def test_a_spec_without_claims_has_every_number_unstated(smoke: Experiment) -> None:
    assert {verdict.status for verdict in audit(smoke)} == {"unstated"}
    assert all(verdict.how for verdict in audit(smoke))


def test_the_usual_feed_forward_is_missed_by_the_right_amount_and_38_400_named(code_34b: Experiment) -> None:
    found = missed(changed(code_34b, "architecture", d_ff=20_480))
    assert list(found) == ["parameters"]
    verdict = found["parameters"]
    assert verdict.implied - 34_000_573_440 == -48 * 3 * 5120 * (38_400 - 20_480)
    assert verdict.distance == pytest.approx(20_788_515_840 / 34e9 - 1)
    first = verdict.remedies[0]
    assert (first.field, first.value) == ("architecture.d_ff", 38_400)


@pytest.mark.parametrize(
    ("section", "values", "name"),
    [
        ("architecture", {"d_ff": 20_480}, "parameters"),
        ("architecture", {"d_ff": 10_240}, "parameters"),
        ("pretraining", {"micro_batch_size": 3}, "batch_tokens"),
        ("pretraining", {"tokens": 600_000_000_000}, "training_tokens"),
        ("pretraining", {"clip_norm": 2.0}, "clip_norm"),
        ("tokenizer", {"vocab_size": 50_000}, "vocab_size"),
    ],
)
def test_what_is_said_to_meet_a_claim_meets_it(
    code_34b: Experiment, section: str, values: dict[str, Any], name: str
) -> None:
    wrong = changed(code_34b, section, **values)
    remedies = missed(wrong)[name].remedies
    assert remedies
    for remedy in remedies:
        part, field = remedy.field.split(".")
        for value in {remedy.value, remedy.low or remedy.value, remedy.high or remedy.value}:
            assert name not in missed(changed(wrong, part, **{field: value})), (remedy, value)
        if remedy.low is not None and remedy.low > 1:
            assert name in missed(changed(wrong, part, **{field: remedy.low - 1}))
            assert name in missed(changed(wrong, part, **{field: remedy.high + 1}))


def test_what_does_not_fit_says_what_would(code_34b: Experiment) -> None:
    wrong = changed(code_34b, "cluster", devices=64)
    fields = {remedy.field: remedy.value for remedy in missed(wrong)["fits_on"].remedies}
    assert fields["cluster.devices"] == 256
    resharded = int(fields["pretraining.parallelism.resharded_blocks"])
    for blocks, name in ((resharded, False), (resharded - 1, True)):
        parallelism = wrong.pretraining.parallelism.model_copy(update={"sharding": "mixed", "resharded_blocks": blocks})
        assert ("fits_on" in missed(changed(wrong, "pretraining", parallelism=parallelism))) == name


def test_a_publication_older_than_its_device_is_missed(code_34b: Experiment) -> None:
    assert "year" in missed(changed(code_34b, "source", year=2019))


def test_a_field_that_nobody_explains_is_named(code_34b: Experiment) -> None:
    without = code_34b.model_copy(
        update={"assumptions": {k: v for k, v in code_34b.assumptions.items() if k != "architecture.d_ff"}}
    )
    assert "architecture.d_ff" in unexplained(without)
    assert "architecture.d_ff" not in unexplained(code_34b)


LINTS: list[tuple[str, dict[str, Any], str, str]] = [
    ("tokenizer", {"vocab_size": 64_001}, "tokenizer.vocab_size", "64,000"),
    ("architecture", {"n_heads": 64}, "architecture.n_heads", "head size 80"),
    ("architecture", {"d_ff": 38_401}, "architecture.d_ff", "multiple of 64"),
    ("pretraining", {"tokens": 100_000_000_000}, "pretraining.tokens", "tokens for each parameter"),
    ("pretraining", {"loss_chunk": 3000}, "pretraining.loss_chunk", "does not divide"),
    ("cluster", {"devices": 12, "devices_per_node": 6}, "cluster.devices_per_node", "power of two"),
    ("cluster", {"devices": 200}, "pretraining.micro_batches", "and so do 128"),
]


@pytest.mark.parametrize(("section", "values", "path", "words"), LINTS, ids=[each[2] for each in LINTS])
def test_unusual_values_are_remarked_on_with_a_source(
    code_34b: Experiment, section: str, values: dict[str, Any], path: str, words: str
) -> None:
    assert path not in {each.path for each in lint(code_34b)}
    found = [each for each in lint(changed(code_34b, section, **values)) if each.path == path]
    assert words in found[0].message
    assert found[0].source


def test_the_published_learning_rate_and_batch_are_remarked_on(code_34b: Experiment) -> None:
    found = {each.path: each.message for each in lint(code_34b)}
    assert set(found) == {"pretraining.optimizer.lr", "claims.batch_tokens"}
    assert "244.14" in found["claims.batch_tokens"]


def test_warm_up_and_benchmarks_in_the_corpus_are_remarked_on(
    smoke: Experiment, edited: Callable[[str, Any], Experiment], code_34b: Experiment
) -> None:
    schedule = code_34b.pretraining.schedule.model_copy(update={"warmup_steps": 100_000})
    assert "pretraining.schedule.warmup_steps" in {
        each.path for each in lint(changed(code_34b, "pretraining", schedule=schedule))
    }
    mbpp = next(run.benchmark for run in code_34b.evaluation.benchmarks if run.benchmark.name == "mbpp")
    first = code_34b.corpus.sources[0]
    for update in ({"locator": mbpp.source.locator}, {"sha256": mbpp.source.sha256}):
        sources = (first.model_copy(update=update), *code_34b.corpus.sources[1:])
        messages = [each.message for each in lint(changed(code_34b, "corpus", sources=sources))]
        assert any("looks like benchmark 'mbpp'" in message for message in messages)
    assert "corpus.decontaminate.ngram_words" in {
        each.path for each in lint(edited("corpus.decontaminate.ngram_words", 20))
    }


def test_devices_have_sources_and_unknown_ones_are_errors() -> None:
    for name, each in DEVICES.items():
        assert each.name == name
        assert each.sources
        assert (each.peak is None) == (name == "cpu")
    with pytest.raises(UserError, match=re.escape("nothing is known of device 'V100'; there are: A100-40GB")):
        device("V100")


def test_learning_rates_that_no_run_uses_are_remarked_on(code_34b: Experiment) -> None:
    for rate, remarked in ((1e-9, True), (2e-5, False), (3e-2, False), (0.5, True)):
        optimizer = code_34b.pretraining.optimizer.model_copy(update={"lr": rate})
        remarks = [one for one in lint(changed(code_34b, "pretraining", optimizer=optimizer)) if "AdamW" in one.message]
        assert bool(remarks) == remarked, rate


def test_a_warm_up_beyond_the_end_is_remarked_on(code_34b: Experiment) -> None:
    schedule = code_34b.pretraining.schedule.model_copy(update={"warmup_steps": 400_000})
    (remark,) = [one for one in lint(changed(code_34b, "pretraining", schedule=schedule)) if "warmup" in one.path]
    assert "the peak is never reached" in remark.message


def test_equal_samples_are_remarked_on(code_34b: Experiment) -> None:
    runs = code_34b.evaluation.benchmarks
    greedy = tuple(run.model_copy(update={"temperature": 0.0}) for run in runs)
    remarks = [
        one for one in lint(changed(code_34b, "evaluation", benchmarks=greedy)) if "temperature 0" in one.message
    ]
    assert len(remarks) == len(runs)


def test_many_passes_over_a_store_are_remarked_on_once_it_is_packed(
    code_34b: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWICE_MEASURED", str(tmp_path))
    assert "pretraining.tokens" not in {one.path for one in lint(code_34b)}
    store = next(iter(resolve(code_34b)["token_stores"]))
    rows = 333_787 * 256
    for share, remarked in ((4, False), (5, True)):
        noted = {"rows": rows // share, "store_bytes": 10**9}
        (tmp_path / f"pack@{store}.json").write_text(json.dumps(noted), "utf-8")
        remarks = [one for one in lint(code_34b) if "packed here" in one.message]
        assert bool(remarks) == remarked


def test_a_pass_at_k_that_nobody_measures_is_missed(code_34b: Experiment) -> None:
    scored = {k for run in code_34b.evaluation.benchmarks for k in run.k}
    for claimed, met in (((min(scored),), True), ((min(scored), 999), False), ((999,), False), ((), None)):
        claims = code_34b.claims.model_copy(update={"pass_at": claimed})
        (verdict,) = [one for one in audit(code_34b.model_copy(update={"claims": claims})) if one.name == "pass_at"]
        assert verdict.met is met, claimed
