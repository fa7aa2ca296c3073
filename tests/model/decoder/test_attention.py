"""Every backend against the formula in fp64: outputs and gradients."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from model.decoder.attention import backend_for, lower, sequence_bounds, visible
from specs.common.errors import UserError
from specs.schema.training import Attention

DOCUMENTS = torch.tensor([[0] * 9 + [1] * 14 + [2] * 9, [0] * 32])


def attend(
    backend: str, window: int | None, documents: Tensor | None, dtype: torch.dtype, device: str = "cpu"
) -> list[Tensor]:
    """Output and gradients of queries, keys and values, in fp64."""
    generator = torch.Generator().manual_seed(1)
    shapes = ((2, 4, 32, 16), (2, 2, 32, 16), (2, 2, 32, 16))
    leaves = [torch.randn(s, generator=generator).to(device, dtype).requires_grad_() for s in shapes]
    positions = torch.arange(32, device=device)[None]
    documents = None if documents is None else documents.to(device)
    out = lower(backend, (window,), positions, documents, None)[window](*leaves)
    weights = torch.randn(out.shape, generator=generator).to(device, dtype)
    (out * weights).sum().backward()
    return [tensor.detach().double().cpu() for tensor in (out, *(leaf.grad for leaf in leaves)) if tensor is not None]


CASES = [(None, None), (5, None), (None, DOCUMENTS), (5, DOCUMENTS)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 6e-2)])
@pytest.mark.parametrize(("window", "documents"), CASES)
def test_sdpa_is_the_formula(
    dtype: torch.dtype, tolerance: float, window: int | None, documents: Tensor | None
) -> None:
    ours, formula = attend("sdpa", window, documents, dtype), attend("reference", window, documents, dtype)
    for ours_one, formula_one in zip(ours, formula, strict=True):
        assert torch.allclose(ours_one, formula_one, atol=tolerance)


@pytest.mark.parametrize(("window", "documents"), CASES)
def test_flex_sees_what_the_formula_sees(window: int | None, documents: Tensor | None) -> None:
    """Its forward pass, which a CPU has; spec and launch refuse it there, for want of a backward pass."""
    q, k, v = (torch.randn(2, heads, 32, 16) for heads in (4, 2, 2))
    positions = torch.arange(32)[None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is not compiled here
        ours = lower("flex", (window,), positions, documents, None)[window](q, k, v)
    assert torch.allclose(ours, lower("reference", (window,), positions, documents, None)[window](q, k, v), atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", ["varlen", "flash", "flex", "sdpa"])
@pytest.mark.parametrize(("window", "documents"), CASES)
def test_gpu_backends_are_the_formula_and_repeat_to_the_bit(
    backend: str, window: int | None, documents: Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where a kernel falls back to matrix products, cuBLAS asks for this under the strict flag.
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        backend_for(Attention.model_validate({"backend": backend}), "cuda", torch.bfloat16)
    except UserError as error:
        pytest.skip(str(error))
    torch.set_deterministic_debug_mode("error")
    try:
        ours = attend(backend, window, documents, torch.bfloat16, "cuda")
        again = attend(backend, window, documents, torch.bfloat16, "cuda")
    finally:
        torch.set_deterministic_debug_mode("default")
    formula = attend("reference", window, documents, torch.bfloat16)
    assert all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))
    assert all(torch.allclose(a, b, atol=6e-2) for a, b in zip(ours, formula, strict=True))


def test_the_mask_is_causal_windowed_and_within_documents() -> None:
    seen = visible(torch.arange(6)[None], torch.tensor([[0, 0, 0, 1, 1, 1]]), window=2)
    assert seen[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 1, 1],
    ]


def test_rows_laid_end_to_end_part_at_documents_and_at_rows() -> None:
    bounds, longest = sequence_bounds(DOCUMENTS)
    assert bounds.tolist() == [0, 9, 23, 32, 64] and bounds.dtype == torch.int32 and longest == 32


@pytest.mark.parametrize(
    ("values", "windows"),
    [
        ({"pattern": "full"}, (None, None, None, None, None)),
        ({"pattern": "sliding", "window": 3}, (3, 3, 3, 3, 3)),
        ({"pattern": "interleaved", "window": 3, "global_every": 2}, (3, None, 3, None, 3)),
    ],
)
def test_patterns_give_each_layer_its_window(values: dict[str, Any], windows: tuple[int | None, ...]) -> None:
    assert Attention.model_validate(values).windows(5) == windows


def test_auto_resolves_and_what_cannot_be_had_is_refused() -> None:
    assert backend_for(Attention(), "cpu") == "sdpa"
    assert backend_for(Attention(), "cuda", torch.float32) == "sdpa"
    assert backend_for(Attention(), "cuda", torch.bfloat16) == "varlen"
    assert backend_for(Attention(backend="reference"), "cpu") == "reference"
    with pytest.raises(UserError, match="'flex' is not available on cpu: it has no backward pass there"):
        backend_for(Attention(backend="flex"), "cpu")
    for backend in ("varlen", "flash"):
        with pytest.raises(UserError, match=rf"{backend!r} is not available on cpu.*choose auto, reference or sdpa"):
            backend_for(Attention.model_validate({"backend": backend}), "cpu")
    with pytest.raises(UserError, match="16-bit"):
        backend_for(Attention(backend="varlen"), "cuda", torch.float32)
