"""The decoder against Hugging Face's Llama with the same weights."""

import pytest
import torch
import transformers
from torch import Tensor

from model.decoder.init import initialise
from model.decoder.transformer import Transformer
from specs.schema.training import Architecture

VOCABULARY = 130


def as_llama(model: Transformer) -> dict[str, Tensor]:
    """Our weights under Llama's names, with the matrices that we join split."""
    spec = model.spec
    heads = (spec.n_heads * spec.head_dim, spec.kv_heads * spec.head_dim, spec.kv_heads * spec.head_dim)
    names = {"model.embed_tokens.weight": model.embedding.weight, "model.norm.weight": model.norm.weight}
    names["lm_head.weight"] = model.output.weight
    for index, block in enumerate(model.blocks):
        at = f"model.layers.{index}"
        q, k, v = block.attention.qkv.weight.split(heads)
        gate, up = block.feed_forward.gate_up.weight.chunk(2)
        names |= {
            f"{at}.self_attn.q_proj.weight": q,
            f"{at}.self_attn.k_proj.weight": k,
            f"{at}.self_attn.v_proj.weight": v,
            f"{at}.self_attn.o_proj.weight": block.attention.out.weight,
            f"{at}.mlp.gate_proj.weight": gate,
            f"{at}.mlp.up_proj.weight": up,
            f"{at}.mlp.down_proj.weight": block.feed_forward.down.weight,
            f"{at}.input_layernorm.weight": block.attention_norm.weight,
            f"{at}.post_attention_layernorm.weight": block.feed_forward_norm.weight,
        }
    return {name: weight.detach() for name, weight in names.items()}


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("backend", ["sdpa", "reference"])
def test_logits_are_those_of_llama(kv_heads: int, backend: str) -> None:
    spec = Architecture.model_validate(
        {
            "d_model": 64,
            "n_layers": 3,
            "n_heads": 4,
            "n_kv_heads": kv_heads,
            "d_ff": 96,
            "context_length": 200,
            "rope_theta": 10_000.0,
            "norm_eps": 1e-5,
            # Large enough that attention is far from even.
            "init_std": 0.1,
            "attention": {"backend": backend},
        }
    )
    model = Transformer(spec, VOCABULARY)
    initialise(model, seed=5)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=spec.d_model,
        intermediate_size=spec.d_ff,
        num_hidden_layers=spec.n_layers,
        num_attention_heads=spec.n_heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=spec.context_length,
        rms_norm_eps=spec.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": spec.rope_theta},
    )
    theirs = transformers.LlamaForCausalLM(config).eval()
    theirs.load_state_dict(as_llama(model))
    tokens = torch.randint(0, VOCABULARY, (2, 200), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, expected = model(tokens), theirs(input_ids=tokens).logits
        assert expected.abs().max() > 0.5
        assert (ours - expected).abs().max() <= 1e-5
        model.blocks[1].attention_norm.weight.mul_(1.01)
        assert (model(tokens) - expected).abs().max() > 1e-4, "the control: one per cent on one norm is seen"
