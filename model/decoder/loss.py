"""The two ends of the model where memory or rounding asks for care: token lookup and cross-entropy."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, tokens: Tensor) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.rows, ctx.dtype = weight.shape[0], weight.dtype
        return F.embedding(tokens, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (tokens,) = ctx.saved_tensors
        summed = torch.ops.aten.embedding_dense_backward(grad.float(), tokens, ctx.rows, -1, False)
        return summed.to(ctx.dtype), None


def lookup(weight: Tensor, tokens: Tensor) -> Tensor:
    """Rows of `weight` [V, C] for token ids [B, T]; the gradient adds in fp32.

    The stock backward on CPU adds in the dtype of the gradient: in bf16 a token's 300th occurrence counts no more.
    """
    return _Lookup.apply(weight, tokens)  # type: ignore[no-any-return,no-untyped-call]


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scale: float, chunk: int) -> Tensor:
        train = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if train else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if train else None
        for start in range(0, hidden.shape[0], chunk):
            states, wanted = hidden[start : start + chunk], targets[start : start + chunk, None]
            count = states.shape[0]
            if count < chunk:
                # One shape for every product: kernels that are compiled for each shape would fill memory with them.
                states, wanted = F.pad(states, (0, 0, 0, chunk - count)), F.pad(wanted, (0, 0, 0, chunk - count))
            logits = (states @ weight.T).float()  # [chunk, V]
            p = logits.softmax(dim=-1)
            # The largest probability is exp(max - logsumexp) and never underflows; log_softmax would cost a pass more.
            log_sum = logits.amax(dim=-1, keepdim=True) - p.amax(dim=-1, keepdim=True).log()
            total += (log_sum - logits.gather(1, wanted))[:count].double().sum()
            if grad_hidden is not None and grad_weight is not None:
                # d(scale * loss) / d(logits) = scale * (softmax - one_hot), written over the probabilities.
                slope = p.scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=torch.float32))
                slope[count:] = 0
                slope = slope.mul_(scale).to(hidden.dtype)
                grad_hidden[start : start + count] = (slope @ weight)[:count]
                grad_weight += slope.T @ states
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.dtype = weight.dtype
        return (scale * total).float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad.to(grad_hidden.dtype), (grad_weight * grad).to(ctx.dtype), None, None, None


def summed_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, *, scale: float, chunk: int) -> Tensor:
    """`scale` times the sum over positions of the cross-entropy of `hidden @ weight.T`, in nats: an fp32 scalar.

    hidden [N, C], weight [V, C], targets int64 [N]. Logits exist for `chunk` positions at a time, never all; gradients
    are made in the same pass, while they exist, so nothing is computed twice.
    """
    return _SummedCrossEntropy.apply(hidden, weight, targets, scale, chunk)  # type: ignore[no-any-return,no-untyped-call]
