import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.decoder.transformer import Transformer
from runner.planning.simulate import simulate
from specs.estimates.counts import attended_pairs, flops_per_sequence, parameters
from specs.estimates.memory import training_memory
from specs.loading.load import load_experiment
from specs.loading.settings import ROOT
from specs.schema.experiment import Experiment
from specs.schema.training import AdamW, Architecture, Checkpoints, Parallelism, Precision, Pretraining, Schedule

SIZES = {
    "34b-wide": (Architecture(d_model=5120, n_layers=4, n_heads=40, d_ff=38_400, context_length=8192), 64_000),
    "7b-wide": (Architecture(d_model=4096, n_layers=6, n_heads=32, d_ff=11_008, context_length=4096), 32_000),
    "1b": (Architecture(d_model=2048, n_layers=8, n_heads=16, d_ff=5632, context_length=2048), 32_000),
    "grouped": (
        Architecture(d_model=4096, n_layers=5, n_heads=32, n_kv_heads=8, d_ff=14_336, context_length=4096),
        64_000,
    ),
    "tied": (
        Architecture(d_model=1024, n_layers=8, n_heads=8, d_ff=4096, context_length=2048, tie_embeddings=True),
        32_000,
    ),
}
# Size, sharding, re-gathered blocks, recomputation, ranks, micro-batches of a rank.
COMBINATIONS = [
    ("34b-wide", "zero2", 0, "full", 16, 1),
    ("34b-wide", "zero2", 0, "none", 8, 2),
    ("34b-wide", "zero3", 0, "full", 8, 2),
    ("34b-wide", "mixed", 2, "selective", 16, 1),
    ("7b-wide", "zero2", 0, "full", 16, 1),
    ("7b-wide", "zero2", 0, "selective", 8, 4),
    ("7b-wide", "mixed", 3, "full", 16, 1),
    ("7b-wide", "zero3", 0, "none", 8, 1),
    ("1b", "zero2", 0, "full", 8, 2),
    ("1b", "zero2", 0, "none", 32, 1),
    ("1b", "zero3", 0, "full", 8, 2),
    ("1b", "mixed", 3, "selective", 8, 2),
    ("grouped", "zero2", 0, "none", 16, 2),
    ("grouped", "zero3", 0, "full", 16, 1),
    ("tied", "zero2", 0, "full", 16, 1),
    ("tied", "zero3", 0, "none", 4, 4),
    # Numbers of ranks that leave some without a micro-batch in the last sub-step: 16 and 20 micro-batches.
    ("1b", "zero2", 0, "full", 6, 16 / 6),
    ("1b", "zero3", 0, "full", 3, 20 / 3),
]
EXPERIMENTS = sorted((ROOT / "specs" / "experiments").glob("*.yaml"))


def training(sharding: str, blocks: int, recompute: str, ranks: int, micro_batches: float, **more: Any) -> Pretraining:
    parallelism = {"sharding": sharding, "resharded_blocks": blocks, "recompute": recompute}
    return Pretraining(
        tokens=1_000_000_000,
        micro_batches=round(ranks * micro_batches),
        optimizer=AdamW(lr=1e-4),
        schedule=Schedule(warmup_steps=1),
        precision=Precision(compute="bf16", wire="bf16"),
        parallelism=Parallelism.model_validate(parallelism),
        checkpoints=Checkpoints(every=1),
        **more,
    )


# With FSDP's own reduction one combination of each kind is enough.
OF_STOCK = [each for each in COMBINATIONS if (each[0], each[4]) in (("34b-wide", 16), ("1b", 8))]


@pytest.mark.parametrize(
    ("combination", "stock"),
    [*((each, False) for each in COMBINATIONS), *((each, True) for each in OF_STOCK)],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else "stock" if value else "order-fixed",
)
def test_formulas_agree_with_the_trace_of_the_real_step(combination: tuple[Any, ...], stock: bool) -> None:
    size, sharding, blocks, recompute, ranks, micro_batches = combination
    architecture, vocab_size = SIZES[size]
    phase = training(sharding, blocks, recompute, ranks, micro_batches)
    traced = simulate(architecture, vocab_size, phase, ranks, "A100-80GB", stock=stock)
    formula = training_memory(architecture, vocab_size, phase, ranks, order_fixed=not stock)
    assert formula.peak == pytest.approx(traced.peak, rel=0.03)


def test_components_add_up_and_the_reduction_is_seen_only_where_it_is_used() -> None:
    architecture, vocab_size = SIZES["1b"]
    phase = training("zero2", 0, "full", 16, 2)
    ours = simulate(architecture, vocab_size, phase, 16, "A100-80GB")
    stock = simulate(architecture, vocab_size, phase, 16, "A100-80GB", stock=True)
    assert sum(ours.components.values()) == pytest.approx(ours.peak, rel=2e-3)
    assert ours.highest["order-fixed reduction"] > 0
    assert "order-fixed reduction" not in stock.highest
    state = 12 * parameters(architecture, vocab_size).total / 16
    held = ours.components["master weights"] + ours.components["optimizer state"]
    assert held == pytest.approx(state, rel=0.01)


def test_a_trace_that_forgets_a_tensor_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a step that saves one more activation for each layer no longer agrees with the formulas."""
    architecture, vocab_size = SIZES["34b-wide"]
    phase = training("zero3", 0, "full", 16, 1)
    formula = training_memory(architecture, vocab_size, phase, 16)
    monkeypatch.setattr("model.decoder.transformer.checkpoint", lambda layers, *inputs, **options: layers(*inputs))
    traced = simulate(architecture, vocab_size, phase, 16, "A100-80GB")
    assert abs(formula.peak / traced.peak - 1) > 0.03


@pytest.mark.slow
def test_code_34b_needs_what_an_independent_trace_found() -> None:
    script = (
        "import json, pathlib, resource, runner.planning.simulate as s, specs.loading.load as l\n"
        "e = l.load_experiment(pathlib.Path('specs/experiments/code-34b.yaml'))\n"
        "t = s.simulate(e.architecture, e.tokenizer.vocab_size, e.pretraining, 256, 'A100-80GB', stock=True)\n"
        "print(json.dumps([t.peak, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    peak, memory = json.loads(done.stdout)
    assert peak / 2**30 == pytest.approx(74.6, rel=0.03)
    assert memory <= 10**9


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_parameters_are_those_of_the_model(path: Any) -> None:
    experiment: Experiment = load_experiment(path)
    with torch.device("meta"):
        model = Transformer(experiment.architecture, experiment.tokenizer.vocab_size)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert total == parameters(experiment.architecture, experiment.tokenizer.vocab_size).total


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_flops_of_matrix_products_are_those_that_torch_counts(path: Any) -> None:
    """Over one sequence on the meta device, where attention is written out as batched products over all pairs."""
    experiment: Experiment = load_experiment(path)
    architecture, vocab_size = experiment.architecture, experiment.tokenizer.vocab_size
    with torch.device("meta"):
        model = Transformer(architecture, vocab_size)
        tokens = torch.zeros((1, architecture.context_length), dtype=torch.int64)
        documents = torch.zeros_like(tokens)
    counter = FlopCounterMode(display=False)
    with counter:
        hidden = model.hidden(tokens, documents=documents)
        model.logits(hidden).sum().backward()
    counts = counter.get_flop_counts()["Global"]
    length = architecture.context_length
    products = 6 * parameters(architecture, vocab_size).multiplied * length
    assert counts.pop(torch.ops.aten.mm) == products
    # torch takes every pair of a query and a key, seen or masked; the formula takes those that are seen.
    every_pair = 12 * architecture.d_model * length**2 * architecture.n_layers
    assert sum(counts.values()) == every_pair
    seen = attended_pairs(architecture)
    assert flops_per_sequence(architecture, vocab_size) - products == every_pair * seen // (
        length**2 * architecture.n_layers
    )
