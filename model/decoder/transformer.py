"""The decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU. Shapes as comments, nothing to look up.

Letters: B rows, T positions, C channels of the model (`d_model`), H query heads, K key and value heads, D channels of a
head, F channels of the feed-forward, V vocabulary. Parallelism is applied from outside; the model knows nothing of it.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, noop_context_fn

from model.decoder.activation_checkpointing import selective
from model.decoder.arithmetic import Arithmetic, Attend, Rotation, arithmetic
from model.decoder.kv_cache import Cache, LayerCache
from specs.schema.training import Architecture

Recompute = Literal["none", "full", "selective"]


class Linear(nn.Linear):
    """A matrix product, without bias."""

    def __init__(self, width: int, out: int, arithmetic: Arithmetic) -> None:
        super().__init__(width, out, bias=False)
        self.arithmetic = arithmetic

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., out]."""
        return self.arithmetic.linear(x, self.weight)


class RMSNorm(nn.Module):
    """Scale to unit root mean square (Zhang and Sennrich, 2019), computed in fp32 whatever the input."""

    def __init__(self, width: int, eps: float, arithmetic: Arithmetic) -> None:
        super().__init__()
        self.eps, self.arithmetic = eps, arithmetic
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C] in the dtype of `x`."""
        return self.arithmetic.norm(x, self.weight, self.eps)


class Attention(nn.Module):
    """Grouped-query attention; which keys are seen is decided by `attend`, lowered once for all layers."""

    def __init__(self, spec: Architecture, arithmetic: Arithmetic) -> None:
        super().__init__()
        self.heads, self.kv_heads = spec.n_heads, spec.kv_heads
        self.qkv = Linear(spec.d_model, (self.heads + 2 * self.kv_heads) * spec.head_dim, arithmetic)
        self.out = Linear(spec.d_model, spec.d_model, arithmetic)

    def forward(self, x: Tensor, cos_sin: Rotation, attend: Attend, cache: LayerCache | None) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        heads = self.qkv(x)  # [B, T, (H + 2K) D]
        return self.out(attend(heads, cos_sin, self.heads, self.kv_heads, cache))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """SwiGLU (Shazeer, 2020): `down(silu(gate(x)) * up(x))`, gate and up in one matrix."""

    def __init__(self, spec: Architecture, arithmetic: Arithmetic) -> None:
        super().__init__()
        self.arithmetic = arithmetic
        self.gate_up = Linear(spec.d_model, 2 * spec.d_ff, arithmetic)
        self.down = Linear(spec.d_ff, spec.d_model, arithmetic)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        return self.down(self.arithmetic.swiglu(self.gate_up(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """One pre-norm layer: attention and feed-forward, each added to the residual stream."""

    def __init__(self, spec: Architecture, window: int | None, recompute: Recompute, arithmetic: Arithmetic) -> None:
        super().__init__()
        self.window = window
        self.recompute = recompute
        self.attention_norm = RMSNorm(spec.d_model, spec.norm_eps, arithmetic)
        self.attention = Attention(spec, arithmetic)
        self.feed_forward_norm = RMSNorm(spec.d_model, spec.norm_eps, arithmetic)
        self.feed_forward = FeedForward(spec, arithmetic)

    def forward(self, x: Tensor, cos_sin: Rotation, attend: Attend, cache: LayerCache | None = None) -> Tensor:
        """[B, T, C] -> [B, T, C]. Recomputation happens in here, so that sharding hooks stay outside it."""
        if self.recompute == "none" or not torch.is_grad_enabled():
            return self.layers(x, cos_sin, attend, cache)
        context = selective if self.recompute == "selective" else noop_context_fn
        return checkpoint(  # type: ignore[no-any-return]
            self.layers, x, cos_sin, attend, cache, use_reentrant=False, preserve_rng_state=False, context_fn=context
        )

    def layers(self, x: Tensor, cos_sin: Rotation, attend: Attend, cache: LayerCache | None) -> Tensor:
        """The layer as such, without recomputation."""
        x = x + self.attention(self.attention_norm(x), cos_sin, attend, cache)
        return x + self.feed_forward(self.feed_forward_norm(x))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """The decoder. Construct under `torch.device("meta")` and fill with `model.decoder.init` or from a file.

    Three ways in: `forward` for logits, `loss` for training, `hidden` then `logits` for sampling, where only some
    positions need logits.

    `device` (`cpu`, `cuda`) and `dtype` say where and in what format it will compute: they resolve the attention
    backend, which is `self.backend`. `portable` asks for the same bits on any processor. Raises UserError where either
    cannot be had there.
    """

    def __init__(
        self,
        spec: Architecture,
        vocab_size: int,
        *,
        recompute: Recompute = "none",
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        portable: bool = False,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.arithmetic = arithmetic(spec.attention, device, dtype, portable=portable)
        self.backend = self.arithmetic.backend
        self.windows = spec.attention.windows(spec.n_layers)
        self.embedding = nn.Embedding(vocab_size, spec.d_model)
        self.blocks = nn.ModuleList(Block(spec, window, recompute, self.arithmetic) for window in self.windows)
        self.norm = RMSNorm(spec.d_model, spec.norm_eps, self.arithmetic)
        self.output = Linear(spec.d_model, vocab_size, self.arithmetic)
        if spec.tie_embeddings:
            self.output.weight = self.embedding.weight

    def compile_layers(self) -> None:
        """Send every layer through torch.compile, which takes shape when it first runs; sharding hooks stay outside."""
        for block in self.blocks:
            assert isinstance(block, Block)
            block.layers = torch.compile(block.layers, dynamic=False)  # type: ignore[method-assign]

    def hidden(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Final normed states [B, T, C] of token ids int64 [B, T].

        positions: int64 [B, T] or [1, T], the place of each token in its row, from 0; none means 0, 1, ..., T - 1.
        documents: integers [B, T], non-decreasing; a token attends within its own document only (none, or a spec with
            `document_mask` off: all of the row is one).
        cache: keys and values of earlier calls. Each row's new ones are written at `positions`, and a query sees the
            keys at positions up to its own. So a batch of prompts of different lengths is passed left-aligned and
            padded at the right, with positions 0, 1, ...: what padding leaves in the cache lies behind every query's
            position until a decoded token overwrites it. Documents are not combined with a cache.
        """
        in_order = positions is None
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        if not self.spec.attention.document_mask:
            documents = None
        cos_sin = self.arithmetic.rotation(positions, self.spec.head_dim, self.spec.rope_theta)
        x = self.arithmetic.lookup(self.embedding.weight, tokens)  # [B, T, C]
        capacity = cache.capacity if cache else None
        attend = self.arithmetic.attend(self.windows, positions, documents, capacity, in_order=in_order, dtype=x.dtype)
        for index, block in enumerate(self.blocks):
            layer = cache.layer(index, positions) if cache else None
            x = block(x, cos_sin, attend[self.windows[index]], layer)
        return self.norm(x)  # type: ignore[no-any-return]

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., C] -> [..., V]."""
        return self.output(hidden)  # type: ignore[no-any-return]

    def forward(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Logits [B, T, V]; arguments as in `hidden`."""
        return self.logits(self.hidden(tokens, positions=positions, documents=documents, cache=cache))

    def loss(
        self, tokens: Tensor, targets: Tensor, learnt: Tensor, *, documents: Tensor | None, scale: float, chunk: int
    ) -> Tensor:
        """`scale` times the summed cross-entropy (nats) of the positions to learn, a scalar in fp32.

        tokens, targets: int64 [B, T]; learnt: bool [B, T]; documents as in `hidden`; chunk: positions whose logits
        exist at one time. With scale = 1 / (targets of the global batch), the losses of micro-batches add to the mean.
        """
        hidden = self.hidden(tokens, documents=documents)
        return self.arithmetic.cross_entropy(
            hidden[learnt], self.output.weight, targets[learnt], scale=scale, chunk=chunk
        )
