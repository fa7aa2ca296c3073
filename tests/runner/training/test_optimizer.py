"""The schedule as a function; AdamW and clipping against their formulas and over shards."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runner.training.optimizer import Optimizer, clip, learning_rate
from runner.training.sharding import Shard
from specs.schema.training import AdamW, Schedule


@given(
    kind=st.sampled_from(["cosine", "constant", "wsd"]),
    warmup=st.integers(0, 30),
    steps=st.integers(1, 100),
    final=st.floats(0, 1),
)
def test_schedules_rise_to_the_peak_and_never_rise_again(kind: str, warmup: int, steps: int, final: float) -> None:
    schedule = Schedule.model_validate({"kind": kind, "warmup_steps": warmup, "final_fraction": final})
    rates = [learning_rate(step, steps, 2.0, schedule) for step in range(steps)]
    assert all(0 <= rate <= 2.0 for rate in rates)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert all(later <= earlier + 1e-12 for earlier, later in zip(rates[warmup:], rates[warmup + 1 :], strict=False))
    if warmup < steps - 1 and kind != "constant":
        assert rates[-1] == pytest.approx(2.0 * final)


def test_known_points_of_each_schedule() -> None:
    cosine = Schedule(warmup_steps=4, final_fraction=0.1)
    assert learning_rate(0, 13, 1.0, cosine) == pytest.approx(0.2)
    assert learning_rate(4, 13, 1.0, cosine) == 1.0
    assert learning_rate(8, 13, 1.0, cosine) == pytest.approx(0.55)
    wsd = Schedule(kind="wsd", warmup_steps=0, final_fraction=0.0, decay_fraction=0.2)
    assert [learning_rate(step, 10, 1.0, wsd) for step in (0, 7, 8, 9)] == [1.0, 1.0, 0.5, 0.0]


def shards(*values: torch.Tensor) -> list[Shard]:
    return [Shard(f"p{i}", tuple(v.shape), 0, v.shape[0], v.shape[0], v) for i, v in enumerate(values)]


def test_adamw_is_the_formula_and_decays_matrices_only() -> None:
    torch.manual_seed(0)
    matrix, gain = torch.randn(5, 3), torch.randn(4)
    expected = [matrix.double(), gain.double()]
    moments = [[torch.zeros_like(e), torch.zeros_like(e)] for e in expected]
    spec = AdamW(lr=0.1, beta1=0.8, beta2=0.9, weight_decay=0.5)
    optimizer = Optimizer(spec, shards(matrix, gain))
    for step in range(1, 4):
        gradients = [torch.randn(5, 3), torch.randn(4)]
        for p, g, m, decay in zip(expected, (g.double() for g in gradients), moments, (0.5, 0.0), strict=True):
            m[0] = 0.8 * m[0] + 0.2 * g
            m[1] = 0.9 * m[1] + 0.1 * g * g
            p *= 1 - 0.1 * decay
            p -= 0.1 * (m[0] / (1 - 0.8**step)) / ((m[1] / (1 - 0.9**step)).sqrt() + 1e-8)
        optimizer.update(gradients, lr=0.1)
    assert torch.allclose(matrix.double(), expected[0], atol=1e-6)
    assert torch.allclose(gain.double(), expected[1], atol=1e-6)


@pytest.mark.parametrize("cut", [1, 3, 16, 33])
def test_a_shard_boundary_changes_no_bit_of_an_update(cut: int) -> None:
    torch.manual_seed(1)
    whole, gradient = torch.randn(40, 7), torch.randn(40, 7)
    pieces = [whole[:cut].clone(), whole[cut:].clone()]
    one, two = Optimizer(AdamW(lr=0.1), shards(whole)), Optimizer(AdamW(lr=0.1), shards(*pieces))
    for _ in range(3):
        one.update([gradient.clone()], lr=0.1)
        two.update([gradient[:cut].clone(), gradient[cut:].clone()], lr=0.1)
    assert torch.equal(whole, torch.cat(pieces))


def test_clipping_scales_to_the_limit_and_leaves_smaller_gradients_alone() -> None:
    gradients = [torch.full((3,), 2.0), torch.full((2, 2), -2.0)]
    norm = math.sqrt(7 * 4)
    clip(gradients, norm, limit=1.0)
    assert math.sqrt(sum(float(g.double().square().sum()) for g in gradients)) == pytest.approx(1.0, rel=1e-6)
    before = [g.clone() for g in gradients]
    clip(gradients, 1.0, limit=1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, gradients, strict=True))
