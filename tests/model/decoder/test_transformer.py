"""The decoder: who sees whom, the cache, the loss, recomputation, and how many weights there are."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.decoder.init import initialise
from model.decoder.kv_cache import Cache
from model.decoder.loss import lookup
from model.decoder.transformer import Transformer
from specs.estimates.counts import parameters
from specs.loading.load import load_experiment
from specs.loading.settings import ROOT
from specs.schema.training import Architecture

VOCABULARY = 50


def architecture(**changes: Any) -> Architecture:
    values = {
        "d_model": 24,
        "n_layers": 4,
        "n_heads": 4,
        "n_kv_heads": 2,
        "d_ff": 40,
        "context_length": 32,
        "attention": {"pattern": "interleaved", "window": 5, "global_every": 2},
        # Large weights, so that attention is far from even and a wrong mask shows.
        "init_std": 0.3,
    }
    return Architecture.model_validate(values | changes)


def build(**changes: Any) -> Transformer:
    model = Transformer(architecture(**changes), VOCABULARY)
    initialise(model, seed=3)
    return model


def tokens(rows: int = 2, length: int = 20, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["smoke", "code-34b"])
def test_parameters_are_as_many_as_arithmetic_says(name: str) -> None:
    experiment = load_experiment(ROOT / "specs" / "experiments" / f"{name}.yaml")
    with torch.device("meta"):
        model = Transformer(experiment.architecture, experiment.tokenizer.vocab_size)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == parameters(experiment.architecture, experiment.tokenizer.vocab_size).total
    if name == "code-34b":
        assert count == 34_000_573_440


@pytest.mark.parametrize("changes", [{"tie_embeddings": True}, {"n_kv_heads": None}, {}])
def test_parameters_of_options_are_as_many_as_arithmetic_says(changes: dict[str, Any]) -> None:
    model = build(**changes)
    assert sum(p.numel() for p in model.parameters()) == parameters(model.spec, VOCABULARY).total


def test_what_a_position_says_depends_on_earlier_ones_alone() -> None:
    model, text = build(), tokens()
    changed = text.clone()
    changed[:, 12] = (changed[:, 12] + 1) % VOCABULARY
    before, after = model(text), model(changed)
    assert torch.equal(before[:, :12], after[:, :12])
    assert (before[:, 12:] != after[:, 12:]).any(-1).all()


def test_documents_of_a_row_do_not_see_each_other() -> None:
    model, text = build(), tokens()
    documents = (torch.arange(20) // 8).expand(2, 20)
    changed = text.clone()
    changed[:, 3] = (changed[:, 3] + 1) % VOCABULARY
    before, after = model(text, documents=documents), model(changed, documents=documents)
    assert torch.equal(before[:, 8:], after[:, 8:])
    assert not torch.equal(before[:, 3:8], after[:, 3:8])
    assert not torch.equal(model(text)[:, 8:], model(changed)[:, 8:]), "without documents they would"


def test_a_document_reads_the_same_alone_and_packed() -> None:
    model, text = build(), tokens()
    documents = (torch.arange(20) // 8).expand(2, 20)
    packed = model(text, documents=documents)[:, 8:16]
    assert torch.allclose(model(text[:, 8:16]), packed, atol=1e-5)


def test_documents_are_ignored_where_the_spec_says_so() -> None:
    attention = {"pattern": "full", "document_mask": False}
    model, text = build(attention=attention), tokens()
    assert torch.equal(model(text), model(text, documents=torch.arange(20).expand(2, 20)))


@pytest.mark.parametrize(("layers", "reach"), [(1, 5), (2, 9)])
def test_a_window_bounds_what_a_layer_sees(layers: int, reach: int) -> None:
    model = build(n_layers=layers, attention={"pattern": "sliding", "window": 5})
    text = tokens(rows=1)
    changed = text.clone()
    changed[:, 2] = (changed[:, 2] + 1) % VOCABULARY
    different = (model(text) != model(changed)).any(-1)[0]
    assert different.nonzero()[:, 0].tolist() == list(range(2, 2 + reach))


def test_a_cache_says_what_a_full_pass_says() -> None:
    """Prompts of different lengths, padded at the right, then decoded one token at a time."""
    model, text, lengths = build(), tokens(rows=3), [4, 9, 6]
    cache = Cache(model.spec, rows=3, capacity=20, dtype=torch.float32)
    with torch.no_grad():
        expected = model(text)
        prompts = text[:, :9].clone()
        for row, length in enumerate(lengths):
            prompts[row, length:] = 0
        states = model.hidden(prompts, cache=cache)
        said = [model.logits(states[row, : lengths[row]]) for row in range(3)]
        at = torch.tensor(lengths)
        for _ in range(11):
            step = model(text[torch.arange(3), at][:, None], positions=at[:, None], cache=cache)
            said = [torch.cat((before, now)) for before, now in zip(said, step, strict=True)]
            at = at + 1
    for row, length in enumerate(lengths):
        assert torch.allclose(said[row], expected[row, : length + 11], atol=1e-5)


def test_a_cache_needs_no_reset_between_batches() -> None:
    model = build()
    used, fresh = (Cache(model.spec, 2, 20, dtype=torch.float32) for _ in range(2))
    with torch.no_grad():
        model(tokens(seed=1), cache=used)
        assert torch.equal(model(tokens(length=7), cache=used), model(tokens(length=7), cache=fresh))


@pytest.mark.parametrize("chunk", [1, 7, 100])
@pytest.mark.parametrize("tied", [False, True])
def test_the_chunked_loss_is_the_cross_entropy(chunk: int, tied: bool) -> None:
    model, text = build(tie_embeddings=tied), tokens()
    targets, learnt = text.roll(-1, 1), tokens(seed=9) % 3 > 0
    loss = model.loss(text, targets, learnt, documents=None, scale=0.25, chunk=chunk)
    loss.backward()
    chunked = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    expected = 0.25 * F.cross_entropy(model(text)[learnt], targets[learnt], reduction="sum")
    expected.backward()
    assert torch.allclose(loss, expected, rtol=1e-5)
    for ours, parameter in zip(chunked, model.parameters(), strict=True):
        assert parameter.grad is not None and torch.allclose(ours, parameter.grad, atol=2e-5)


def test_a_micro_batch_without_targets_has_no_loss_and_no_gradient() -> None:
    model, text = build(), tokens()
    loss = model.loss(text, text, torch.zeros_like(text, dtype=torch.bool), documents=None, scale=1.0, chunk=8)
    loss.backward()
    assert loss == 0 and all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_the_loss_survives_logits_that_underflow() -> None:
    model, text = build(), tokens()
    with torch.no_grad():
        model.output.weight.mul_(1000)
    learnt = torch.ones_like(text, dtype=torch.bool)
    loss = model.loss(text, text.roll(-1, 1), learnt, documents=None, scale=1.0, chunk=8)
    expected = F.cross_entropy(model(text).double().flatten(0, 1), text.roll(-1, 1).flatten(), reduction="sum")
    assert torch.allclose(loss.double(), expected, rtol=1e-4)


def test_the_lookup_adds_its_gradient_in_fp32() -> None:
    weight = torch.zeros(3, 2, dtype=torch.bfloat16, requires_grad=True)
    lookup(weight, torch.full((4, 1024), 1)).sum().backward()
    assert weight.grad is not None and weight.grad.tolist() == [[0, 0], [4096, 4096], [0, 0]]


@pytest.mark.parametrize("recompute", ["full", "selective"])
def test_recomputation_changes_no_bit(recompute: Any) -> None:
    text, results = tokens(), []
    for mode in ("none", recompute):
        model = Transformer(architecture(), VOCABULARY, recompute=mode)
        initialise(model, seed=3)
        model.loss(text, text.roll(-1, 1), text > 4, documents=None, scale=1.0, chunk=16).backward()
        results.append([parameter.grad for parameter in model.parameters()])
    assert all(gradient is not None for gradient in results[0])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_grouped_queries_share_keys_as_repeated_ones_would() -> None:
    grouped, full = build(n_kv_heads=2), build(n_kv_heads=4)
    skipped = [name for name, _ in full.named_parameters() if not name.endswith("qkv.weight")]
    assert all(torch.equal(full.get_parameter(name), grouped.get_parameter(name)) for name in skipped)
    with torch.no_grad():
        for ours, theirs in zip(full.blocks, grouped.blocks, strict=True):
            q, k, v = theirs.attention.qkv.weight.unflatten(0, (8, 6)).split((4, 2, 2))
            wide = torch.cat((q, k.repeat_interleave(2, 0), v.repeat_interleave(2, 0)))
            ours.attention.qkv.weight.copy_(wide.flatten(0, 1))
    assert torch.allclose(grouped(tokens()), full(tokens()), atol=1e-5)
