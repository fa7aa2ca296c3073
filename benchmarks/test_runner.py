"""The training step that `pretrain` runs, its data, and its checkpoints; one rank, one thread."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.measuring import roofline
from benchmarks.measuring.cost import cost
from benchmarks.measuring.measure import CLOCK, measure
from benchmarks.workloads.inputs import Inputs
from benchmarks.workloads.sizes import SEVENTEEN_MILLION
from benchmarks.workloads.training_run import first_step, save, training_run
from benchmarks.workloads.workloads import MB, Work, packed
from runner.training.run import Run
from specs.loading.load import load_experiment
from specs.loading.settings import ROOT
from specs.schema.training import Training

pytestmark = pytest.mark.benchmark(timer=CLOCK)

STEPS = 50


@pytest.fixture(scope="module")
def training() -> Training:
    smoke = load_experiment(ROOT / "specs" / "experiments" / "smoke.yaml").pretraining
    return smoke.model_copy(update={"micro_batches": 2, "micro_batch_size": 4})


@pytest.fixture(scope="module")
def run(inputs: Inputs, training: Training, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("run")
    store = packed(inputs, folder, SEVENTEEN_MILLION.context_length, 3 * MB)
    with training_run(SEVENTEEN_MILLION, training, store, folder) as phase:
        yield phase


def test_step(benchmark: BenchmarkFixture, run: Run) -> None:
    micro_batches = run.loader.micro_batches(0, 0, 1)
    flops = run.telemetry.flops_per_step
    work = Work(lambda: first_step(run, micro_batches), run.telemetry.tokens_per_step, "tokens")
    measure(benchmark, work, lambda: roofline.multiplying(flops, bf16=True), "matrix products", rounds=7)


def test_loader(benchmark: BenchmarkFixture, run: Run, tmp_path: Path) -> None:
    """What a step waits for its data, beside the same rows from memory; and its share of the step."""
    micro_batches = run.loader.micro_batches(0, 0, 1)
    whole = cost(lambda: first_step(run, micro_batches)).cpu
    store, at_a_time = run.loader.store, run.training.micro_batch_size
    flat = np.memmap(tmp_path / "flat", np.uint8, "w+", shape=(len(store), 5 * (store.manifest.context_length + 1)))
    rows = [run.loader.order.step(index, run.training.micro_batches, at_a_time) for index in range(STEPS)]
    work = Work(lambda: [run.loader.micro_batches(index, 0, 1) for index in range(STEPS)], STEPS, "steps")

    def read() -> None:
        for step_rows in rows:
            for micro_batch in step_rows:
                flat[micro_batch]

    measure(benchmark, work, lambda: roofline.best_of(read), "memmap without checksums")
    share = 1 / (benchmark.extra_info["rate"] * whole)
    benchmark.extra_info["share_of_step"] = share
    assert share < 0.005


def test_checkpoint_save(benchmark: BenchmarkFixture, run: Run, tmp_path: Path) -> None:
    size = sum(3 * 4 * shard.values.numel() for shard in run.model.shards)
    work = Work(lambda: save(run), size / MB, "MB")
    measure(benchmark, work, lambda: roofline.writing(size, tmp_path), "writing, flushing and hashing the bytes")


def test_checkpoint_load(benchmark: BenchmarkFixture, run: Run) -> None:
    save(run)
    (saved,) = (run.checkpoints.folder / "step-1").glob("*.safetensors")
    work = Work(run.checkpoints.load, saved.stat().st_size / MB, "MB")
    measure(benchmark, work, lambda: roofline.reading(saved), "reading and hashing the bytes")
