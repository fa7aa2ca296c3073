"""Keys and values of positions already seen, in memory of fixed shape."""

import torch
from torch import Tensor

from specs.schema.training import Architecture


class LayerCache:
    """View of one layer's keys and values for one call; writes at the call's positions."""

    def __init__(self, keys: Tensor, values: Tensor, positions: Tensor) -> None:
        self.keys, self.values, self.positions = keys, values, positions

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write new keys and values [B, K, T, D] at the positions; return all: [B, K, capacity, D]."""
        rows = torch.arange(keys.shape[0], device=keys.device)[:, None]
        self.keys[rows, :, self.positions] = keys.transpose(1, 2)
        self.values[rows, :, self.positions] = values.transpose(1, 2)
        return self.keys, self.values


class Cache:
    """Preallocated keys and values of every layer: [layers, B, K, capacity, D]. For inference only.

    A position never written holds zeros and is never seen: a query sees positions up to its own. `reset` is not needed
    between batches, as a row that starts again at position 0 overwrites what it will see.
    """

    def __init__(
        self, spec: Architecture, rows: int, capacity: int, *, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        shape = (spec.n_layers, rows, spec.kv_heads, capacity, spec.head_dim)
        self.capacity = capacity
        self._keys = torch.zeros(shape, dtype=dtype, device=device)
        self._values = torch.zeros(shape, dtype=dtype, device=device)

    def fill(self, row: int, prompt: "Cache") -> None:
        """Start `row` with the only row of another cache of the same capacity: one prompt, read once, sampled often."""
        self._keys[:, row] = prompt._keys[:, 0]
        self._values[:, row] = prompt._values[:, 0]

    def layer(self, index: int, positions: Tensor) -> LayerCache:
        """One layer's part, to be written at positions int64 [B, T] or [1, T], each below `capacity`."""
        return LayerCache(self._keys[index], self._values[index], positions)
