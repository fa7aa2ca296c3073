"""Micro-batches of the global batch, from the token store: which rows a rank reads at a step, and as what tensors."""

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data_pipeline.tokens.shuffle import Order
from data_pipeline.tokens.token_store import TokenStore
from specs.schema.training import Training


@dataclass(frozen=True)
class MicroBatch:
    """One micro-batch of fixed shape: S sequences of T positions."""

    tokens: Tensor
    """int64 [S, T]"""
    targets: Tensor
    """int64 [S, T]: the id after each token."""
    learnt: Tensor
    """bool [S, T]: whether the target is one to learn."""
    documents: Tensor
    """int64 [S, T]: ordinal of the document within its row."""

    @property
    def count(self) -> int:
        """Targets to learn."""
        return int(self.learnt.sum())


class DataLoader:
    """Rows of a store, dealt to micro-batches by the global order: a pure function of seed, weights and step."""

    def __init__(self, store: TokenStore, training: Training, device: torch.device) -> None:
        self.store, self.training, self.device = store, training, device
        held_out = training.held_out.sequences if training.held_out else 0
        self.order = Order(store.shares, training.seed, held_out)
        self._reader = ThreadPoolExecutor(1, "data-loader")
        self._ahead: tuple[tuple[int, int, int], Future[list[MicroBatch]]] | None = None

    def micro_batches(self, step: int, rank: int, ranks: int) -> list[MicroBatch]:
        """Micro-batches j * ranks + rank, for j = 0, 1, ..., of a step (from 0), the same number on every rank.

        Where there is none so high, the last one takes its place, and nothing of it is learnt: passes through a sharded
        model need every rank. Reads those of the next step ahead.
        """
        wanted, ahead = (step, rank, ranks), self._ahead
        micro_batches = ahead[1].result() if ahead and ahead[0] == wanted else self._read(*wanted)
        following = (step + 1, rank, ranks)
        self._ahead = following, self._reader.submit(self._read, *following)
        return micro_batches

    def _read(self, step: int, rank: int, ranks: int) -> list[MicroBatch]:
        rows = self._rows(step)
        sub_steps = -(-len(rows) // ranks)
        read = [self._micro_batch(rows[min(j * ranks + rank, len(rows) - 1)]) for j in range(sub_steps)]
        if (sub_steps - 1) * ranks + rank >= len(rows):
            read[-1].learnt[:] = False
        return read

    def rows_digest(self, step: int) -> str:
        """sha256 over the row numbers (int64, little endian) of a step, in the order of its micro-batches."""
        return hashlib.sha256(self._rows(step).astype("<i8").tobytes()).hexdigest()

    def held_out_micro_batches(self) -> int:
        """Micro-batches that the held-out rows fill; the last is filled up with rows that do not count."""
        return -(-len(self.order.held_out) // self.training.micro_batch_size)

    def held_out(self, micro_batch: int) -> MicroBatch:
        """A micro-batch of held-out rows."""
        size = self.training.micro_batch_size
        rows = self.order.held_out[micro_batch * size : (micro_batch + 1) * size]
        filled = self._micro_batch(np.resize(rows, size))
        filled.learnt[len(rows) :] = False
        return filled

    def _rows(self, step: int) -> npt.NDArray[np.int64]:
        return self.order.step(step, self.training.micro_batches, self.training.micro_batch_size)

    def _micro_batch(self, indices: npt.NDArray[np.int64]) -> MicroBatch:
        rows = self.store.rows(indices)
        tokens = torch.from_numpy(rows.tokens.astype(np.int64)).to(self.device)
        documents = torch.from_numpy(rows.documents.astype(np.int64)).to(self.device)
        learnt = torch.from_numpy(rows.loss.astype(np.bool_)).to(self.device)
        return MicroBatch(tokens[:, :-1], tokens[:, 1:], learnt[:, 1:], documents[:, :-1])
