"""Sums whose order no world size changes: one tree over micro-batches, and the fold of the gradient norm.

Floating-point addition is not associative, so a sum is reproducible only when its order is fixed. Micro-batches are the
leaves of one tree, that of RFC 6962: of n leaves the largest power of two below n are one subtree, the rest the other.
At sub-step j rank r of W computes leaf j W + r; in the last sub-step the last ranks may have none. The gradients of a
sub-step arrive where their shard lives in the order of leaves, and a binary counter takes them up one after another
(`Fold`), through all sub-steps of a step. No collective ever adds: they only move pieces.

On nodes with the same power of two of ranks each, pieces are folded inside each node before they travel: ranks are
numbered node by node, so what the ranks of a node compute in a sub-step is a subtree, or the end of the tree.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp._fully_shard._fsdp_api import ReduceScatter


class Fold:
    """Adds groups of tensors as the leaves 0, 1, ... of the tree, in place, keeping a partial sum for each bit of their
    number.

    A binary counter: two partial sums of the same height become one of the next. Groups that are handed in belong to
    the fold from then on.
    """

    def __init__(self) -> None:
        self._partials: list[tuple[int, list[Tensor]]] = []

    @property
    def empty(self) -> bool:
        """Whether there is no leaf yet."""
        return not self._partials

    def add(self, tensors: list[Tensor]) -> None:
        """Add the next leaf: tensors of the same shapes as all others."""
        height = 0
        while self._partials and self._partials[-1][0] == height:
            _, left = self._partials.pop()
            torch._foreach_add_(left, tensors)
            tensors = left
            height += 1
        self._partials.append((height, tensors))

    def detach(self) -> None:
        """Copy partial sums that are views, so that what they are views of can be freed."""
        for _, tensors in self._partials:
            tensors[:] = [tensor.clone() if tensor._is_view() else tensor for tensor in tensors]

    def total(self) -> list[Tensor]:
        """The sum of at least one leaf: partial sums are added from the right. The fold is empty then."""
        _, total = self._partials.pop()
        while self._partials:
            _, left = self._partials.pop()
            torch._foreach_add_(left, total)
            total = left
        return total


@dataclass(frozen=True)
class Nodes:
    """Several nodes with the same power of two of ranks each, numbered node by node."""

    inside: dist.ProcessGroup
    """The ranks of this rank's node."""
    across: dist.ProcessGroup
    """The rank of each node that has the same place as this one has in its own."""


class Scratch:
    """Memory for what nobody reads: the outputs of reductions that are not whole yet, all at the same address."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Free it until it is needed again."""
        self._memory = torch.empty(0)

    def take(self, size: int, device: torch.device) -> Tensor:
        """fp32 [size] with any values."""
        if len(self._memory) < size:
            self._memory = torch.empty(size, dtype=torch.float32, device=device)
        return self._memory[:size]


class TreeReduceScatter(ReduceScatter):
    """FSDP's reduce-scatter as an all-to-all and a fold in fp32, in the order of leaves, through all sub-steps.

    Each FSDP module has its own, which keeps the module's partial sums from one sub-step to the next; its output means
    nothing before the last sub-step, and lies in scratch memory until then. The wire carries `wire`; results are fp32.
    With a bf16 wire under bf16 compute nothing is lost: gradients are bf16. Over `nodes`, what travels between them are
    fp32 sums over a node: of L ranks in a node, 1/L of the pieces. While `watch` is on, `broken` collects the ranks
    that sent a value that is not finite.
    """

    def __init__(self, wire: torch.dtype, scratch: Scratch, nodes: Nodes | None = None) -> None:
        self.wire, self.nodes = wire, nodes
        self._scratch = scratch
        self.watch = False
        self.broken: set[int] = set()
        self._input_is_next = True
        self._fold = Fold()
        self._senders, self._last = 0, True

    def begin(self, senders: int, *, first: bool, last: bool) -> None:
        """Begin a sub-step, the first or the last of a step or neither, in which the first `senders` ranks have a leaf.

        Partial sums of a step that was not finished are forgotten.
        """
        self._senders, self._last = senders, last
        if first:
            self._fold = Fold()

    def allocate(self, size: Sequence[Any], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Memory for FSDP, which asks for the input, then for the output of one reduction, both as `wire`."""
        is_input, self._input_is_next = self._input_is_next, not self._input_is_next
        if is_input or self._last:
            return torch.empty(*size, dtype=self.wire if is_input else torch.float32, device=device)
        return self._scratch.take(math.prod(size), device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, op: Any, async_op: bool = False
    ) -> None:
        """Send piece r of the input to rank r; fold what arrives, and write the sum once it is whole."""
        if input_tensor.dtype != self.wire or output_tensor.dtype != torch.float32:
            raise RuntimeError("FSDP asked for its buffers in another order than this reduction was written for")
        for leaf in self._receive(input_tensor, group):
            self._fold.add([leaf.float()])
        if self._last:
            output_tensor.copy_(self._fold.total()[0])
        else:
            self._fold.detach()

    def _receive(self, pieces: Tensor, group: dist.ProcessGroup) -> Tensor:
        """What this rank's shard is sent in a sub-step, in the order of leaves: [pieces or sums of nodes, size]."""
        if self.nodes is None:
            return self._exchange(pieces, group, 0)
        inside, across = self.nodes.inside, self.nodes.across
        # Pieces for one node after another: no stage holds more than a node's share of what one stage would.
        sums = pieces.new_empty((across.size(), pieces.numel() // group.size()), dtype=torch.float32)
        for total, of_node in zip(sums, pieces.chunk(across.size()), strict=True):
            fold = Fold()
            for piece in self._exchange(of_node, inside, across.rank() * inside.size()):
                fold.add([piece.float()])
            if not fold.empty:
                total.copy_(fold.total()[0])
        return _all_to_all(sums.view(-1), across, -(-self._senders // inside.size()))

    def _exchange(self, pieces: Tensor, group: dist.ProcessGroup, first: int) -> Tensor:
        """Send piece r to rank r of a group, whose ranks are numbered from `first` on: [those with a leaf, size]."""
        received = _all_to_all(pieces, group, min(max(self._senders - first, 0), group.size()))
        if self.watch:
            self.broken.update(first + rank for rank, piece in enumerate(received) if not piece.isfinite().all())
        return received


def _all_to_all(pieces: Tensor, group: dist.ProcessGroup, senders: int) -> Tensor:
    """Piece r to rank r of the group, from its first ranks alone: [senders, size]."""
    ranks, size = group.size(), pieces.numel() // group.size()
    received = pieces.new_empty((senders, size))
    if senders == ranks:
        dist.all_to_all_single(received.view(-1), pieces, group=group)
        return received
    sent = size if group.rank() < senders else 0
    arriving = [size] * senders + [0] * (ranks - senders)
    dist.all_to_all_single(received.view(-1), pieces[: sent * ranks], arriving, [sent] * ranks, group=group)
    return received


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
    """Sum of at least one number in the same tree as `Fold`, in double precision."""
    if len(values) == 1:
        return values[0]
    left = 1 << (len(values) - 1).bit_length() - 1  # the largest power of two below their number
    return tree_sum(values[:left]) + tree_sum(values[left:])


def row_squares(gradient: Tensor) -> Tensor:
    """Sum of squares of each row, [rows, ...] -> fp64 [rows]. Shards hold whole rows, so no boundary changes a sum."""
    return halving_sum(gradient.reshape(gradient.shape[0], gradient[:1].numel() or 1).double().square_())
