"""What names the results of a run: the digest chain over its steps, and digests of its tensors."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runner.training.sharding import ShardedModel
from specs.common.errors import UserError
from specs.common.files import canonical_json, write_bytes


def link(previous: str, entry: dict[str, Any]) -> str:
    """Next element of a digest chain: sha256 of the previous one and the entry's canonical JSON."""
    return hashlib.sha256(bytes.fromhex(previous) + canonical_json(entry)).hexdigest()


def read_steps(path: Path, start: str) -> Iterator[dict[str, Any]]:
    """Entries of a `steps.jsonl`, each checked against the chain that begins with `start`.

    A last line without its end, as a kill leaves it, is left out. Raises UserError at the first line that is not what
    was written.
    """
    chain = start
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                entry = json.loads(line)
                stated = entry.pop("chain")
            except (ValueError, KeyError, AttributeError) as error:
                raise UserError(f"{path}:{number}: not a line of a digest chain") from error
            chain = link(chain, entry)
            if chain != stated:
                raise UserError(f"{path}:{number}: the digest chain breaks here (step {entry.get('step')})")
            yield entry | {"chain": chain}


class Journal:
    """`steps.jsonl` of a run in progress: one line for each step, each holding the chain over all before it."""

    def __init__(self, path: Path, start: str) -> None:
        self.path, self.start, self.chain = path, start, start
        path.write_bytes(b"")

    def append(self, entry: dict[str, Any]) -> None:
        """Add the line of a step."""
        self.chain = link(self.chain, entry)
        with self.path.open("ab") as file:
            file.write(json.dumps(entry | {"chain": self.chain}, allow_nan=False).encode() + b"\n")

    def rewind(self, saved: Path) -> None:
        """Take up the lines that a checkpoint saved. Raises UserError where they do not form the chain of this run."""
        chain = self.start
        for entry in read_steps(saved, self.start):
            chain = entry["chain"]
        write_bytes(self.path, saved.read_bytes())
        self.chain = chain


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
