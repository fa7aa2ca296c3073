"""AdamW over shards, the learning rate as a pure function of the step, clipping and the norm it needs."""

import math

import torch
from torch import Tensor

from runner.training.reduction import halving_sum, row_squares
from runner.training.sharding import Shard, ShardedModel
from specs.schema.training import AdamW, Schedule


def learning_rate(step: int, steps: int, peak: float, schedule: Schedule) -> float:
    """Learning rate of a step, counted from 0, of `steps` in all.

    Warm-up rises linearly and reaches the peak at step `warmup_steps`. `cosine` then falls along half a cosine to
    `final_fraction` of the peak at the last step (Loshchilov and Hutter, 2017), `constant` stays, `wsd` stays and falls
    linearly over the last `decay_fraction` of all steps (Hu et al., 2024).
    """
    if step < schedule.warmup_steps:
        return peak * (step + 1) / (schedule.warmup_steps + 1)
    last, final = steps - 1, schedule.final_fraction
    match schedule.kind:
        case "constant":
            return peak
        case "cosine":
            done = _progress(step, schedule.warmup_steps, last)
            return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done)))
        case "wsd":
            begin = max(schedule.warmup_steps, last - round(schedule.decay_fraction * steps))
            return peak * (1 - (1 - final) * _progress(step, begin, last))


class Optimizer:
    """AdamW on this rank's shards as plain tensors, every operation elementwise: no shard boundary changes a result.

    (The fused CPU kernel would: it treats the tail of a tensor otherwise than its body.)
    """

    def __init__(self, spec: AdamW, shards: list[Shard]) -> None:
        self._values = [shard.values for shard in shards]
        matrices = [shard.values for shard in shards if len(shard.shape) > 1]
        gains = [shard.values for shard in shards if len(shard.shape) == 1]
        self._adamw = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": spec.weight_decay}, {"params": gains, "weight_decay": 0.0}],
            lr=spec.lr,
            betas=(spec.beta1, spec.beta2),
            eps=spec.eps,
            foreach=True,
        )
        self.first = [torch.zeros_like(values) for values in self._values]
        self.second = [torch.zeros_like(values) for values in self._values]
        self.resume(updates=0)

    def reset(self) -> None:
        """Begin anew: no updates, moments of zero."""
        torch._foreach_zero_([*self.first, *self.second])
        self.resume(updates=0)

    def resume(self, updates: int) -> None:
        """Take up after a number of updates, with the moments that `first` and `second` hold."""
        self.updates = updates
        for values, first, second in zip(self._values, self.first, self.second, strict=True):
            # The bias correction depends on the count.
            self._adamw.state[values] = {
                "step": torch.tensor(float(updates)),
                "exp_avg": first,
                "exp_avg_sq": second,
            }

    def update(self, gradients: list[Tensor], lr: float) -> None:
        """One update of the shards in place; gradients fp32, in the order of the shards."""
        for group in self._adamw.param_groups:
            group["lr"] = lr
        for values, gradient in zip(self._values, gradients, strict=True):
            values.grad = gradient
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        self.updates += 1


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


def _progress(step: int, begin: int, end: int) -> float:
    return 1.0 if begin >= end else min(max((step - begin) / (end - begin), 0.0), 1.0)
