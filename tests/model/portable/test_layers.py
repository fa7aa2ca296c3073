"""Every operation of a layer: its bits by the definition, and its gradient against autograd's in fp64."""

import math
from collections.abc import Callable

import definition
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import tensor
from torch import Tensor

from model.portable.layers import Attend, Portable, first_keys, ops, plan

DTYPES = [torch.bfloat16, torch.float32]
PORTABLE = Portable()


def form(dtype: torch.dtype) -> definition.Form:
    return definition.Form(dtype == torch.bfloat16)


def same(ours: Tensor, expected: np.ndarray) -> bool:
    expected = np.asarray(expected)
    ours = ours if ours.dtype == torch.float64 else ours.float()
    return np.array_equal(ours.numpy().reshape(-1), expected.reshape(-1))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 600), st.integers(1, 90), st.sampled_from(DTYPES))
def test_norms(rows: int, width: int, dtype: torch.dtype) -> None:
    x, w, g = tensor((rows, width), dtype, 1, 6), 1 + tensor((width,), dtype, 2) / 8, tensor((rows, width), dtype, 3)
    arrays = [t.float().numpy() for t in (x, w, g)]
    y, by = ops.norm(x, w, 1e-5)
    expected, factors = definition.norm(form(dtype), arrays[0], arrays[1], 1e-5)
    assert same(y, expected) and same(by, factors)
    dx, dw = ops.norm_backward(g, x, w, by)
    expected_dx, expected_dw = definition.norm_backward(form(dtype), arrays[2], arrays[0], arrays[1], factors)
    assert same(dx, expected_dx) and same(dw, expected_dw)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 90), st.sampled_from(DTYPES))
def test_swiglu(rows: int, width: int, dtype: torch.dtype) -> None:
    x, g = tensor((rows, 2 * width), dtype, 1, 5), tensor((rows, width), dtype, 2)
    assert same(ops.swiglu(x), definition.swiglu(form(dtype), x.float().numpy()))
    assert same(
        ops.swiglu_backward(g, x), definition.swiglu_backward(form(dtype), g.float().numpy(), x.float().numpy())
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 300), st.integers(2, 70), st.integers(1, 20), st.sampled_from(DTYPES))
def test_cross_entropy(count: int, vocabulary: int, width: int, dtype: torch.dtype) -> None:
    hidden, weight = tensor((count, width), dtype, 1, 2), tensor((vocabulary, width), dtype, 2)
    targets = torch.from_numpy(np.random.default_rng(3).integers(0, vocabulary, count))
    total, dh, dw = ops.cross_entropy(hidden, weight, targets, 1 / 77, True)
    f, h, w = form(dtype), hidden.float().numpy(), weight.float().numpy()
    losses, slopes = definition.entropy(f, f.product(h, w.T), targets.numpy(), 1 / 77)
    assert total.item() == definition.chain64(losses)
    assert same(dh, f.rounded(f.product(slopes, w))) and same(dw, f.product(slopes.T, h))
    assert ops.cross_entropy(hidden, weight, targets, 1 / 77, False)[0] == total


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_lookup_adds_in_the_order_of_tokens(dtype: torch.dtype) -> None:
    tokens = torch.from_numpy(np.random.default_rng(1).integers(0, 5, 200))
    g, expected = tensor((200, 37), dtype, 2), np.zeros((5, 37), np.float32)
    for token, row in zip(tokens.tolist(), g.float().numpy(), strict=True):
        expected[token] = expected[token] + row
    assert same(ops.lookup_backward(g, tokens, 5), form(dtype).rounded(expected))


def test_the_exponential_is_within_two_units_everywhere() -> None:
    x = np.linspace(-87, 88, 400_001).astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    error = np.abs(definition.exp(x).astype(np.float64) - exact) / np.spacing(exact.astype(np.float32))
    assert error.max() < 2.0
    assert definition.exp(np.array([-87.5, -np.inf, 100.0], np.float32))[:2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("width", "theta"), [(64, 10_000.0), (12, 500_000.0), (2, 10_000.0)])
def test_angles_are_the_definition_and_near_libm(width: int, theta: float) -> None:
    positions = torch.tensor([[0, 1, 7, 500, 8191]])
    cosines, sines = PORTABLE.rotation(positions, width, theta)
    expected = definition.angles(8192, width, theta)
    assert same(cosines, expected[0][positions[0]]) and same(sines, expected[1][positions[0]])
    frequency = torch.tensor([theta ** (-2 * i / width) for i in range(width // 2)], dtype=torch.float64).float()
    exact = (positions[0, :, None].float() * frequency).double()
    assert torch.allclose(cosines[0].double(), exact.cos(), atol=1e-3) and cosines[0, 0].eq(1).all()


def close(ours: list[Tensor], exact: list[Tensor], dtype: torch.dtype) -> bool:
    limit = 2e-2 if dtype == torch.bfloat16 else 5e-6
    return all(float((a.double() - b).norm() / b.norm()) < limit for a, b in zip(ours, exact, strict=True))


def gradients(function: Callable[..., Tensor], leaves: list[Tensor], slope: Tensor) -> list[Tensor]:
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    out = function(*leaves)
    out.backward(slope.to(out.dtype))
    return [out.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def attention64(heads: Tensor, H: int, K: int, seen: Tensor, theta: float) -> Tensor:
    B, T, C = heads.shape
    D = C // (H + 2 * K)
    q, k, v = heads.view(B, T, H + 2 * K, D).transpose(1, 2).split((H, K, K), dim=1)
    frequency = torch.tensor([theta ** (-2 * i / D) for i in range(D // 2)], dtype=torch.float64)
    angle = torch.arange(T, dtype=torch.float64)[:, None] * frequency

    def turned(x: Tensor) -> Tensor:
        u, w = x.chunk(2, -1)
        return torch.cat((u * angle.cos() - w * angle.sin(), w * angle.cos() + u * angle.sin()), -1)

    k, v = (x.repeat_interleave(H // K, 1) for x in (turned(k), v))
    scores = turned(q) @ k.transpose(-2, -1) * D**-0.5
    return (scores.masked_fill(~seen[:, None], -math.inf).softmax(-1) @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [None, 1, 20])
def test_the_gradient_of_attention(dtype: torch.dtype, window: int | None) -> None:
    B, T, H, K, D = 2, 150, 4, 2, 10
    heads, slope = tensor((B, T, (H + 2 * K) * D), dtype, 1), tensor((B, T, H * D), dtype, 2)
    documents = torch.stack([torch.arange(T) // 61, torch.arange(T) // 140])
    first, place = torch.from_numpy(first_keys(documents, B, T, window)), torch.arange(T)
    seen = (place <= place[:, None]) & (place >= first[:, :, None])
    angles = PORTABLE.rotation(place[None], D, 10_000.0)
    attend = Attend(window, documents, in_order=True)
    ours = gradients(lambda x: attend(x, angles, H, K, None), [heads], slope)
    exact = gradients(lambda x: attention64(x, H, K, seen, 10_000.0), [heads.double()], slope.double())
    assert close(ours, exact, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradients_of_the_other_layers(dtype: torch.dtype) -> None:
    x, w, gains = tensor((3, 41, 30), dtype, 1), tensor((26, 30), dtype, 2), 1 + tensor((30,), dtype, 3) / 8
    table, tokens = tensor((9, 30), dtype, 4), torch.arange(123).view(3, 41) * 7 % 9
    targets = torch.arange(123) * 5 % 26

    def rms(x: Tensor, w: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * w

    def silu(x: Tensor) -> Tensor:
        return F.silu(x[..., :15]) * x[..., 15:]

    def entropy(x: Tensor, w: Tensor) -> Tensor:
        return F.cross_entropy(x.flatten(0, 1) @ w.T, targets, reduction="sum") * 0.01

    cases: list[tuple[Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]] = [
        (PORTABLE.linear, F.linear, [x, w]),
        (lambda x, w: PORTABLE.norm(x, w, 1e-5), rms, [x, gains]),
        (PORTABLE.swiglu, silu, [x]),
        (lambda w: PORTABLE.lookup(w, tokens), lambda w: F.embedding(tokens, w), [table]),
        (
            lambda x, w: PORTABLE.cross_entropy(x.flatten(0, 1), w, targets, scale=0.01, chunk=8),
            entropy,
            [x, w],
        ),
    ]
    for ours, exact, leaves in cases:
        doubles = [leaf.double() for leaf in leaves]
        slope = tensor(tuple(exact(*doubles).shape), dtype, 5)
        assert close(gradients(ours, leaves, slope), gradients(exact, doubles, slope.double()), dtype)


def test_the_plan_leaves_no_gap() -> None:
    made = plan(first_keys(torch.stack([torch.arange(300) // 70, torch.zeros(300).long()]), 2, 300, None), heads=3)
    # Blocks of 128 queries see keys from 0, 70 and 210 on in the first row, all earlier ones in the second.
    assert made.places.tolist() == [
        [0, 128 * 128, 128 * 128 + 128 * 186, 128 * 128 + 128 * 186 + 44 * 90],
        [0, 128 * 128, 128 * 128 + 128 * 256, 128 * 128 + 128 * 256 + 44 * 300],
    ]
    assert made.bases.tolist() == [0, 3 * made.sizes[0]] and made.size(3) == 3 * sum(made.sizes)
