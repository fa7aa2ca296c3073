"""The choice of a token: by the definition, and in the right proportions."""

import definition
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import tensor

from model.portable.layers import ops


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 900), st.floats(0, 1, exclude_max=True), st.floats(0.1, 3.0), st.floats(0.05, 1.0))
def test_a_number_falls_on_the_token_of_the_definition(
    size: int, uniform: float, temperature: float, top_p: float
) -> None:
    logits = tensor((2, size), torch.float32, size, 2) * 3
    chosen = ops.draw(logits, torch.tensor([uniform, uniform], dtype=torch.float64), temperature, top_p)
    assert chosen.tolist() == [definition.drawn(row, uniform, temperature, top_p) for row in logits.numpy()]


def test_tokens_come_in_the_proportions_of_the_softmax() -> None:
    logits = torch.tensor([0.0, 2.0, -1.0, 1.0, 0.5])
    count = 20_000
    uniform = torch.from_numpy((np.arange(count) + 0.5) / count)
    chosen = ops.draw(logits.expand(count, 5).contiguous(), uniform, 0.7, 1.0)
    shares = torch.bincount(chosen, minlength=5) / count
    assert torch.allclose(shares, (logits / 0.7).softmax(-1), atol=2e-4)


def test_the_nucleus_holds_the_likeliest_tokens_alone() -> None:
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()
    shares = {u: int(ops.draw(logits, torch.tensor([u], dtype=torch.float64), 1.0, 0.5)) for u in (0.05, 0.3, 0.6, 0.9)}
    assert shares == {0.05: -1, 0.3: 1, 0.6: -1, 0.9: 3}, "0.4 reaches half with 0.3 after it"


def test_the_first_of_equal_tokens_is_the_likeliest() -> None:
    logits = torch.zeros(2, 40)
    logits[0, 33] = logits[0, 17] = 1.0
    assert ops.draw(logits, torch.zeros(2, dtype=torch.float64), 0.0, 1.0).tolist() == [17, 0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_without_a_distribution_are_told(bad: float, temperature: float) -> None:
    logits = tensor((3, 50), torch.float32)
    logits[1, 7] = bad
    assert [t == -2 for t in ops.draw(logits, torch.zeros(3, dtype=torch.float64), temperature, 1.0)] == [0, 1, 0]


def test_nan_reaches_the_loss() -> None:
    hidden, weight, targets = tensor((4, 8), torch.bfloat16), tensor((20, 8), torch.bfloat16), torch.arange(4)
    weight[13, 2] = float("nan")
    total, _, slopes = ops.cross_entropy(hidden, weight, targets, 1.0, True)
    assert total.isnan() and slopes.isnan().any()
