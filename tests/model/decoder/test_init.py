"""Initial weights are a function of seed, name and place: any range of them can be made alone."""

import hashlib
import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from model.decoder.init import BLOCK, initial_values, initialise
from model.decoder.transformer import Transformer
from specs.schema.training import Architecture

SPEC = Architecture(d_model=8, n_layers=2, n_heads=2, d_ff=12, context_length=8)
SIZE = 2 * BLOCK + 1000


@given(cuts=st.lists(st.integers(0, SIZE), max_size=3))
def test_ranges_made_alone_join_to_the_whole(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), SIZE]
    parts = [initial_values(SPEC, 1, "output.weight", *edges[i : i + 2]) for i in range(len(edges) - 1)]
    assert torch.equal(torch.cat(parts), initial_values(SPEC, 1, "output.weight", 0, SIZE))


def test_scale_follows_the_role() -> None:
    plain, residual = (
        initial_values(SPEC, 1, name, 0, SIZE) for name in ("output.weight", "blocks.1.attention.out.weight")
    )
    assert abs(float(plain.std()) - SPEC.init_std) < 1e-4 and abs(float(plain.mean())) < 2e-4
    assert abs(float(residual.std()) - SPEC.init_std / math.sqrt(4)) < 1e-4
    assert initial_values(SPEC, 1, "blocks.0.feed_forward_norm.weight", 0, 5).tolist() == [1.0] * 5


def test_names_and_seeds_give_other_values() -> None:
    first = initial_values(SPEC, 1, "output.weight", 0, 100)
    assert not torch.equal(first, initial_values(SPEC, 2, "output.weight", 0, 100))
    assert not torch.equal(first, initial_values(SPEC, 1, "embedding.weight", 0, 100))


def test_every_parameter_is_filled_and_the_same_whatever_came_before() -> None:
    one, two = Transformer(SPEC, 20), Transformer(SPEC, 20)
    torch.randn(7)
    for model in (one, two):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(torch.nan)
        initialise(model, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_golden_values() -> None:
    """Older runs began with these."""
    names = ((1, "output.weight"), (2, "blocks.1.attention.out.weight"))
    portable = torch.cat([initial_values(SPEC, seed, name, 0, SIZE, portable=True) for seed, name in names])
    digest = hashlib.sha256(portable.numpy().tobytes()).hexdigest()
    assert digest == "a18c8d2835c477b177dccbb48b323111634bb32cda238f331d55f1460c78a684"
    # Of stock kernels the last bits belong to a processor.
    stock = [initial_values(SPEC, seed, name, BLOCK, BLOCK + 3) for seed, name in names]
    expected = torch.tensor([[0.0170845, -0.0279078, 0.00986962], [-0.01124893, 0.00441137, -0.01646434]])
    assert torch.allclose(torch.stack(stock), expected, rtol=1e-5)
