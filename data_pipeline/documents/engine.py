"""The engine under bulk work: Daft, embedded in this process or on a Ray cluster.

Work is a list of tasks that the data alone fixes. Results are the same for every engine, number of partitions and
workers, and memory limit: none of these is part of an artifact's identity. They are settings of a machine, or options
of a stage.
"""

import functools
import importlib
import inspect
import logging
import os
import pickle
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import click
import numpy as np
import numpy.typing as npt

from data_pipeline.documents.remote_calls import failure, guarded, pickled, rows_of, unpickled, worker
from specs.common.errors import UserError
from specs.loading.settings import load_settings
from specs.pipeline import code

T = TypeVar("T")
R = TypeVar("R")

_FAILED = -1
"""In place of a bucket: what a task that failed says."""
BUCKET_BYTES = 64 * 2**20
"""About what one call of `gather` works on."""


@dataclass(frozen=True)
class Buckets:
    """The buckets of one pass of an exchange: those of all `count` whose number is `first` modulo `passes`."""

    count: int
    first: int = 0
    passes: int = 1

    def of(self, keys: npt.NDArray[np.uint64]) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
        """Each bucket of the pass that any of the keys `[n]` belongs to, with their positions `[m]`, ascending."""
        homes = (keys % np.uint64(self.count)).astype(np.int64)
        chosen = np.flatnonzero(homes % self.passes == self.first)
        chosen = chosen[np.argsort(homes[chosen], kind="stable")]
        starts = np.flatnonzero(np.diff(homes[chosen], prepend=-1))
        for start, stop in zip(starts, np.append(starts, len(chosen))[1:], strict=True):
            yield int(homes[chosen[start]]), chosen[start:stop]


@dataclass(frozen=True)
class Engine:
    """Where tasks run, and how many at once."""

    name: Literal["native", "ray"] = "native"
    address: str = ""
    """Of a running Ray cluster, such as `auto` or `host:6379`; empty starts one for this process."""
    partitions: int = 1
    """Parts into which a list of tasks is divided before it is dealt out."""
    workers: int = 1
    """Tasks that run at once: processes here, actors on a cluster."""
    tasks_each: int = 1
    """Tasks that are worth the start of one more worker."""
    memory: int = 2**30
    """Bytes that an exchange may hold at once, over all workers; the rest stays on disk until a later pass."""

    def map(self, function: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[int, R]]:
        """Number and result of each task, as they are done. Functions and tasks are pickled.

        Raises the UserError that a task raises.
        """
        workers = max(1, min(self.workers, len(tasks) // self.tasks_each))
        if not tasks or (self.name == "native" and workers == 1):
            yield from ((number, function(task)) for number, task in enumerate(tasks))
            return
        daft = self._started()
        limits: dict[str, Any] = {"max_concurrency": workers}
        if self.name == "native":
            # Threads of one process would take turns at Python.
            limits["use_process"] = True
        one = daft.cls(**limits)(worker(daft))(pickled(code.current()), pickled(function))
        frame = self._frame(daft, [pickled(task) for task in tasks])
        for row in rows_of(frame.select("number", one(daft.col("task")).alias("result"))):
            yield row["number"], unpickled(row["result"])

    def exchange(
        self,
        split: Callable[[T, Buckets], dict[int, bytes]],
        gather: Callable[[list[bytes]], R],
        tasks: Sequence[T],
        size: int,
        advance: Callable[[], None] = lambda: None,
    ) -> list[R]:
        """What `gather` makes of each bucket, in their order: the shuffle.

        `split` gives the bytes that a task has for the buckets of a pass. `gather` gets all pieces of one bucket,
        sorted, so that their order of arrival cannot matter. `size` is about how many bytes all pieces have; it decides
        how many buckets and passes there are. `advance` is called after each bucket.
        """
        if not tasks:
            return []
        count = max(1, -(-size // min(BUCKET_BYTES, self.memory)))
        passes = min(count, max(1, -(-size // self.memory)))
        if self.name == "native" and (self.workers == 1 or count == 1):
            # Nothing would be done at the same time: small work does without the engine, as in `map`.
            gathered: dict[int, R] = {}
            for number in range(passes):
                for bucket, result in _exchanged(split, gather, tasks, Buckets(count, number, passes)):
                    gathered[bucket] = result
                    advance()
            return [gathered[bucket] for bucket in sorted(gathered)]
        daft = self._started()
        own = pickled(code.current())
        shape = daft.DataType.struct({"bucket": daft.DataType.int64(), "data": daft.DataType.binary()})

        @daft.func(return_dtype=daft.DataType.list(shape))  # type: ignore[untyped-decorator]
        def split_one(task: bytes) -> list[dict[str, Any]]:
            given, buckets = pickle.loads(task)
            try:
                code.require(pickle.loads(own))
                return [{"bucket": bucket, "data": data} for bucket, data in split(given, buckets).items()]
            except Exception as error:
                return [{"bucket": _FAILED, "data": failure(error)}]

        @daft.func(return_dtype=daft.DataType.binary())  # type: ignore[untyped-decorator]
        def gather_one(bucket: int, pieces: list[bytes]) -> bytes:
            return min(pieces) if bucket == _FAILED else guarded(own, gather, sorted(pieces))

        gathered = {}
        for number in range(passes):
            frame = self._frame(daft, [pickled((task, Buckets(count, number, passes))) for task in tasks])
            piece = daft.col("piece")
            pieces = frame.select(split_one(daft.col("task")).alias("piece")).explode("piece").where(piece.not_null())
            pieces = pieces.select(piece["bucket"].alias("bucket"), piece["data"].alias("data"))
            grouped = pieces.groupby("bucket").agg(daft.col("data").list_agg().alias("data")).into_batches(1)
            results = gather_one(daft.col("bucket"), daft.col("data")).alias("result")
            for row in rows_of(grouped.select("bucket", results)):
                gathered[row["bucket"]] = unpickled(row["result"])
                advance()
        return [gathered[bucket] for bucket in sorted(gathered)]

    def _frame(self, daft: Any, tasks: list[bytes]) -> Any:
        """Tasks with their numbers, in as many parts as wanted; a worker is handed one task at a time."""
        numbers = np.array_split(np.arange(len(tasks)), min(self.partitions, len(tasks)))
        frames = [
            daft.from_pydict({"number": part.tolist(), "task": tasks[part[0] : part[-1] + 1]}) for part in numbers
        ]
        return functools.reduce(daft.DataFrame.concat, frames).into_batches(1)

    def _started(self) -> Any:
        """Daft, with its runner set, which a process can do once. Imported here: small work does without it."""
        # Stages must not touch a network, where these libraries would report their use.
        os.environ.update(DAFT_ANALYTICS_ENABLED="0", DO_NOT_TRACK="1", DAFT_PROGRESS_BAR="0", DAFT_RUNNER=self.name)
        import daft

        if self.name == "ray":
            _connected(self.address, self.workers)
            daft.set_runner_ray(noop_if_initialized=True)
        return daft


def _exchanged(
    split: Callable[[T, Buckets], dict[int, bytes]],
    gather: Callable[[list[bytes]], R],
    tasks: Sequence[T],
    buckets: Buckets,
) -> Iterator[tuple[int, R]]:
    """Number and result of each bucket of a pass, here and now."""
    pieces: dict[int, list[bytes]] = {}
    for task in tasks:
        for bucket, data in split(task, buckets).items():
            pieces.setdefault(bucket, []).append(data)
    for bucket in sorted(pieces):
        yield bucket, gather(sorted(pieces.pop(bucket)))


def options(main: Callable[..., R]) -> Callable[..., R]:
    """Add to a stage's command the options that choose its engine; the command gets it as `engine`."""

    @click.option("--engine", type=click.Choice(["native", "ray"]), help="Daft in this process, or on a Ray cluster.")
    @click.option("--address", help="Of the Ray cluster, such as `auto`; without it one is started for this stage.")
    @click.option("--partitions", help="Parts into which work is divided; 0: as many as workers.")
    @click.option("--workers", help="Tasks that run at once; 0: one on each processor.")
    @click.option("--memory", help="What a shuffle may hold at once, such as 8GB; the rest waits on disk.")
    @functools.wraps(main)
    def wrapped(*args: Any, **kwargs: Any) -> R:
        chosen = {name: kwargs.pop(name) for name in ("engine", "address", "partitions", "workers", "memory")}
        given = {name: value for name, value in chosen.items() if value is not None}
        return _importable(main)(*args, engine=configured(**given), **kwargs)

    return wrapped


def configured(**chosen: str) -> Engine:
    """The engine that the settings of this machine describe, with `chosen` in place of some; connects to the cluster.

    Raises UserError where a value is not valid, or the cluster does not answer.
    """
    settings = load_settings(**chosen)
    if settings.engine == "native":
        processors = len(os.sched_getaffinity(0))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:
        processors, memory = _connected(settings.address, settings.workers)
    workers = settings.workers or processors
    return Engine(
        name=settings.engine,
        address=settings.address,
        partitions=settings.partitions or workers,
        workers=workers,
        tasks_each=1 if settings.workers else 4,
        memory=settings.memory or memory // 4,
    )


def _importable(main: Callable[..., R]) -> Callable[..., R]:
    """The same command by its module's own name: `python -m` calls it `__main__`, which means nothing to workers."""
    spec = sys.modules["__main__"].__spec__
    if main.__module__ != "__main__" or spec is None:
        return main
    command: click.Command = importlib.import_module(spec.name).main
    function: Callable[..., R] = inspect.unwrap(command.callback)  # type: ignore[arg-type]
    return function


def _connected(address: str, workers: int) -> tuple[int, int]:
    """Processors and bytes of memory of a cluster, once this process is its client."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if host:
            # Ray itself would try for a long time, and say at length that nobody listens.
            socket.create_connection((host, int(port)), timeout=10).close()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        if not ray.is_initialized():
            own: dict[str, Any] = {"num_cpus": workers or None, "include_dashboard": False}
            ray.init(**({"address": address} if address else own), logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, RuntimeError, ValueError) as error:
        first = str(error).strip().split("\n")[0]
        raise UserError(
            f"Ray at {address or 'this machine'!r} does not answer ({first}); start it with `ray start --head`"
        ) from error
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return int(resources.get("CPU", 1)), int(resources.get("memory", 2**30))
