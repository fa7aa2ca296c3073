"""What a step trains, put together: the sharded model, its optimizer, and their first values."""

import math
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch.distributed.device_mesh import DeviceMesh

from model.decoder.init import initial_values
from model.decoder.transformer import Transformer
from runner.training.determinism import require_compiler
from runner.training.optimizer import Optimizer
from runner.training.sharding import DTYPES, ShardedModel
from specs.common.errors import UserError
from specs.schema.training import Architecture, Training


def build(
    architecture: Architecture,
    vocab_size: int,
    training: Training,
    mesh: DeviceMesh,
    *,
    kernels: str | None = None,
    per_node: int | None = None,
    portable: bool = False,
) -> tuple[ShardedModel, Optimizer]:
    """The model over all ranks of a mesh of one dimension, and its optimizer. Their values mean nothing yet: they come
    from `initialise` or from a checkpoint.

    kernels: kind of device (`cpu`, `cuda`) whose kernels compute, where it is not the mesh's own: in a simulation.
    per_node: ranks of each node, where there are several. portable: kernels with the same bits on any processor.
    Raises UserError where a backend or a compiler that the spec asks for cannot be had.
    """
    kernels = kernels or mesh.device_type
    with torch.device("meta"):
        transformer = Transformer(
            architecture,
            vocab_size,
            recompute=training.parallelism.recompute,
            device=kernels,
            dtype=DTYPES[training.precision.compute],
            portable=portable,
        )
    if training.parallelism.compile:
        require_compiler(kernels)
        transformer.compile_layers()
    model = ShardedModel(transformer, mesh, training.precision, training.parallelism, per_node)
    return model, Optimizer(training.optimizer, model.shards, kernels)


def initialise(
    model: ShardedModel, optimizer: Optimizer, seed: int, weights: Path | None = None, *, portable: bool = False
) -> None:
    """The state in which a phase begins: weights from a file, or made from the seed; no updates yet.

    portable: made from the seed with the same bits on any processor. Raises UserError where the file
    is damaged or holds another model's weights.
    """
    optimizer.reset()
    if weights is None:
        for shard in model.shards:
            row = math.prod(shard.shape[1:])
            start, stop = shard.start * row, shard.stop * row
            values = initial_values(model.model.spec, seed, shard.name, start, stop, portable=portable)
            shard.values.copy_(values.view(shard.values.shape))
        return
    wanted = {shard.name: shard.shape for shard in model.shards}
    try:
        with safe_open(weights, framework="pt") as file:
            in_file = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
            if in_file != wanted:
                name = min({*in_file.items()} ^ {*wanted.items()})[0]
                raise UserError(f"{weights}: {name} is not as in this architecture: it holds another model")
            for shard in model.shards:
                shard.values.copy_(file.get_slice(shard.name)[shard.start : shard.stop])
    except SafetensorError as error:
        raise UserError(f"{weights}: not a whole safetensors file: {error}") from error
