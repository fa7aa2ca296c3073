"""Digests of tensors."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from runner.training.digests import row_digests, tensor_digest


@given(rows=st.integers(0, 9), columns=st.integers(1, 5), cut=st.integers(0, 9))
def test_a_digest_does_not_know_who_holds_the_rows(rows: int, columns: int, cut: int) -> None:
    tensor = torch.from_numpy(np.random.default_rng(1).normal(size=(rows, columns)).astype("f"))
    pieces = torch.cat([row_digests(tensor[:cut]), row_digests(tensor[cut:])])
    assert tensor_digest((rows, columns), pieces) == tensor_digest((rows, columns), row_digests(tensor))


def test_a_digest_sees_one_bit_and_the_shape() -> None:
    tensor = torch.arange(6.0).view(2, 3)
    digest = tensor_digest((2, 3), row_digests(tensor))
    assert tensor_digest((3, 2), row_digests(tensor)) != digest
    flipped = tensor.clone()
    flipped.view(torch.int32)[1, 1] ^= 1
    assert tensor_digest((2, 3), row_digests(flipped)) != digest


def test_rows_that_are_exchanged_have_another_digest() -> None:
    tensor = torch.arange(6.0).view(3, 2)
    exchanged = [tensor_digest((3, 2), row_digests(tensor[order])) for order in ([0, 1, 2], [1, 0, 2], [2, 1, 0])]
    assert len(set(exchanged)) == 3


def test_a_golden_digest() -> None:
    """Records and journals of older runs state digests of this form."""
    digest = tensor_digest((2, 3), row_digests(torch.arange(6.0).view(2, 3)))
    assert digest == "08f7154e0d0cf22aa9d0936fa042747f9f40dc500dd7bea4cbe92d7f3fc42f86"
