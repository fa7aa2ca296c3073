"""The decoder alone: forward, backward, and sampling from it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.measuring import roofline
from benchmarks.measuring.measure import CLOCK, measure
from benchmarks.workloads import workloads
from benchmarks.workloads.inputs import Inputs
from benchmarks.workloads.sizes import SEVENTEEN_MILLION
from benchmarks.workloads.workloads import Work
from model.decoder.init import initial_values
from model.decoder.transformer import Transformer
from specs.estimates.counts import flops_per_sequence
from specs.loading.load import load_experiment
from specs.loading.settings import ROOT

pytestmark = pytest.mark.benchmark(timer=CLOCK)

VOCABULARY, ROWS = 4_096, 4


@dataclass(frozen=True)
class MicroBatch:
    """A model and one micro-batch of random ids."""

    model: Transformer
    tokens: torch.Tensor

    def loss(self) -> torch.Tensor:
        """Summed over all positions."""
        every = torch.ones_like(self.tokens, dtype=torch.bool)
        return self.model.loss(self.tokens, self.tokens, every, documents=None, scale=1e-4, chunk=1024)


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def micro_batch(request: pytest.FixtureRequest) -> Iterator[MicroBatch]:
    torch.set_num_threads(1)
    dtype = torch.bfloat16 if request.param == "bf16" else torch.float32
    architecture = SEVENTEEN_MILLION
    with torch.device("meta"):
        model = Transformer(architecture, VOCABULARY, dtype=dtype)
    model = model.to_empty(device="cpu").to(dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(initial_values(architecture, 1, name, 0, parameter.numel()).view(parameter.shape))
    ids = torch.randint(16, VOCABULARY, (ROWS, architecture.context_length), generator=torch.Generator().manual_seed(1))
    yield MicroBatch(model, ids)


@pytest.mark.parametrize("passes", ["forward", "forward and backward"])
def test_passes(benchmark: BenchmarkFixture, micro_batch: MicroBatch, passes: str) -> None:
    backward = passes != "forward"

    def run() -> None:
        if backward:
            micro_batch.loss().backward()  # type: ignore[no-untyped-call]
        else:
            with torch.no_grad():
                micro_batch.loss()

    def forget() -> None:
        micro_batch.model.zero_grad(set_to_none=True)

    flops = flops_per_sequence(SEVENTEEN_MILLION, VOCABULARY) * ROWS / (1 if backward else 3)
    bf16 = micro_batch.model.embedding.weight.dtype == torch.bfloat16
    each = Work(run, micro_batch.tokens.numel(), "tokens", before=forget)
    measure(benchmark, each, lambda: roofline.multiplying(flops, bf16), "matrix products")


def test_sample(benchmark: BenchmarkFixture, inputs: Inputs, tmp_path: Path) -> None:
    architecture = load_experiment(ROOT / "specs" / "experiments" / "smoke.yaml").architecture
    # Prompts of 40 to 55 ids and 32 new ones each. With sixteen rows a pass computes more than it reads.
    flops = sum(roofline.operations(architecture, workloads.VOCABULARY_OF_SAMPLER, 40 + row, 32) for row in range(16))
    with workloads.sampling(inputs, tmp_path) as each:
        measure(benchmark, each, lambda: roofline.multiplying(flops, bf16=False), "matrix products")
