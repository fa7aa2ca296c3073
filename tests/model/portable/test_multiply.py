"""Matrix products are chains: any sizes, layouts and exponents, one thread or more, to the bit."""

import definition
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from samples import tensor
from torch import Tensor

from model.portable.multiply import multiply
from model.portable.product import CONTINUED, ROUNDED, WHOLE

SIZES = st.integers(1, 150) | st.sampled_from([1, 6, 16, 64, 96, 128])
DTYPES = [torch.bfloat16, torch.float32]


def chains(a: Tensor, b: Tensor, start: Tensor | None = None) -> np.ndarray:
    form = definition.Form(a.dtype == torch.bfloat16)
    return form.product(a.float().numpy(), b.float().numpy(), None if start is None else start.numpy())


def same(ours: Tensor, expected: np.ndarray) -> bool:
    return np.array_equal(ours.float().numpy().view(np.uint32), expected.astype(np.float32).view(np.uint32))


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES, SIZES, st.booleans(), st.booleans(), st.sampled_from(DTYPES), st.sampled_from([0.5, 3.0, 28.0]))
@example(1, 1, 22, False, False, torch.bfloat16, 0.5)  # a chain that begins at -0 and stays there
def test_every_output_is_one_chain(
    M: int, K: int, N: int, turned_a: bool, turned_b: bool, dtype: torch.dtype, spread: float
) -> None:
    a, b, start = (
        tensor(shape, kind, seed=seed, spread=spread)
        for seed, (shape, kind) in enumerate((((M, K), dtype), ((K, N), dtype), ((M, N), torch.float32)))
    )
    left = a.T.contiguous().T if turned_a else a
    right = b.T.contiguous().T if turned_b else b
    whole, rounded, continued = torch.empty(M, N), torch.empty(M, N, dtype=dtype), start.clone()
    for out, mode in ((whole, WHOLE), (rounded, ROUNDED), (continued, CONTINUED)):
        multiply(left, right, out, mode)
    expected = chains(a, b)
    assert same(whole, expected)
    assert same(rounded, definition.Form(dtype == torch.bfloat16).rounded(expected))
    assert same(continued, chains(a, b, start))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("M", "K", "N"), [(70, 1700, 90), (3, 513, 2100), (260, 40, 3)])
def test_long_chains_and_many_columns(M: int, K: int, N: int, dtype: torch.dtype) -> None:
    a, b = tensor((M, K), dtype, 1), tensor((K, N), dtype, 2)
    out = torch.empty(M, N)
    multiply(a, b, out, WHOLE)
    assert same(out, chains(a, b))


def test_another_order_fails_these_tests() -> None:
    a, b = tensor((20, 60), torch.bfloat16, 1), tensor((60, 20), torch.bfloat16, 2)
    backwards = chains(a.flip(1), b.flip(0))
    assert not np.array_equal(backwards, chains(a, b))


def test_operands_below_the_limit_count_as_zero() -> None:
    a = torch.tensor([[2.0**-56, 2.0**-55, -(2.0**-56), 1.0]], dtype=torch.bfloat16)
    for turned in (False, True):
        left = a.T.contiguous().T if turned else a
        out = torch.empty(1, 4)
        multiply(left, torch.eye(4, dtype=torch.bfloat16), out, WHOLE)
        assert out.tolist() == [[0.0, 2.0**-55, 0.0, 1.0]]


@pytest.mark.parametrize("K", [1, 2, 31, 513])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_chain_that_goes_on_from_minus_zero_keeps_its_sign(K: int, dtype: torch.dtype) -> None:
    """Every product is -0. A step added to fill a vector register must not make the sum +0."""
    a, b = torch.zeros(7, K, dtype=dtype), torch.full((K, 70), -1.0, dtype=dtype)
    for left in (a, a.T.contiguous().T):
        for right in (b, b.T.contiguous().T):
            out = torch.full((7, 70), -0.0)
            multiply(left, right, out, CONTINUED)
            assert out.signbit().all()
            multiply(left, right, out, WHOLE)
            assert not out.signbit().any()


def test_no_partial_sum_is_subnormal() -> None:
    """The smallest products there are, and their differences, are multiples of 2^-124."""
    a = torch.tensor([[2.0**-55 * (1 + 2.0**-7), -(2.0**-55)]], dtype=torch.bfloat16)
    b = torch.tensor([[2.0**-55], [2.0**-55]], dtype=torch.bfloat16)
    out = torch.empty(1, 1)
    multiply(a, b, out, WHOLE)
    assert out.item() == 2.0**-117


def test_what_lies_around_the_output_stays() -> None:
    around = torch.full((40, 100), 7.0)
    multiply(tensor((10, 9), torch.float32), tensor((9, 21), torch.float32), around[5:15, 30:51], WHOLE)
    around[5:15, 30:51] = 7.0
    assert (around == 7.0).all()


def test_infinities_and_nan_reach_their_outputs_alone() -> None:
    a, b = tensor((8, 30), torch.bfloat16, 1), tensor((30, 70), torch.bfloat16, 2).abs() + 1
    a[3, 4], a[5, 0] = float("inf"), float("nan")
    out = torch.empty(8, 70)
    multiply(a, b, out, WHOLE)
    assert out[3].isinf().all() and out[5].isnan().all() and out[[0, 1, 2, 4, 6, 7]].isfinite().all()
