"""The whole decoder at level portable: by the definition alone, whatever the threads, with a cache or without."""

from typing import Any

import definition
import numpy as np
import pytest
import torch
from definition_of_decoder import Model, initial
from torch import Tensor

from model.decoder.init import initialise
from model.decoder.kv_cache import Cache
from model.decoder.transformer import Transformer
from model.portable import registry, threads
from specs.common.errors import UserError
from specs.schema.training import Architecture

VOCABULARY, ROWS, LENGTH = 103, 2, 140
DTYPES = [torch.bfloat16, torch.float32]


def architecture(**changes: Any) -> Architecture:
    values = {
        "d_model": 36,
        "n_layers": 2,
        "n_heads": 6,
        "n_kv_heads": 2,
        "d_ff": 50,
        "context_length": LENGTH,
        "attention": {"pattern": "interleaved", "window": 37, "global_every": 2},
        "init_std": 0.2,
    }
    return Architecture.model_validate(values | changes)


def build(dtype: torch.dtype, recompute: Any = "none", **changes: Any) -> Transformer:
    model = Transformer(architecture(**changes), VOCABULARY, recompute=recompute, dtype=dtype, portable=True)
    initialise(model, seed=3)
    return model.to(dtype)


def batch() -> tuple[Tensor, Tensor, Tensor]:
    ids = torch.from_numpy(np.random.default_rng(1).integers(0, VOCABULARY, (ROWS, LENGTH + 1)))
    return ids[:, :-1], ids[:, 1:], torch.stack([torch.arange(LENGTH) // 61, torch.arange(LENGTH) // 132])


def learn(model: Transformer) -> tuple[float, dict[str, Tensor]]:
    tokens, targets, documents = batch()
    every = torch.ones_like(tokens, dtype=torch.bool)
    loss = model.loss(tokens, targets, every, documents=documents, scale=1 / tokens.numel(), chunk=64)
    loss.backward()
    return loss.item(), {n: p.grad.float() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("dtype", "tied"), [(torch.bfloat16, False), (torch.float32, True)])
def test_a_second_implementation_by_the_definition_gives_the_same_bits(dtype: torch.dtype, tied: bool) -> None:
    model, form = build(dtype, tie_embeddings=tied), definition.Form(dtype == torch.bfloat16)
    weights = initial(model.spec, VOCABULARY, 3)
    for name, parameter in model.named_parameters():
        assert np.array_equal(parameter.detach().float().numpy(), form.rounded(weights[name])), name
    loss, gradients = learn(model)
    tokens, targets, documents = (x.numpy() for x in batch())
    other = Model(model.spec, {n: form.rounded(w) for n, w in weights.items()}, form)
    windows = model.spec.attention.windows(model.spec.n_layers)
    assert other.loss(tokens, targets, documents, windows, 1 / tokens.size) == loss
    for name, gradient in gradients.items():
        assert np.array_equal(gradient.numpy(), other.grads[name]), name


@pytest.mark.parametrize("dtype", DTYPES)
def test_neither_threads_nor_recomputation_change_a_bit(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "WORTH", 1)
    results = []
    for count, recompute in ((1, "none"), (2, "none"), (3, "full"), (2, "selective")):
        monkeypatch.setenv(threads.VARIABLE, str(count))
        results.append(learn(build(dtype, recompute)))
    for loss, gradients in results[1:]:
        assert loss == results[0][0]
        assert all(torch.equal(gradients[name], gradient) for name, gradient in results[0][1].items())


def test_stock_kernels_give_other_bits_and_nearly_the_same_gradients() -> None:
    ours, theirs = build(torch.float32), Transformer(architecture(), VOCABULARY)
    theirs.load_state_dict(ours.state_dict())
    (loss, gradients), (expected, stock) = learn(ours), learn(theirs)
    assert abs(loss / expected - 1) < 1e-5
    assert not all(torch.equal(stock[name], gradient) for name, gradient in gradients.items())
    for name, gradient in gradients.items():
        assert float((gradient - stock[name]).norm() / stock[name].norm()) < 1e-5, name


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_cache_says_what_a_full_pass_says_to_the_bit(dtype: torch.dtype) -> None:
    model, (text, _, _), lengths = build(dtype), batch(), [4, 90]
    cache = Cache(model.spec, rows=2, capacity=LENGTH, dtype=dtype)
    with torch.no_grad():
        expected = model(text)
        states = model.hidden(text[:, :90], cache=cache)
        said = [model.logits(states[row, : lengths[row]]) for row in range(2)]
        at = torch.tensor(lengths)
        for _ in range(50):
            step = model(text[torch.arange(2), at][:, None], positions=at[:, None], cache=cache)
            said = [torch.cat((before, now)) for before, now in zip(said, step, strict=True)]
            at = at + 1
    for row, length in enumerate(lengths):
        assert torch.equal(said[row], expected[row, : length + 50])


def test_a_row_reads_the_same_alone_and_in_a_batch() -> None:
    model, (text, _, _) = build(torch.bfloat16), batch()
    with torch.no_grad():
        assert torch.equal(model(text)[1:], model(text[1:])) and torch.equal(model(text)[:, :50], model(text[:, :50]))


def test_what_cannot_be_portable_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"level portable write auto"):
        Transformer(architecture(attention={"pattern": "full", "backend": "sdpa"}), VOCABULARY, portable=True)
    with pytest.raises(UserError, match=r"on cuda: write level topology"):
        Transformer(architecture(), VOCABULARY, device="cuda", portable=True)
