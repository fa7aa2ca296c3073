"""Matrix products of tensors, divided among threads."""

import torch
from torch import Tensor

from model.portable.library import packing_memory, panel_columns, products, tile
from model.portable.product import ROUNDED, WHOLE
from model.portable.registry import FORMS, operation, worth
from model.portable.threads import divide


def _matrix(x: Tensor) -> tuple[int, int, int]:
    """Address, distance of rows, and whether the second dimension lies side by side."""
    along = x.stride(1) == 1
    return x.data_ptr(), x.stride(0) if along else x.stride(1), int(along)


def multiply(a: Tensor, b: Tensor, out: Tensor, mode: int) -> None:
    """out [M, N] from a [M, K] and b [K, N], each with rows or columns side by side."""
    (M, K), N, form = a.shape, b.shape[1], FORMS[a.dtype]
    (left, a_distance, a_along), (right, b_distance, b_along) = _matrix(a), _matrix(b)
    size, result = a.element_size(), out.element_size()
    target, distance, sizes = out.data_ptr(), out.stride(0), tile(form)
    panel = panel_columns(form, K)
    kernel = products(form)[f"product_{form}"]

    def piece(row: int, row_end: int, column: int, column_end: int) -> None:
        for start in range(column, column_end, panel):
            count = min(panel, column_end - start)
            kernel(
                *(row_end - row, count, K),
                *(left + size * row * (a_distance if a_along else 1), a_distance, a_along),
                *(right + size * start * (1 if b_along else b_distance), b_distance, 1 - b_along),
                *(target + result * (row * distance + start), distance, mode),
                *packing_memory(form, K, count),
            )

    by_rows = M >= N
    unit, other = (sizes.rows, N) if by_rows else (sizes.columns, M)
    least = worth(K * other)
    if by_rows:
        divide(lambda start, stop: piece(start, stop, 0, N), M, unit=unit, least=least)
    else:
        divide(lambda start, stop: piece(0, M, start, stop), N, unit=unit, least=least)


@operation("product(Tensor a, Tensor b, bool whole=False) -> Tensor")
def product(a: Tensor, b: Tensor, whole: bool = False) -> Tensor:
    """a [M, K] @ b [K, N] in the operands' format, or in fp32 (`whole`)."""
    out = a.new_empty((a.shape[0], b.shape[1]), dtype=torch.float32 if whole else a.dtype)
    multiply(a, b, out, WHOLE if whole else ROUNDED)
    return out
