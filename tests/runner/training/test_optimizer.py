"""AdamW and clipping: against their formulas, over shards, and to the bit."""

import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runner.training.optimizer import BLOCK, Optimizer, clip, power
from runner.training.sharding import Shard
from specs.schema.training import AdamW


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


def inputs(seed: int, size: int) -> list[np.ndarray]:
    """Weights, gradients and moments over many magnitudes: every operation rounds, and some results are subnormal."""
    random = np.random.default_rng(seed)
    spread = [random.normal(size=size) * 10.0 ** random.integers(-8, 3, size) for _ in range(4)]
    spread[3] = spread[3] ** 2 * 10.0 ** random.integers(-30, 1, size)
    return [values.astype(np.float32)[:, None] for values in spread]


def updated(seed: int, size: int, device: str) -> list[np.ndarray]:
    """Weights and moments after an update that is the third."""
    values, gradient, first, second = map(torch.from_numpy, inputs(seed, size))
    optimizer = Optimizer(AdamW(lr=0.1), shards(values), device)
    optimizer.first, optimizer.second = [first], [second]
    optimizer.resume(2)
    optimizer.update([gradient], lr=3e-3)
    return [values.numpy(), first.numpy(), second.numpy()]


@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([1, 63, 1000, BLOCK + 5]))
def test_every_operation_of_an_update_rounds_once(seed: int, size: int) -> None:
    """Held to fp64: a sum, product, quotient or root of it, rounded to fp32, is the one of fp32 in IEEE 754."""
    spec = AdamW(lr=0.1)

    def once(exact: np.ndarray) -> np.ndarray:
        return exact.astype(np.float32).astype(np.float64)

    def single(value: float) -> np.float64:
        return np.float64(np.float32(value))

    p, g, m, v = (array.astype(np.float64) for array in inputs(seed, size))
    p = once(p * single(1 - 3e-3 * spec.weight_decay))
    m = once(once(m * single(spec.beta1)) + once(g * single(1 - spec.beta1)))
    v = once(once(v * single(spec.beta2)) + once(once(g * g) * single(1 - spec.beta2)))
    correction1, correction2 = 1 - spec.beta1 * spec.beta1 * spec.beta1, 1 - spec.beta2 * spec.beta2 * spec.beta2
    divisor = once(once(once(np.sqrt(v)) / single(math.sqrt(correction2))) + single(spec.eps))
    p = once(p - once(once(m / divisor) * single(3e-3 / correction1)))
    for ours, expected in zip(updated(seed, size, "cpu"), (p, m, v), strict=True):
        assert np.array_equal(ours.astype(np.float64), expected)


def test_an_update_has_these_bits() -> None:
    """Older runs rely on them."""
    digest = hashlib.sha256(b"".join(array.tobytes() for array in updated(1, 10_000, "cpu")))
    assert digest.hexdigest() == "dc847b4f6550f7d514a5cd5dbdc84fb29d584566339f68919eb6619d48a85b00"


def test_the_update_of_torch_would_fail_these_tests() -> None:
    values, gradient, first, second = map(torch.from_numpy, inputs(1, 10_000))
    spec = AdamW(lr=0.1)
    stock = torch.optim.AdamW(
        [values], lr=3e-3, betas=(spec.beta1, spec.beta2), eps=spec.eps, weight_decay=spec.weight_decay, foreach=True
    )
    stock.state[values] = {"step": torch.tensor(2.0), "exp_avg": first, "exp_avg_sq": second}
    values.grad = gradient
    stock.step()
    ours = updated(1, 10_000, "cpu")[0]
    assert not np.array_equal(values.numpy(), ours)
    assert np.allclose(values.numpy(), ours, rtol=1e-4, atol=1e-9)


def test_what_a_gpu_computes_is_the_same_formula() -> None:
    for ours, other in zip(updated(1, 1_000, "cpu"), updated(1, 1_000, "cuda"), strict=True):
        assert np.allclose(ours, other, rtol=1e-5, atol=1e-6)


@given(base=st.floats(0.5, 1), exponent=st.integers(0, 10**6))
def test_powers_are_powers(base: float, exponent: int) -> None:
    assert power(base, exponent) == pytest.approx(base**exponent, rel=3e-16 * (1 + exponent), abs=1e-300)


def test_powers_have_these_bits() -> None:
    bits = ["0x1.e666666666666p-1", "0x1.658c775099758p-1", "0x1.ffcb2f6993296p-75"]
    assert [power(0.95, n).hex() for n in (1, 7, 1000)] == bits


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
