import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from runner.cli import main
from specs.estimates.counts import flops_per_sequence, sub_steps
from specs.estimates.efficiency import expected_efficiency
from specs.estimates.fit import devices_for
from specs.estimates.plan import device_counts, plan, plans, traffic
from specs.loading.load import load_experiment
from specs.loading.settings import ROOT
from specs.schema.experiment import Experiment

SPECS = ROOT / "specs" / "experiments"
EXPERIMENTS = sorted(SPECS.glob("*.yaml"))


def twice(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def code_34b() -> Experiment:
    return load_experiment(SPECS / "code-34b.yaml")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_shipped_spec_has_a_plan(path: Path) -> None:
    code, output = twice("plan", str(path), "--format", "json")
    found = json.loads(output)
    assert code == 0
    assert found["plan"]["fits"]
    assert sum(found["plan"]["components"].values()) == pytest.approx(found["plan"]["peak_bytes"])
    shardings = {each["sharding"].split(",")[0] for each in found["alternatives"]}
    assert shardings == {"zero2", "zero3", "mixed"}
    assert found["device"]["sources"]
    assert found["efficiency"]["source"]


def test_64_devices_do_not_fit_and_what_would_is_said() -> None:
    code, output = twice("plan", str(SPECS / "code-34b.yaml"), "--devices", "64")
    assert code == 1
    for words in ("does not fit", "What would make it fit", "cluster.devices: 256", "level topology adds"):
        assert words in output


def test_devices_without_work_are_told_and_better_numbers_named(code_34b: Experiment) -> None:
    _, output = twice("plan", str(SPECS / "code-34b.yaml"), "--devices", "200", "--format", "json")
    plain = json.loads(output)["plan"]
    assert plain["micro_batches_of_a_device"] == 2 and plain["idle_share"] == pytest.approx(1 - 256 / 400)
    assert (
        "128 devices are as fast; 256 compute a step in 50% of the time"
        in twice("plan", str(SPECS / "code-34b.yaml"), "--devices", "200")[1]
    )
    assert "without work" not in twice("plan", str(SPECS / "code-34b.yaml"))[1]


@given(micro_batches=st.integers(1, 300), devices=st.integers(1, 300), of_node=st.sampled_from([1, 8]))
def test_numbers_of_devices_are_the_fewest_for_their_sub_steps(
    micro_batches: int, devices: int, of_node: int, code_34b: Experiment
) -> None:
    devices = min(devices, micro_batches)
    phase = code_34b.pretraining.model_copy(update={"micro_batches": micro_batches})
    cluster = code_34b.cluster.model_copy(update={"devices": devices, "devices_per_node": of_node})
    experiment = code_34b.model_copy(update={"pretraining": phase, "cluster": cluster})
    number = sub_steps(phase, devices)
    fewest = devices_for(experiment, number)
    assert 1 <= fewest <= micro_batches and sub_steps(phase, fewest) <= number
    assert of_node > 1 or fewest == 1 or sub_steps(phase, fewest - 1) > number
    for count in device_counts(experiment):
        assert 1 <= count <= micro_batches


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "V100"], "nothing is known of device 'V100'"),
        (["--devices", "257"], "257 devices for 256 micro-batches: give 1 to 256"),
        (["--devices", "12"], "12 devices do not fill nodes of 8: give a multiple of 8"),
        (["--picture", "x.png"], "write a picture as .svg or .html"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str) -> None:
    code, output = twice("plan", str(SPECS / "code-34b.yaml"), *arguments)
    assert code == 2
    assert message in output
    assert output.count("\n") == 1


def test_more_devices_never_need_more_memory_and_more_sharding_neither(code_34b: Experiment) -> None:
    found = plans(code_34b)
    by_kind = {kind: [each for each in found if each.sharding == kind] for kind in ("zero2", "zero3")}
    for chosen in by_kind.values():
        peaks = [each.memory.peak for each in chosen]
        assert peaks == sorted(peaks, reverse=True)
    for two, three in zip(*by_kind.values(), strict=True):
        assert three.memory.peak < two.memory.peak
        assert three.traffic > two.traffic
    assert device_counts(code_34b)[-1] == code_34b.pretraining.micro_batches


def test_time_and_money_follow_from_the_cited_efficiency(code_34b: Experiment) -> None:
    efficiency = expected_efficiency(code_34b)
    assert efficiency.source.startswith("published")
    found = plan(code_34b, price=2.0)
    assert found.tokens_per_second == pytest.approx(256 * (efficiency.tokens_per_second or 0))
    assert found.device_hours == pytest.approx(256 * (found.seconds or 0) / 3600)
    assert found.money == pytest.approx(2.0 * (found.device_hours or 0))


def test_a_measured_run_goes_before_a_published_one(code_34b: Experiment, tmp_path: Path) -> None:
    folder = tmp_path / "measured" / "pretrain@code-34b"
    folder.mkdir(parents=True)
    per_token = flops_per_sequence(code_34b.architecture, 64_000) / 8192
    for had, rate, scaled in ((per_token, 200.0, False), (per_token / 2, 100.0, True)):
        noted = {"tokens_per_second": 51_200.0, "flops_per_token": had}
        (folder / "throughput.json").write_text(json.dumps(noted), "utf-8")
        for name, measured in (("NVIDIA A100-SXM4-80GB", True), ("NVIDIA H100 80GB HBM3", False)):
            (folder / "environment.json").write_text(
                json.dumps({"ranks": 256, "devices": [name] * 8}), encoding="utf-8"
            )
            found = expected_efficiency(code_34b, tmp_path / "measured")
            assert found.source.startswith("measured") == measured
            assert (found.tokens_per_second == pytest.approx(rate)) == measured
            assert ("scaled" in found.source) == (measured and scaled)


def test_a_run_that_was_really_measured_is_planned_with(make_job: Any, compute: Any, tmp_path: Path) -> None:
    """From the files that training leaves to the plan: its seconds are those of the run."""
    outcome = compute(make_job({"steps": 2}), ranks=2)
    assert set(outcome.codes) == {0}, outcome.log
    smoke = load_experiment(SPECS / "smoke.yaml")
    (tmp_path / "pretrain@smoke").symlink_to(outcome.job.parent / "measured")
    summary = json.loads((tmp_path / "pretrain@smoke" / "throughput.json").read_text("utf-8"))
    found = expected_efficiency(smoke, tmp_path)
    assert "2 ranks on this machine, scaled" in found.source
    per_token = flops_per_sequence(smoke.architecture, smoke.tokenizer.vocab_size) / smoke.architecture.context_length
    done = summary["tokens_per_second"] * summary["flops_per_token"]
    assert (found.tokens_per_second or 0) * 2 * per_token == pytest.approx(done)


def test_an_unknown_speed_stays_unknown(smoke_plan: Any) -> None:
    assert smoke_plan.step_seconds is None
    assert smoke_plan.money is None
    assert "unknown" in twice("plan", str(SPECS / "smoke.yaml"))[1]


@pytest.fixture
def smoke_plan() -> Any:
    return plan(load_experiment(SPECS / "smoke.yaml"))


def test_traffic_of_one_device_is_none_and_gradients_go_once_a_micro_batch(code_34b: Experiment) -> None:
    assert traffic(code_34b, 1)[0] == 0
    total, outside = traffic(code_34b, 256)
    count = 34_000_573_440
    assert total == pytest.approx((2 * count + 2 * count) * 255 / 256)
    assert outside < total


@pytest.mark.parametrize("ending", [".svg", ".html"])
def test_the_picture_is_whole_and_loads_nothing(tmp_path: Path, ending: str) -> None:
    target = tmp_path / f"plan{ending}"
    twice("plan", str(SPECS / "code-34b.yaml"), "--picture", str(target))
    text = target.read_text("utf-8")
    svg = text[text.index("<svg") : text.index("</svg>") + 6]
    root = ElementTree.fromstring(svg)
    words = {"".join(element.itertext()).strip() for element in root.findall(".//{*}text")}
    assert {"zero2", "mixed", "zero3", "79.0 GiB usable"} <= words
    assert not any(reference in text for reference in ('href="http', "src=", "url(http", "@import"))
    first = target.read_bytes()
    twice("plan", str(SPECS / "code-34b.yaml"), "--picture", str(target))
    assert target.read_bytes() == first
