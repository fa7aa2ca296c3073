"""The decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU. Shapes as comments, nothing to look up.

Letters: B rows, T positions, C channels of the model (`d_model`), H query heads, K key and value heads, D channels of a
head, F channels of the feed-forward, V vocabulary. Parallelism is applied from outside; the model knows nothing of it.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, noop_context_fn

from model.decoder.activation_checkpointing import selective
from model.decoder.attention import Attend, backend_for, layer_windows, lower
from model.decoder.kernels import rms_norm, rotate
from model.decoder.kv_cache import Cache, LayerCache
from model.decoder.loss import lookup, summed_cross_entropy
from specs.schema.training import Architecture

Recompute = Literal["none", "full", "selective"]
Rotation = tuple[Tensor, Tensor]


class RMSNorm(nn.Module):
    """Scale to unit root mean square (Zhang and Sennrich, 2019), computed in fp32 whatever the input.

    `device` is where it will compute: PyTorch fuses this on a GPU, not on a CPU.
    """

    def __init__(self, width: int, eps: float, device: str) -> None:
        super().__init__()
        self.eps, self.on_cpu = eps, device == "cpu"
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C] in the dtype of `x`."""
        if self.on_cpu:
            return rms_norm(x, self.weight, self.eps)
        return F.rms_norm(x.float(), (x.shape[-1],), eps=self.eps).to(x.dtype) * self.weight


def rotation(positions: Tensor, head_dim: int, theta: float) -> Rotation:
    """Cosines and sines [B or 1, 1, T, D] of rotary positions (Su et al., 2021), halves rotated as in Llama: the first
    half of the sines is negative.

    Frequencies and angles are fp32, the former from the CPU, by the same operations as in `transformers`, so that an
    exported model is the same function there. At position 8,192 such an angle is off by 5e-4; taken in fp64 here alone,
    logits would differ by 2e-5 after some hundred positions.
    """
    powers = torch.arange(0, head_dim, 2, device="cpu", dtype=torch.float32) / head_dim
    angles = positions.float()[:, None, :, None] * (1.0 / theta**powers).to(positions.device)  # [B, 1, T, D/2]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


class Attention(nn.Module):
    """Grouped-query attention; which keys are seen is decided by `attend`, lowered once for all layers."""

    def __init__(self, spec: Architecture) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = spec.n_heads, spec.kv_heads, spec.head_dim
        self.qkv = nn.Linear(spec.d_model, (self.heads + 2 * self.kv_heads) * self.head_dim, bias=False)
        self.out = nn.Linear(spec.d_model, spec.d_model, bias=False)

    def forward(self, x: Tensor, by: Rotation, attend: Attend, cache: LayerCache | None) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        heads = self.qkv(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # [B, H + 2K, T, D]
        q, k, v = heads.split((self.heads, self.kv_heads, self.kv_heads), dim=1)
        q, k = rotate(q, *by), rotate(k, *by)
        if cache is not None:
            k, v = cache.extend(k, v)  # [B, K, capacity, D]
        return self.out(attend(q, k, v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """SwiGLU (Shazeer, 2020): `down(silu(gate(x)) * up(x))`, gate and up in one matrix."""

    def __init__(self, spec: Architecture) -> None:
        super().__init__()
        self.gate_up = nn.Linear(spec.d_model, 2 * spec.d_ff, bias=False)
        self.down = nn.Linear(spec.d_ff, spec.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)  # [B, T, F] each
        return self.down(F.silu(gate) * up)  # type: ignore[no-any-return]


class Block(nn.Module):
    """One pre-norm layer: attention and feed-forward, each added to the residual stream."""

    def __init__(self, spec: Architecture, window: int | None, recompute: Recompute, device: str) -> None:
        super().__init__()
        self.window = window
        self.recompute = recompute
        self.attention_norm = RMSNorm(spec.d_model, spec.norm_eps, device)
        self.attention = Attention(spec)
        self.feed_forward_norm = RMSNorm(spec.d_model, spec.norm_eps, device)
        self.feed_forward = FeedForward(spec)

    def forward(self, x: Tensor, by: Rotation, attend: Attend, cache: LayerCache | None = None) -> Tensor:
        """[B, T, C] -> [B, T, C]. Recomputation happens in here, so that sharding hooks stay outside it."""
        if self.recompute == "none" or not torch.is_grad_enabled():
            return self.layers(x, by, attend, cache)
        context = selective if self.recompute == "selective" else noop_context_fn
        return checkpoint(  # type: ignore[no-any-return]
            self.layers, x, by, attend, cache, use_reentrant=False, preserve_rng_state=False, context_fn=context
        )

    def layers(self, x: Tensor, by: Rotation, attend: Attend, cache: LayerCache | None) -> Tensor:
        """The layer as such, without recomputation."""
        x = x + self.attention(self.attention_norm(x), by, attend, cache)
        return x + self.feed_forward(self.feed_forward_norm(x))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """The decoder. Construct under `torch.device("meta")` and fill with `model.decoder.init` or from a file.

    Three ways in: `forward` for logits, `loss` for training, `hidden` then `logits` for sampling, where only some
    positions need logits.

    `device` (`cpu`, `cuda`) and `dtype` say where and in what format it will compute: they resolve the attention
    backend, which is `self.backend`. Raises UserError where the backend that the spec names is not available there.
    """

    def __init__(
        self,
        spec: Architecture,
        vocab_size: int,
        *,
        recompute: Recompute = "none",
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.backend = backend_for(spec.attention, device, dtype)
        self.windows = layer_windows(spec.attention, spec.n_layers)
        self.embedding = nn.Embedding(vocab_size, spec.d_model)
        self.blocks = nn.ModuleList(Block(spec, window, recompute, device) for window in self.windows)
        self.norm = RMSNorm(spec.d_model, spec.norm_eps, device)
        self.output = nn.Linear(spec.d_model, vocab_size, bias=False)
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
        by = rotation(positions, self.spec.head_dim, self.spec.rope_theta)
        x = lookup(self.embedding.weight, tokens)  # [B, T, C]
        capacity = cache.capacity if cache else None
        attend = lower(self.backend, self.windows, positions, documents, capacity, in_order=in_order, dtype=x.dtype)
        for index, block in enumerate(self.blocks):
            layer = cache.layer(index, positions) if cache else None
            x = block(x, by, attend[self.windows[index]], layer)
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
        return summed_cross_entropy(hidden[learnt], self.output.weight, targets[learnt], scale=scale, chunk=chunk)
