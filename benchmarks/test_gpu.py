"""A 1B-class step at 8k context, attention backends, reductions and checkpoints on a GPU; skipped where there is none.

What counts is the wall clock around work that was waited for. The limit is a matrix product of this device in the same
process, or its memory.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.measuring import roofline
from benchmarks.measuring.cost import Cost
from benchmarks.measuring.measure import CLOCK, measure
from benchmarks.workloads.inputs import Inputs
from benchmarks.workloads.sizes import ONE_BILLION
from benchmarks.workloads.training_run import first_step, save, training_run
from benchmarks.workloads.workloads import MB, Work, packed
from model.decoder.attention import backend_for, lower
from runner.training.reduction import Fold
from runner.training.run import Run
from specs.common.errors import UserError
from specs.loading.load import load_experiment
from specs.loading.settings import ROOT
from specs.schema import training as sections

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.benchmark(timer=CLOCK),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def wall(cost: Cost) -> float:
    return cost.wall


def waited(run: Callable[[], object]) -> Callable[[], None]:
    """The same, until the device has done it."""

    def whole() -> None:
        run()
        torch.cuda.synchronize()

    return whole


def seconds(run: Callable[[], object], times: int = 10) -> float:
    """Seconds on the device of one of many runs in a row."""
    run()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    for _ in range(times):
        run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000 / times


def products(flops: float, side: int = 8_192) -> float:
    """Seconds for so many operations in large bf16 matrix products."""
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return seconds(lambda: a @ b) * flops / (2 * side**3)


def moving(size: float) -> float:
    """Seconds to read and write so many bytes of the device's memory in all."""
    data = torch.empty(2**28, device="cuda", dtype=torch.float32)
    return seconds(lambda: data.mul_(1.0)) * size / (2 * 4 * 2**28)


@pytest.fixture(scope="module")
def run(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("run")
    phase = load_experiment(ROOT / "specs" / "experiments" / "smoke.yaml").pretraining
    phase = phase.model_copy(update={"micro_batches": 2, "micro_batch_size": 1, "loss_chunk": 4_096})
    store = packed(inputs, folder, ONE_BILLION.context_length, 12 * MB)
    with training_run(ONE_BILLION, phase, store, folder, device=torch.device("cuda", 0)) as rig:
        yield rig


def test_step(benchmark: BenchmarkFixture, run: Run) -> None:
    micro_batches = run.loader.micro_batches(0, 0, 1)
    work = Work(waited(lambda: first_step(run, micro_batches)), run.telemetry.tokens_per_step, "tokens")
    flops = run.telemetry.flops_per_step
    measure(benchmark, work, lambda: products(flops), "bf16 matrix products", by=wall)
    benchmark.extra_info["peak_device_memory"] = torch.cuda.max_memory_allocated()


@pytest.mark.parametrize("backend", ["sdpa", "varlen", "flash"])
@pytest.mark.parametrize("window", [None, 1_024])
def test_attention(benchmark: BenchmarkFixture, backend: str, window: int | None) -> None:
    """Forward and backward of one layer, 8k positions, one document."""
    pattern = "full" if window is None else "sliding"
    section = sections.Attention.model_validate({"pattern": pattern, "window": window, "backend": backend})
    try:
        backend_for(section, "cuda", torch.bfloat16)
    except UserError as error:
        pytest.skip(str(error))
    heads, length, width = 16, 8_192, 128
    positions = torch.arange(length, device="cuda")[None]
    attend = lower(backend, [window], positions, None, None)[window]
    q, k, v = (
        torch.randn(1, heads, length, width, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3)
    )
    seen = length * (length + 1) / 2 if window is None else window * length - window * (window - 1) / 2
    # Two products forward and five backward, of which the backward recomputes one: counted as 2 and 4.
    flops = 6 * 2 * heads * width * seen
    work = Work(waited(lambda: attend(q, k, v).sum().backward()), length, "tokens")  # type: ignore[no-untyped-call]
    measure(benchmark, work, lambda: products(flops), "bf16 matrix products", by=wall)


def test_fold(benchmark: BenchmarkFixture) -> None:
    """Gradients of eight micro-batches into one, in the fixed tree: seven additions of two reads and one write."""
    size = 2**26

    def fold() -> None:
        tree = Fold()
        for _ in range(8):
            tree.add([torch.ones(size, device="cuda")])
        tree.total()

    moved = (7 * 3 + 8) * 4 * size
    work = Work(waited(fold), moved / 1e9, "GB")
    measure(benchmark, work, lambda: moving(moved), "device memory", by=wall)


def test_checkpoint(benchmark: BenchmarkFixture, run: Run, tmp_path: Path) -> None:
    size = sum(3 * 4 * shard.values.numel() for shard in run.model.shards)
    work = Work(lambda: save(run), size / MB, "MB")
    least = lambda: roofline.writing(size, tmp_path)  # noqa: E731
    measure(benchmark, work, least, "writing, flushing and hashing the bytes", rounds=3, by=wall)
