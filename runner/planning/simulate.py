"""Memory of one rank, predicted by tracing the runner's own training step on tensors without data.

`runner.training.step.train_step` runs as it is over what `runner.training.build` builds, under FakeTensorMode and a
process group that moves nothing; every storage that the step allocates and frees is counted. The step is not repeated
here, so this cannot fall behind it.
"""

import sys
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp._fully_shard import _fsdp_collectives
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from runner.training.build import build
from runner.training.data_loader import MicroBatch
from runner.training.device import kind_of
from runner.training.job import require_ranks
from runner.training.sharding import ShardedModel
from runner.training.step import train_step
from specs.common.errors import UserError
from specs.estimates.counts import sub_steps
from specs.schema.experiment import Device
from specs.schema.training import Architecture, Training

aten = torch.ops.aten

# Where a storage was allocated, by the innermost frame that tells: (part of a file's name, functions or none) -> label.
_PLACES: tuple[tuple[str, frozenset[str] | None, str | None], ...] = (
    ("runner/training/reduction.py", frozenset({"allocate", "take"}), "gradients"),
    (
        "runner/training/reduction.py",
        frozenset({"__call__", "_receive", "_exchange", "_all_to_all", "add", "detach"}),
        "order-fixed reduction",
    ),
    ("runner/training/reduction.py", None, "gradient norm"),
    ("runner/training/optimizer.py", frozenset({"__init__"}), "optimizer state"),
    ("runner/training/optimizer.py", None, "optimizer update"),
    ("runner/training/sharding.py", frozenset({"__init__"}), "master weights"),
    ("_fully_shard/_fsdp_collectives.py", frozenset({"allocate", "__call__"}), None),  # the caller tells
    ("_fully_shard/_fsdp_collectives.py", frozenset({"foreach_reduce", "chunk_cat", "reduce_scatter"}), "gradients"),
    ("_fully_shard/_fsdp_collectives.py", None, "gathered parameters"),
    ("_fully_shard/_fsdp_param.py", frozenset({"to_accumulated_grad_if_needed"}), "gradients"),
    ("_fully_shard/_fsdp_param.py", None, "gathered parameters"),
    ("model/decoder/loss.py", None, "embedding and loss"),
    ("torch/utils/checkpoint.py", frozenset({"recompute_fn", "unpack_hook"}), "layer in backward"),
)


@dataclass(frozen=True)
class Allocation:
    """One storage that lives at the peak."""

    bytes: int
    label: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Simulation:
    """What one rank was seen to need in one training step."""

    peak: int
    """Bytes that live at the worst moment."""
    components: dict[str, int]
    """Bytes at that moment by what they are, largest first."""
    highest: dict[str, int]
    """The most that each component held at any moment."""
    largest: list[tuple[Allocation, int]]
    """The largest storages of the peak, each with how many there are of its kind."""
    operations: int
    """Operations that were traced."""


@dataclass
class _Counter:
    live: dict[int, Allocation] = field(default_factory=dict)
    current: int = 0
    peak: int = 0
    at_peak: list[Allocation] = field(default_factory=list)
    highest: dict[str, int] = field(default_factory=dict)
    by_label: Counter[str] = field(default_factory=Counter)
    operations: int = 0
    # A new peak is copied only once it has grown by this share: copying each of thousands of them would cost more than
    # the trace. The final one is exact because totals are kept apart from copies.
    _copied: int = 0

    def put(self, key: int, allocation: Allocation) -> None:
        self.drop(key)
        self.live[key] = allocation
        self.current += allocation.bytes
        held = self.by_label[allocation.label] = self.by_label[allocation.label] + allocation.bytes
        if held > self.highest.get(allocation.label, 0):
            self.highest[allocation.label] = held
        if self.current > self.peak:
            self.peak = self.current
            if self.peak > self._copied * 1.001:
                self._copied, self.at_peak = self.peak, list(self.live.values())

    def drop(self, key: int) -> None:
        old = self.live.pop(key, None)
        if old is not None:
            self.current -= old.bytes
            self.by_label[old.label] -= old.bytes


class _Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts storages, and answers what depends on data: targets are learnt, rows are one document, numbers 1."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counter = _Counter()
        self.counting = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # its own dispatch comes back here with local tensors
        kwargs = kwargs or {}
        self.counter.operations += 1
        if func is aten._local_scalar_dense.default:
            dtype = args[0].dtype
            return True if dtype == torch.bool else 1.0 if dtype.is_floating_point else 1
        if func is aten.nonzero.default:
            return args[0].new_zeros((1, args[0].dim()), dtype=torch.int64)
        if func is aten.index.Tensor and any(i is not None and i.dtype == torch.bool for i in args[1]):
            (mask,) = args[1]
            out = args[0].new_empty((mask.numel(), *args[0].shape[mask.dim() :]))
        elif func is aten.equal.default:
            return True
        else:
            out = func(*args, **kwargs)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.note(leaf)
        return out

    def note(self, tensor: Tensor) -> None:
        """Count the storage of a tensor, once."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.counter.live or tensor.device.type == "meta":
            return
        weakref.finalize(storage, self.counter.drop, key)
        self.counter.put(key, Allocation(storage.nbytes(), _label(), tuple(tensor.shape), str(tensor.dtype)[6:]))

    @contextmanager
    def resizing(self) -> Iterator[None]:
        """FSDP frees and restores gathered parameters by resizing their storage, which dispatches nothing: watch it."""
        original = torch.UntypedStorage.resize_

        def resize(storage: torch.UntypedStorage, size: int) -> Any:
            result = original(storage, size)
            key = storage._cdata
            if (known := self.counter.live.get(key)) is not None:
                self.counter.put(key, Allocation(size, known.label, known.shape, known.dtype))
            return result

        torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign,assignment]
        try:
            yield
        finally:
            torch.UntypedStorage.resize_ = original  # type: ignore[method-assign]


def _label() -> str:
    """What the storage that is being allocated is for, told by the innermost frame that says so."""
    frame, backward = sys._getframe(2), False
    while frame is not None:
        name, function = frame.f_code.co_filename, frame.f_code.co_name
        for part, functions, label in () if function.startswith("<") else _PLACES:
            if part in name and (functions is None or function in functions):
                if label is None:
                    break
                return label
        backward |= function == "backward" and name.endswith("_tensor.py")
        if name.endswith("runner/training/step.py"):
            break
        frame = frame.f_back  # type: ignore[assignment]
    return "layer in backward" if backward else "activations"


def simulate(
    architecture: Architecture,
    vocab_size: int,
    training: Training,
    ranks: int,
    device: Device,
    *,
    stock: bool = False,
) -> Simulation:
    """Trace one training step of rank 0 of `ranks`, all of its micro-batches, and count what it allocates.

    `device` decides the attention kernel, as it does at launch. `stock`: FSDP's own reduce-scatter in place of the
    order-fixed one, for comparison. Raises UserError where the micro-batches cannot be dealt to the ranks, or a process
    group exists already.
    """
    require_ranks(training, ranks)
    if dist.is_initialized():
        raise UserError("a process group exists already: simulate in a process of its own")
    # Compiled layers allocate otherwise, and compiling them is not traced.
    eager = training.model_copy(update={"parallelism": training.parallelism.model_copy(update={"compile": False})})
    trace = _Trace()
    with ExitStack() as stack:
        dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
        stack.callback(dist.destroy_process_group)
        mesh = init_device_mesh("cpu", (ranks,))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(trace)
        stack.enter_context(trace.resizing())
        model, optimizer = build(architecture, vocab_size, eager, mesh, kernels=kind_of(device))
        if stock:
            _reduce_as_fsdp_does(model, sub_steps(training, ranks))
        shape = (training.micro_batch_size, architecture.context_length)
        micro_batches = [_micro_batch(shape) for _ in range(sub_steps(training, ranks))]
        train_step(model, optimizer, eager, micro_batches, 1, training.optimizer.lr)
    counter = trace.counter
    components: Counter[str] = Counter()
    for allocation in counter.at_peak:
        components[allocation.label] += allocation.bytes
    alike = sorted(Counter(counter.at_peak).items(), key=lambda each: (-each[0].bytes, -each[1]))
    return Simulation(counter.peak, dict(components.most_common()), counter.highest, alike[:10], counter.operations)


def _reduce_as_fsdp_does(model: ShardedModel, sub_steps: int) -> None:
    """FSDP's own reduce-scatter, which adds to the gradients of the sub-steps before."""
    for module in model.modules():
        module.set_custom_reduce_scatter(_fsdp_collectives.DefaultReduceScatter())
    done = count(1)
    accumulate = lambda: model.take_gradients() if next(done) == sub_steps else []  # noqa: E731
    model.accumulate = accumulate  # type: ignore[method-assign]


def _micro_batch(shape: tuple[int, int]) -> MicroBatch:
    tokens = torch.zeros(shape, dtype=torch.int64)
    return MicroBatch(tokens, torch.zeros_like(tokens), torch.ones(shape, dtype=torch.bool), torch.zeros_like(tokens))
