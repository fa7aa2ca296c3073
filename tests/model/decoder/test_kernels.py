"""Backward passes that are written out, against what autograd makes of the formula."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.decoder.attention import visible
from model.decoder.kernels import block_attention, rms_norm, rotate, rotation


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def gradients(out: Tensor, *leaves: Tensor) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    out.backward(torch.randn(out.shape, generator=generator).to(out.dtype))
    found = [out.detach().float()]
    for leaf in leaves:
        assert leaf.grad is not None
        found.append(leaf.grad.float())
        leaf.grad = None
    return found


def agree(ours: list[Tensor], formula: list[Tensor], atol: float) -> bool:
    return all(torch.allclose(a, b, atol=atol) for a, b in zip(ours, formula, strict=True))


def test_the_norm_is_the_formula() -> None:
    x, weight = random(3, 5, 24), random(24, seed=4)
    formula = gradients(F.rms_norm(x, (24,), eps=1e-3) * weight, x, weight)
    assert agree(gradients(rms_norm(x, weight, 1e-3), x, weight), formula, 1e-5)
    assert not agree(gradients(rms_norm(x, weight, 1e-1), x, weight), formula, 1e-5)


def test_the_rotation_turns_each_pair_by_its_angle() -> None:
    x, positions = random(2, 3, 7, 8), torch.arange(7)[None]
    pairs = torch.view_as_complex(torch.stack(x.chunk(2, -1), -1).contiguous())
    angles = positions[0, :, None] * 100.0 ** (-torch.arange(4) / 4)
    turned = torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles))
    formula = gradients(torch.cat(turned.unbind(-1), -1), x)
    assert agree(gradients(rotate(x, *rotation(positions, 8, 100.0)), x), formula, 1e-5)


@pytest.mark.parametrize("length", [20, 128, 300])
@pytest.mark.parametrize("window", [None, 7, 150])
@pytest.mark.parametrize("packed", [False, True])
def test_attention_in_blocks_is_attention(length: int, window: int | None, packed: bool) -> None:
    q, k, v = (random(2, 3, length, 8, seed=seed) for seed in (1, 2, 3))
    documents = (torch.arange(length) // 50).expand(2, length) if packed else None
    seen = visible(torch.arange(length)[None], documents, window)
    bias = torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))
    formula = gradients(F.scaled_dot_product_attention(q, k, v, attn_mask=seen), q, k, v)
    assert agree(gradients(block_attention(q, k, v, bias, window), q, k, v), formula, 1e-5)
