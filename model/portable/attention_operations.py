"""Attention of tensors, over rows as they stand or to a cache, divided among threads."""

import torch
from torch import Tensor

from model.portable.attend import BLOCK
from model.portable.library import packing_memory, products, rows
from model.portable.registry import FORMS, operation, worth
from model.portable.threads import divide, scratch


@operation(
    "attention(Tensor heads, Tensor cosines, Tensor sines, Tensor first, Tensor places, Tensor bases, int size, "
    "int queries, int keys) -> (Tensor, Tensor, Tensor)"
)
def attention(
    heads: Tensor,
    cosines: Tensor,
    sines: Tensor,
    first: Tensor,
    places: Tensor,
    bases: Tensor,
    size: int,
    queries: int,
    keys: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention of heads [B, T, (H + 2 K) D] -> [B, T, H D]; with the turned heads, and the weights of the scores."""
    turned = rotated(heads, cosines, sines, queries, keys)
    B, T, C = heads.shape
    D, form = C // (queries + 2 * keys), FORMS[heads.dtype]
    out, weights = heads.new_empty((B, T, queries * D)), heads.new_empty(size)
    kernel = products(form)[f"attention_forward_{form}"]
    tensors = [x.data_ptr() for x in (turned, first, places, bases, weights, out)]

    def piece(start: int, stop: int) -> None:
        kernel(*tensors, start, stop, T, queries, keys, D, scratch("scores", BLOCK * T), *_block_memory(form, T, D))

    divide(piece, B * queries, least=worth(T * min(T, 512) * D))
    return out, turned, weights


@operation(
    "attention_backward(Tensor grad, Tensor turned, Tensor weights, Tensor cosines, Tensor sines, Tensor first, "
    "Tensor places, Tensor bases, int queries, int keys) -> Tensor"
)
def attention_backward(
    grad: Tensor,
    turned: Tensor,
    weights: Tensor,
    cosines: Tensor,
    sines: Tensor,
    first: Tensor,
    places: Tensor,
    bases: Tensor,
    queries: int,
    keys: int,
) -> Tensor:
    """Gradient of the heads, [B, T, (H + 2 K) D]."""
    B, T, C = turned.shape
    D, form = C // (queries + 2 * keys), FORMS[turned.dtype]
    slopes = turned.new_zeros((B, T, C), dtype=torch.float32)
    kernel = products(form)[f"attention_backward_{form}"]
    tensors = [x.data_ptr() for x in (turned, grad, first, places, bases, weights, slopes)]

    def piece(start: int, stop: int) -> None:
        memory = scratch("scores", BLOCK * T), scratch("slopes", BLOCK * T)
        kernel(*tensors, start, stop, T, queries, keys, D, *memory, *_block_memory(form, T, D))

    divide(piece, B * keys, least=worth(T * min(T, 512) * D * 2))
    out = torch.empty_like(turned)
    _rotate(slopes, out, cosines, sines, queries, keys, back=True)
    return out


@operation("turned(Tensor heads, Tensor cosines, Tensor sines, int queries, int keys) -> Tensor")
def rotated(heads: Tensor, cosines: Tensor, sines: Tensor, queries: int, keys: int) -> Tensor:
    """Queries turned and scaled by D^-1/2, keys turned, values as they are."""
    turned = torch.empty_like(heads)
    _rotate(heads, turned, cosines, sines, queries, keys, back=False)
    return turned


def _rotate(x: Tensor, y: Tensor, cosines: Tensor, sines: Tensor, queries: int, keys: int, *, back: bool) -> None:
    B, T, C = x.shape
    D, form = C // (queries + 2 * keys), FORMS[y.dtype]
    kernel = rows(form)[f"rotate_{'back' if back else 'forward'}_{form}"]
    shared = cosines.shape[0] == 1

    def piece(start: int, stop: int) -> None:
        # Rows of one batch entry: the angles of a row are those of its place there.
        for row in range(start, stop):
            at, angle = row * T * C, 0 if shared else 2 * row * T * D
            addresses = x.data_ptr() + x.element_size() * at, y.data_ptr() + y.element_size() * at
            kernel(*addresses, cosines.data_ptr() + angle, sines.data_ptr() + angle, T, T, queries, keys, D, D**-0.5)

    divide(piece, B, least=worth(8 * T * C))


def _block_memory(form: str, T: int, D: int) -> tuple[int, int, int]:
    """Scratch memory for the products of a block of queries."""
    longest = max(T, BLOCK, D)
    return packing_memory(form, longest, longest)


@operation("remember_(Tensor turned, Tensor positions, Tensor(a!) keys, Tensor(b!) values) -> ()")
def remember_(turned: Tensor, positions: Tensor, keys: Tensor, values: Tensor) -> None:
    """Put keys and values of turned heads [B, T, (H + 2 K) D] at positions int64 [B or 1, T] of a cache.

    Values lie in it as [B, K, capacity, D], keys as [B, K, D, capacity], whatever the shape of the tensor says.
    """
    (B, T, C), (_, K, capacity, D) = turned.shape, keys.shape
    kernel = rows(FORMS[turned.dtype])[f"remember_{FORMS[turned.dtype]}"]
    addresses = [x.data_ptr() for x in (turned, keys, values, positions)]
    kernel(*addresses, B * T, positions.numel(), T, C // D - 2 * K, K, D, capacity)


@operation("recall(Tensor turned, Tensor positions, Tensor keys, Tensor values, int window) -> Tensor")
def recall(turned: Tensor, positions: Tensor, keys: Tensor, values: Tensor, window: int) -> Tensor:
    """As `attention`, of turned heads to a cache that holds their keys and values: [B, T, H D]."""
    (B, T, C), (_, K, capacity, D) = turned.shape, keys.shape
    H, form = C // D - 2 * K, FORMS[turned.dtype]
    out = turned.new_empty((B, T, H * D))
    kernel = rows(form)[f"recall_{form}"]
    addresses = [x.data_ptr() for x in (turned, keys, values, positions, out)]

    def piece(start: int, stop: int) -> None:
        memory = scratch("recalled", capacity + 16)
        kernel(*addresses, start, stop, positions.numel(), T, H, K, D, capacity, window, memory)

    divide(piece, B * T, least=worth(16 * capacity * H * D))
    return out
