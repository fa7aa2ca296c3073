"""The decoder alone: forward, backward, and sampling from it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import limits, work
from benchmarks.inputs import Inputs
from benchmarks.measure import CLOCK, measure
from benchmarks.sizes import SEVENTEEN_MILLION
from benchmarks.work import Work
from model.initialisation import initial_values
from model.transformer import Transformer
from specs.arithmetic import flops_per_sequence
from specs.loading import load_experiment
from specs.settings import ROOT

pytestmark = pytest.mark.benchmark(timer=CLOCK)

VOCABULARY, ROWS = 4_096, 4


@dataclass(frozen=True)
class Lane:
    """A model and one micro-batch of random ids."""

    model: Transformer
    tokens: torch.Tensor

    def loss(self) -> torch.Tensor:
        """Summed over all positions."""
        every = torch.ones_like(self.tokens, dtype=torch.bool)
        return self.model.loss(self.tokens, self.tokens, every, documents=None, scale=1e-4, chunk=1024)


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def lane(request: pytest.FixtureRequest) -> Iterator[Lane]:
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
    yield Lane(model, ids)


@pytest.mark.parametrize("passes", ["forward", "forward and backward"])
def test_passes(benchmark: BenchmarkFixture, lane: Lane, passes: str) -> None:
    backward = passes != "forward"

    def run() -> None:
        if backward:
            lane.loss().backward()  # type: ignore[no-untyped-call]
        else:
            with torch.no_grad():
                lane.loss()

    def forget() -> None:
        lane.model.zero_grad(set_to_none=True)

    flops = flops_per_sequence(SEVENTEEN_MILLION, VOCABULARY) * ROWS / (1 if backward else 3)
    bf16 = lane.model.embedding.weight.dtype == torch.bfloat16
    each = Work(run, lane.tokens.numel(), "tokens", before=forget)
    measure(benchmark, each, lambda: limits.multiplying(flops, bf16), "matrix products")


def test_sample(benchmark: BenchmarkFixture, inputs: Inputs, tmp_path: Path) -> None:
    architecture = load_experiment(ROOT / "specs" / "experiments" / "smoke.yaml").architecture
    # Prompts of 40 to 55 ids and 32 new ones each. With sixteen rows a pass computes more than it reads.
    flops = sum(limits.operations(architecture, work.VOCABULARY_OF_SAMPLER, 40 + row, 32) for row in range(16))
    with work.sampling(inputs, tmp_path) as each:
        measure(benchmark, each, lambda: limits.multiplying(flops, bf16=False), "matrix products")
