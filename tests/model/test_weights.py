"""Weights come back from their file, and those of another architecture are refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model.decoder.transformer import Transformer
from model.weights import load_for_sampling
from specs.common.errors import UserError
from specs.schema.training import Architecture, Attention

SPEC = Architecture(
    d_model=32,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    d_ff=64,
    context_length=128,
    attention=Attention(pattern="interleaved", window=16, global_every=2),
    init_std=0.2,
)
VOCABULARY = 320


@pytest.mark.parametrize("tied", [False, True])
def test_weights_come_back_from_their_file(tied: bool, tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"tie_embeddings": tied})
    torch.manual_seed(1)
    saved = Transformer(spec, VOCABULARY).eval()
    save_file({name: value.detach() for name, value in saved.named_parameters()}, tmp_path / "model.safetensors")
    loaded = load_for_sampling(tmp_path / "model.safetensors", spec, VOCABULARY)
    tokens = torch.arange(8)[None] * 37 % VOCABULARY
    with torch.no_grad():
        assert torch.equal(loaded(tokens), saved(tokens))


def test_weights_of_another_architecture_are_one_clear_line(tmp_path: Path) -> None:
    path, model = tmp_path / "model.safetensors", Transformer(SPEC, VOCABULARY)
    with pytest.raises(UserError, match="no readable weights"):
        load_for_sampling(path, SPEC, VOCABULARY)
    path.write_bytes(b"not weights")
    with pytest.raises(UserError, match="no readable weights"):
        load_for_sampling(path, SPEC, VOCABULARY)
    save_file({name: value.detach() for name, value in model.named_parameters()}, path)
    with pytest.raises(UserError, match=r"embedding.weight is \(320, 32\) in the file, \(321, 32\) in the spec"):
        load_for_sampling(path, SPEC, VOCABULARY + 1)
    with pytest.raises(UserError, match=r"is .* in the file, absent in the spec"):
        load_for_sampling(path, SPEC.model_copy(update={"n_layers": 1}), VOCABULARY)
