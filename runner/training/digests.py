"""Digests of tensors, whoever holds their rows."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from runner.training.sharding import ShardedModel
from specs.common.files import canonical_json


def row_digests(tensor: Tensor) -> Tensor:
    """sha256 of the bytes of each row, [rows, ...] -> uint8 [rows, 32] on the tensor's device."""
    rows = tensor.detach().cpu().contiguous().numpy()
    joined = b"".join(hashlib.sha256(row.tobytes()).digest() for row in rows)
    return torch.tensor(list(joined), dtype=torch.uint8, device=tensor.device).view(-1, 32)


def tensor_digest(shape: Sequence[int], rows: Tensor) -> str:
    """Digest of an fp32 tensor, whoever holds its rows: sha256 over its shape and the sha256 of each row in order."""
    return hashlib.sha256(canonical_json(list(shape)) + rows.cpu().numpy().tobytes()).hexdigest()


def digests(model: ShardedModel, tensors: Sequence[Tensor]) -> dict[str, str]:
    """Digests of whole tensors by parameter name, from each rank's rows. A collective: every rank calls it."""
    gathered = model.gather_rows([row_digests(tensor) for tensor in tensors])
    pairs = zip(model.shards, gathered, strict=True)
    return {shard.name: tensor_digest(shard.shape, rows) for shard, rows in pairs}
