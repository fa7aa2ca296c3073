"""The model, divided among ranks: FSDP2 as ZeRO-2, ZeRO-3 or a mix, and the shards as plain tensors."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from model.decoder.transformer import Transformer
from runner.training.data_loader import MicroBatch
from runner.training.reduction import Fold, Nodes, Scratch, TreeReduceScatter
from specs.schema.training import Parallelism, Precision

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Shard:
    """This rank's rows of one parameter. Rows (dimension 0) are dealt in equal runs; the last ranks may have fewer."""

    name: str
    shape: tuple[int, ...]
    """Of the whole parameter."""
    start: int
    stop: int
    per_rank: int
    """Rows of a full run."""
    values: Tensor
    """fp32 master weights `[stop - start, ...]`: the memory that FSDP gathers from."""


def shard_range(rows: int, rank: int, ranks: int) -> tuple[int, int]:
    """First and last-plus-one row of a rank, as `torch.chunk` deals them."""
    per_rank = -(-rows // ranks)
    return min(rank * per_rank, rows), min((rank + 1) * per_rank, rows)


class ShardedModel:
    """A transformer under FSDP2 with the order-fixed reduction, and its shards in the model's order.

    Built from a model on the meta device, over a mesh of one dimension; the shards' memory is allocated here, on the
    mesh's device, and means nothing until it is filled. `per_node`: ranks of each node, where there are several;
    gradients are then folded inside nodes before they travel.
    """

    def __init__(
        self,
        model: Transformer,
        mesh: DeviceMesh,
        precision: Precision,
        parallelism: Parallelism,
        per_node: int | None = None,
    ) -> None:
        self.model, self.device = model, torch.device(mesh.device_type)
        self.group = mesh.get_group()
        self.rank, self.ranks = dist.get_rank(self.group), dist.get_world_size(self.group)
        self.before_micro_batch: Callable[[], None] = lambda: None
        """Called before each micro-batch: a sign that the step goes on."""
        nodes = None if per_node is None else _nodes(mesh, per_node)
        policy = MixedPrecisionPolicy(
            param_dtype=DTYPES[precision.compute],
            reduce_dtype=DTYPES[precision.wire],
            # Casting inputs would round the cosines and sines of rotary positions to bf16.
            cast_forward_inputs=False,
        )
        blocks = list(model.blocks)
        resharded = {"zero2": 0, "zero3": len(blocks), "mixed": parallelism.resharded_blocks}[parallelism.sharding]
        for index, block in enumerate(blocks):
            fully_shard(block, mesh=mesh, reshard_after_forward=index < resharded, mp_policy=policy)
        fully_shard(model, mesh=mesh, reshard_after_forward=False, mp_policy=policy)
        register_fsdp_forward_method(model, "loss")
        self._kept = [module for module in (model, *blocks[resharded:]) if isinstance(module, FSDPModule)]
        self.reductions, self._scratch = [], Scratch()
        for module in self.modules():
            self.reductions.append(TreeReduceScatter(DTYPES[precision.wire], self._scratch, nodes))
            # Setters of FSDP reach one module each: set on the root alone, gradients would be wrong without a word.
            module.set_custom_reduce_scatter(self.reductions[-1])
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
        model.to_empty(device=self.device)
        # While parameters are gathered, the model's own list holds the gathered ones; gradients go to these.
        self._sharded = list(model.parameters())
        self.shards = list(self._shards())
        self._fold, self._last = Fold(), True

    def loss(self, micro_batch: MicroBatch, targets: int, chunk: int) -> Tensor:
        """A micro-batch's share of the loss, a scalar, where `targets` are learnt in all; chunk as in the model's."""
        self.before_micro_batch()
        return self.model.loss(
            micro_batch.tokens,
            micro_batch.targets,
            micro_batch.learnt,
            documents=micro_batch.documents,
            scale=1.0 / targets,
            chunk=chunk,
        )

    def begin(self, number: int, micro_batches: int) -> None:
        """Begin sub-step `number` (from 0) of a step over so many micro-batches: one forward and backward pass."""
        senders = min(micro_batches - number * self.ranks, self.ranks)
        self._last = (number + 1) * self.ranks >= micro_batches
        self.keep_gathered(not self._last)
        if self._last:
            self._scratch.clear()
        # One rank alone reduces nothing: FSDP hands out its own gradients after every sub-step.
        whole = self._last or self.ranks == 1
        for reduction in self.reductions:
            reduction.begin(senders, first=number == 0, last=whole)
        if number == 0:
            self._fold = Fold()

    def accumulate(self) -> list[Tensor]:
        """After the backward pass of a sub-step: this rank's gradients over all micro-batches of the step, fp32, in the
        order of `shards`, once the last sub-step is done; none before."""
        gradients = self.take_gradients()
        if self.ranks == 1:  # FSDP reduces nothing then
            self._fold.add(gradients)
            gradients = self._fold.total() if self._last else []
        return gradients if self._last else []

    def keep_gathered(self, keep: bool) -> None:
        """Whether parameters outlive the next backward pass: yes between the sub-steps of a step, no at its end."""
        for module in self._kept:
            module.set_reshard_after_backward(not keep, recurse=False)

    def take_gradients(self) -> list[Tensor]:
        """This rank's reduced gradients of the last backward pass, fp32, in the order of `shards`; cleared here."""
        gradients = []
        for parameter in self._sharded:
            assert isinstance(parameter.grad, DTensor)
            gradients.append(parameter.grad.to_local())
            parameter.grad = None
        return gradients

    def drop_gathered(self) -> None:
        """Free gathered parameters, so that the next forward pass gathers the ones of that time."""
        for module in self.modules():
            module.reshard()

    def gather_values(self, values: list[float]) -> list[list[float]]:
        """The same number of values from every rank, by rank, in double precision."""
        own = torch.tensor(values, dtype=torch.float64, device=self.device)
        by_rank = own.new_empty((self.ranks, len(values)))
        dist.all_gather(list(by_rank), own, group=self.group)
        return [[float(value) for value in row] for row in by_rank.tolist()]

    def gather_rows(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Whole tensors from each rank's rows: parts `[stop - start, ...]` in the order of `shards` -> `[rows, ...]`.

        All parts have the same shape but for the rows. Bytes move; nothing is added.
        """
        return self._gather([shard.per_rank for shard in self.shards], [s.shape[0] for s in self.shards], parts)

    def whole(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter whole on every rank, one at a time, by name."""
        for shard in self.shards:
            (tensor,) = self._gather([shard.per_rank], [shard.shape[0]], [shard.values])
            yield shard.name, tensor

    def _gather(self, per_rank: list[int], rows: list[int], parts: Sequence[Tensor]) -> list[Tensor]:
        own = parts[0].new_zeros((sum(per_rank), *parts[0].shape[1:]))
        for padded, part in zip(torch.split(own, per_rank), parts, strict=True):
            padded[: part.shape[0]] = part
        by_rank = own.new_empty((self.ranks, *own.shape))
        dist.all_gather(list(by_rank), own, group=self.group)
        pieces = torch.split(by_rank, per_rank, dim=1)
        return [piece.flatten(0, 1)[:length] for piece, length in zip(pieces, rows, strict=True)]

    def modules(self) -> Iterator[FSDPModule]:
        """Every module that FSDP shards as a unit: the whole model and each block."""
        return (module for module in self.model.modules() if isinstance(module, FSDPModule))

    def _shards(self) -> Iterator[Shard]:
        for name, parameter in self.model.named_parameters():
            assert isinstance(parameter, DTensor)
            start, stop = shard_range(parameter.shape[0], self.rank, self.ranks)
            values = parameter.to_local().detach()
            assert values.shape[0] == stop - start, f"FSDP deals the rows of {name} in another way"
            yield Shard(name, tuple(parameter.shape), start, stop, -(-parameter.shape[0] // self.ranks), values)


def _nodes(mesh: DeviceMesh, per_node: int) -> Nodes | None:
    """Groups inside and across nodes; none on one node, with one rank in each, or where the ranks of a node are no
    subtree, since their number is no power of two or differs between nodes: then one stage takes all."""
    by_rank: list[int] = [0] * mesh.size()
    dist.all_gather_object(by_rank, per_node, group=mesh.get_group())
    if per_node == 1 or per_node == mesh.size() or per_node & (per_node - 1) or len(set(by_rank)) > 1:
        return None
    grid = init_device_mesh(mesh.device_type, (mesh.size() // per_node, per_node), mesh_dim_names=("across", "inside"))
    return Nodes(inside=grid.get_group("inside"), across=grid.get_group("across"))
