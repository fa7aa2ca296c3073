"""Sums whose order no world size changes: the balanced tree over micro-batches, and the fold of the gradient norm.

Floating-point addition is not associative, so a sum is reproducible only when its order is fixed. Micro-batches are the
leaves of one tree. At sub-step j rank r of W computes micro-batch j W + r; the W gradients of a sub-step are folded
where their shard lives (`TreeReduceScatter`), which is the inner part of the tree, and sub-steps are folded as they
come (`Fold`), which is the outer part. No collective ever adds: they only move pieces.

On several nodes the inner part is folded in two stages, inside each node and then across nodes. Ranks are numbered node
by node, so the ranks of a node are a subtree, and the tree is the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp._fully_shard._fsdp_api import ReduceScatter


class Fold:
    """Adds groups of tensors as the leaves of a balanced binary tree, in place, keeping log2(n) partial sums.

    A binary counter: two partial sums of the same height become one of the next. Groups that are handed in belong to
    the fold from then on.
    """

    def __init__(self) -> None:
        self._partials: list[tuple[int, list[Tensor]]] = []

    def add(self, tensors: list[Tensor]) -> None:
        """Add the next leaf: tensors of the same shapes as all others."""
        height = 0
        while self._partials and self._partials[-1][0] == height:
            _, left = self._partials.pop()
            torch._foreach_add_(left, tensors)
            tensors = left
            height += 1
        self._partials.append((height, tensors))

    def total(self) -> list[Tensor]:
        """The sum. Raises ValueError where the leaves do not fill a balanced tree (their number is no power of two)."""
        if len(self._partials) != 1:
            raise ValueError(f"a balanced tree has a power of two of leaves; {len(self._partials)} subtrees are left")
        return self._partials[0][1]


@dataclass(frozen=True)
class Nodes:
    """Several nodes with the same number of ranks each, numbered node by node."""

    inside: dist.ProcessGroup
    """The ranks of this rank's node."""
    across: dist.ProcessGroup
    """The rank of each node that has the same place as this one has in its own."""


class TreeReduceScatter(ReduceScatter):
    """FSDP's reduce-scatter as an all-to-all and a fold in fp32, in the order of ranks.

    The wire carries `wire`; results are fp32. With a bf16 wire under bf16 compute nothing is lost: gradients are bf16.
    Over `nodes`, what travels between them are fp32 sums over a node: of L ranks in a node, 1/L of the pieces.
    While `watch` is on, `broken` collects the ranks that sent a value that is not finite.
    """

    def __init__(self, wire: torch.dtype, nodes: Nodes | None = None) -> None:
        self.wire, self.nodes = wire, nodes
        self.watch = False
        self.broken: set[int] = set()
        self._input_is_next = True

    def allocate(self, size: Sequence[Any], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Memory for FSDP, which asks for the input, then for the output of one reduction, both as `wire`."""
        chosen = self.wire if self._input_is_next else torch.float32
        self._input_is_next = not self._input_is_next
        return torch.empty(*size, dtype=chosen, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, op: Any, async_op: bool = False
    ) -> None:
        """Send piece r of the input to rank r; fold the received pieces into the output."""
        if input_tensor.dtype != self.wire or output_tensor.dtype != torch.float32:
            raise RuntimeError("FSDP asked for its buffers in another order than this reduction was written for")
        if self.nodes is None:
            output_tensor.copy_(self._exchange(input_tensor, group, 0))
            return
        inside, across = self.nodes.inside, self.nodes.across
        # Pieces for one node after another: no stage holds more than a node's share of what one stage would.
        sums = output_tensor.new_empty((across.size(), output_tensor.numel()))
        for total, pieces in zip(sums, input_tensor.chunk(across.size()), strict=True):
            total.copy_(self._exchange(pieces, inside, across.rank() * inside.size()))
        received = torch.empty_like(sums)
        dist.all_to_all_single(received, sums, group=across)
        output_tensor.copy_(_folded(received))

    def _exchange(self, pieces: Tensor, group: dist.ProcessGroup, first: int) -> Tensor:
        """Send piece r to rank r of the group, whose ranks are numbered from `first` on; fold what comes back."""
        received = torch.empty_like(pieces)
        dist.all_to_all_single(received, pieces, group=group)
        received = received.view(group.size(), -1)
        if self.watch:
            self.broken.update(first + rank for rank, piece in enumerate(received) if not piece.isfinite().all())
        return _folded(received)


def _folded(pieces: Tensor) -> Tensor:
    """Sum of a power of two of pieces, [n, size] -> fp32 [size]."""
    fold = Fold()
    for piece in pieces:
        fold.add([piece.float()])
    return fold.total()[0]


def halving_sum(values: Tensor) -> Tensor:
    """Sum over the last dimension, [..., n] -> [...], by adding the second half to the first until one value is left.

    Only elementwise additions, so the result depends on n alone: not on the other dimensions, the device or the number
    of threads, as library reductions may.
    """
    if values.shape[-1] == 0:
        return values.new_zeros(values.shape[:-1])
    while (length := values.shape[-1]) > 1:
        half = length // 2
        folded = values[..., :half] + values[..., half : 2 * half]
        values = folded if length % 2 == 0 else torch.cat((folded, values[..., 2 * half :]), dim=-1)
    return values[..., 0]


def tree_sum(values: Sequence[float]) -> float:
    """Sum of a power of two of numbers in the same balanced tree as `Fold`, in double precision."""
    level = list(values)
    while len(level) > 1:
        level = [level[i] + level[i + 1] for i in range(0, len(level), 2)]
    return level[0]


def row_squares(gradient: Tensor) -> Tensor:
    """Sum of squares of each row, [rows, ...] -> fp64 [rows]. Shards hold whole rows, so no boundary changes a sum."""
    return halving_sum(gradient.reshape(gradient.shape[0], gradient[:1].numel() or 1).double().square_())
