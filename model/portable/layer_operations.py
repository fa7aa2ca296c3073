"""Norms, SwiGLU, the cross-entropy and lookups of tensors, divided among threads. Formats follow the dtypes."""

import torch
from torch import Tensor

from model.portable.library import rows
from model.portable.multiply import multiply, product
from model.portable.product import CONTINUED, ROUNDED
from model.portable.registry import FORMS, operation, worth
from model.portable.rows import NORM_ROWS
from model.portable.threads import divide

CHUNK = 256
"""Positions whose logits exist at one time. It changes no bit."""


@operation("norm(Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)")
def norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Rows [..., C] over their root mean square, times the gains; and the factors of the rows, fp32."""
    n, form = x.shape[-1], FORMS[x.dtype]
    count, size = x.numel() // n, x.element_size()
    y, scale = torch.empty_like(x), x.new_empty(count, dtype=torch.float32)
    kernel = rows(form)[f"norm_forward_{form}"]

    def piece(start: int, stop: int) -> None:
        at = size * start * n
        addresses = x.data_ptr() + at, weight.data_ptr(), y.data_ptr() + at, scale.data_ptr() + 4 * start
        kernel(*addresses, stop - start, n, eps)

    divide(piece, count, least=worth(8 * n))
    return y, scale


@operation("norm_backward(Tensor grad, Tensor x, Tensor weight, Tensor scale) -> (Tensor, Tensor)")
def norm_backward(grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of rows and of gains."""
    n, form, size = x.shape[-1], FORMS[x.dtype], x.element_size()
    count = x.numel() // n
    dx, sums = torch.empty_like(x), x.new_zeros((-(-count // NORM_ROWS), n), dtype=torch.float32)
    kernel = rows(form)[f"norm_backward_{form}"]

    def piece(start: int, stop: int) -> None:
        for part in range(start, stop):
            row = part * NORM_ROWS
            at = size * row * n
            addresses = grad.data_ptr() + at, x.data_ptr() + at, weight.data_ptr(), scale.data_ptr() + 4 * row
            targets = dx.data_ptr() + at, sums.data_ptr() + 4 * part * n
            kernel(*addresses, *targets, min(NORM_ROWS, count - row), n)

    divide(piece, len(sums), least=worth(8 * n * NORM_ROWS))
    whole = sums[0]
    for part in sums[1:]:
        whole = whole + part
    return dx, whole.to(weight.dtype)


@operation("swiglu(Tensor x) -> Tensor")
def swiglu(x: Tensor) -> Tensor:
    """silu(gate) up of [..., 2 F], gates before ups: [..., F]."""
    n, form, size = x.shape[-1] // 2, FORMS[x.dtype], x.element_size()
    y = x.new_empty((*x.shape[:-1], n))
    kernel = rows(form)[f"swiglu_forward_{form}"]

    def piece(start: int, stop: int) -> None:
        kernel(x.data_ptr() + 2 * size * start * n, y.data_ptr() + size * start * n, stop - start, n)

    divide(piece, y.numel() // n, least=worth(32 * n))
    return y


@operation("swiglu_backward(Tensor grad, Tensor x) -> Tensor")
def swiglu_backward(grad: Tensor, x: Tensor) -> Tensor:
    """Gradient of [..., 2 F]."""
    n, form, size = grad.shape[-1], FORMS[x.dtype], x.element_size()
    dx = torch.empty_like(x)
    kernel = rows(form)[f"swiglu_backward_{form}"]

    def piece(start: int, stop: int) -> None:
        at = size * start * n
        kernel(grad.data_ptr() + at, x.data_ptr() + 2 * at, dx.data_ptr() + 2 * at, stop - start, n)

    divide(piece, grad.numel() // n, least=worth(32 * n))
    return dx


@operation(
    "cross_entropy(Tensor hidden, Tensor weight, Tensor targets, float scale, bool learning) "
    "-> (Tensor, Tensor, Tensor)"
)
def cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, scale: float, learning: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of the losses of hidden [N, C] under weight [V, C], fp64; gradients times `scale` of hidden states, and of
    the weight in fp32 (both empty unless `learning`)."""
    N, (V, C), form = hidden.shape[0], weight.shape, FORMS[hidden.dtype]
    total = hidden.new_zeros((), dtype=torch.float64)
    losses = hidden.new_empty(N, dtype=torch.float64)
    grad_hidden = torch.empty_like(hidden) if learning else hidden.new_empty(0)
    grad_weight = weight.new_zeros((V, C) if learning else 0, dtype=torch.float32)
    kernel = rows(form)[f"entropy_{form}"]
    for start in range(0, N, CHUNK):
        states, wanted = hidden[start : start + CHUNK], targets[start : start + CHUNK]
        logits = product(states, weight.T, True)
        slopes = hidden.new_empty(logits.shape) if learning else hidden.new_empty(0)

        def piece(
            begin: int,
            end: int,
            logits: Tensor = logits,
            slopes: Tensor = slopes,
            wanted: Tensor = wanted,
            at: int = start,
        ) -> None:
            addresses = logits.data_ptr() + 4 * begin * V, wanted.data_ptr() + 8 * begin
            targets = losses.data_ptr() + 8 * (at + begin), slopes.data_ptr() + hidden.element_size() * begin * V
            kernel(*addresses, *targets, end - begin, V, scale, int(learning))

        divide(piece, states.shape[0], least=worth(16 * V))
        if learning:
            multiply(slopes, weight, grad_hidden[start : start + CHUNK], ROUNDED)
            multiply(slopes.T, states, grad_weight, CONTINUED)
    rows("fp32")["chain64"](losses.data_ptr(), total.data_ptr(), N)
    return total, grad_hidden, grad_weight


@operation("lookup_backward(Tensor grad, Tensor tokens, int rows) -> Tensor")
def lookup_backward(grad: Tensor, tokens: Tensor, count: int) -> Tensor:
    """Gradient [rows, C] of a lookup, summed in fp32 in the order of the tokens."""
    C, form = grad.shape[-1], FORMS[grad.dtype]
    out = grad.new_zeros((count, C), dtype=torch.float32)
    kernel = rows(form)[f"lookup_backward_{form}"]
    addresses = grad.data_ptr(), tokens.data_ptr(), out.data_ptr()
    divide(
        lambda start, stop: kernel(*addresses, tokens.numel(), C, start, stop),
        C,
        unit=16,
        least=worth(8 * tokens.numel()),
    )
    return out.to(grad.dtype)
