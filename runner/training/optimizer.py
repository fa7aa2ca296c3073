"""AdamW over shards from IEEE operations, clipping, and the norm that it needs."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

from runner.training.reduction import halving_sum, row_squares
from runner.training.sharding import Shard, ShardedModel
from specs.schema.training import AdamW

BLOCK = 65_536
"""Elements that are updated together on a CPU: what they need stays in its cache from one operation to the next."""


class Optimizer:
    """AdamW (Loshchilov and Hutter, 2019) on this rank's shards as plain tensors. Gains of norms do not decay.

    Every operation is elementwise and rounds once, as IEEE 754 says: neither shard boundaries nor processors change a
    result. Stock kernels keep neither promise: the fused one treats the tail of a tensor otherwise than its body,
    `lerp` and `addcmul` fuse where a processor can, and `torch.sqrt` on x86 is the one of MKL, which differs from the
    square root of IEEE 754 in one value of five.

    `device` is the kind of device (`cpu`, `cuda`) that computes.
    """

    def __init__(self, spec: AdamW, shards: Sequence[Shard], device: str = "cpu") -> None:
        self.spec = spec
        self._shards = list(shards)
        self._apply: Callable[..., None] = torch.ops.twice.adamw_ if device == "cpu" else _adamw_of_torch
        self.first = [torch.zeros_like(shard.values) for shard in shards]
        self.second = [torch.zeros_like(shard.values) for shard in shards]
        self.updates = 0

    def reset(self) -> None:
        """Begin anew: no updates, moments of zero."""
        torch._foreach_zero_([*self.first, *self.second])
        self.updates = 0

    def resume(self, updates: int) -> None:
        """Take up after a number of updates, with the moments that `first` and `second` hold."""
        self.updates = updates

    @torch.no_grad()
    def update(self, gradients: Sequence[Tensor], lr: float) -> None:
        """One update of the shards in place; gradients fp32, in the order of the shards."""
        self.updates += 1
        spec = self.spec
        correction1, correction2 = (1 - power(beta, self.updates) for beta in (spec.beta1, spec.beta2))
        rates = [spec.beta1, 1 - spec.beta1, spec.beta2, 1 - spec.beta2, math.sqrt(correction2), spec.eps]
        with record_function("Optimizer.update"):
            for shard, gradient, *moments in zip(self._shards, gradients, self.first, self.second, strict=True):
                kept = 1 - lr * spec.weight_decay if len(shard.shape) > 1 else 1.0
                self._apply(shard.values, gradient, *moments, [kept, *rates, lr / correction1])


def power(base: float, exponent: int) -> float:
    """`base` to a whole number from 0 on, by products alone: the C library's `pow` may differ between processors."""
    result = 1.0
    while exponent:
        if exponent & 1:
            result *= base
        base, exponent = base * base, exponent >> 1
    return result


def _adamw(rates: Sequence[float], sqrt: Any, values: Any, gradient: Any, first: Any, second: Any) -> None:
    """The update in place, one rounding an operation, of fp32 arrays of numpy or tensors of torch alike."""
    kept, beta1, rest1, beta2, rest2, correction, eps, rate = rates
    values *= kept
    first *= beta1
    first += gradient * rest1
    second *= beta2
    part = gradient * gradient
    part *= rest2
    second += part
    part = sqrt(second)
    part /= correction
    part += eps
    part = first / part
    part *= rate
    values -= part


def _adamw_of_torch(values: Tensor, gradient: Tensor, first: Tensor, second: Tensor, rates: Sequence[float]) -> None:
    _adamw(rates, torch.sqrt, values, gradient, first, second)  # on CUDA it is the one of IEEE 754


def _adamw_of_numpy(values: Tensor, gradient: Tensor, first: Tensor, second: Tensor, rates: Sequence[float]) -> None:
    arrays = [tensor.view(-1).numpy() for tensor in (values, gradient, first, second)]
    for start in range(0, values.numel(), BLOCK):
        _adamw(rates, np.sqrt, *(array[start : start + BLOCK] for array in arrays))


# An operator of its own, so that a step can be traced on tensors without data: numpy cannot compute on those.
_OPERATORS = torch.library.Library("twice", "DEF")  # type: ignore[no-untyped-call]
_OPERATORS.define(  # type: ignore[no-untyped-call]
    "adamw_(Tensor(a!) values, Tensor gradient, Tensor(b!) first, Tensor(c!) second, float[] rates) -> ()"
)
_OPERATORS.impl("adamw_", _adamw_of_numpy, "CPU")  # type: ignore[no-untyped-call]
_OPERATORS.impl("adamw_", lambda *_: None, "Meta")  # type: ignore[no-untyped-call]


def squared_norms(model: ShardedModel, gradients: list[Tensor]) -> list[float]:
    """Squared Euclidean norm of each whole parameter's gradient, in the model's order.

    Rows first, then the rows of a parameter, each by halving in fp64: the order depends on shapes alone.
    """
    rows = model.gather_rows([row_squares(gradient) for gradient in gradients])
    return [float(square) for square in torch.stack([halving_sum(row) for row in rows]).tolist()]


def total_norm(squares: list[float]) -> float:
    """Norm of the whole gradient from the squared norms of its parameters."""
    return math.sqrt(halving_sum(torch.tensor(squares, dtype=torch.float64)).item())


def clip(gradients: list[Tensor], norm: float, limit: float) -> None:
    """Scale gradients in place so that their global norm is at most `limit` (Pascanu et al., 2013)."""
    if norm > limit:
        torch._foreach_mul_(gradients, limit / norm)
