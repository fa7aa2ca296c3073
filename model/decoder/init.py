"""Weights at the start, as a pure function of (seed, name of the parameter, place in it).

Any range of a parameter can be made alone: every rank makes its own shard, and together they are the same model.
"""

import hashlib
import math

import torch
from torch import Tensor

from model.decoder.transformer import Transformer
from specs.schema.training import Architecture

BLOCK = 65_536
"""Values that one generator makes: a range is cut from whole blocks."""

RESIDUAL = ("attention.out.weight", "feed_forward.down.weight")
"""Matrices that write to the residual stream: smaller by sqrt(2 n_layers), so that its variance does not grow with
depth (Radford et al., 2019)."""


def initial_values(
    spec: Architecture, seed: int, name: str, start: int, stop: int, *, portable: bool = False
) -> Tensor:
    """Values start..stop of the flattened parameter `name`, fp32 `[stop - start]` on the CPU.

    Gains of norms are 1; matrices are normal with `init_std`. `portable` takes numbers that are the same on any
    processor; torch's are not.
    """
    values = torch.ones(stop - start)
    if name.endswith("norm.weight"):
        return values
    for block in range(start // BLOCK, -(-stop // BLOCK)):
        begin = block * BLOCK
        low, high = max(start, begin), min(stop, begin + BLOCK)
        values[low - start : high - start] = _normal_block(seed, name, block, portable)[low - begin : high - begin]
    return values.mul_(spec.init_std / math.sqrt(2 * spec.n_layers) if name.endswith(RESIDUAL) else spec.init_std)


def initialise(model: Transformer, seed: int) -> None:
    """Fill a whole, unsharded model in place."""
    portable = model.backend == "portable"
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = initial_values(model.spec, seed, name, 0, parameter.numel(), portable=portable)
            parameter.copy_(values.view(parameter.shape))


def _normal_block(seed: int, name: str, block: int, portable: bool) -> Tensor:
    if portable:
        from model.portable.initial import normal_block

        return normal_block(seed, name, block, BLOCK)
    digest = hashlib.sha256(f"{seed}/{name}/{block}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.randn(BLOCK, generator=generator)
