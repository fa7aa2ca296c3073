"""torchrun's agent in this process: starts the ranks of one node, watches them, and begins anew when one is lost."""

import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.rendezvous import RendezvousError, RendezvousParameters, rendezvous_handler_registry
from torch.distributed.launcher.api import LaunchConfig

from runner.launching.cluster import Elastic
from runner.launching.signals import leaving_at_once, name
from runner.training.job import BAD_INPUT, LOST_PEER, STALLED, STOPPED
from runner.training.watchdog import BEAT, REASON, Watchdog, read_failure
from specs.loading.settings import load_settings

HOST_ERRORS = (RendezvousError, RuntimeError)
"""What the meeting and its store raise where their host is gone."""
SECONDS_TO_SAY_WHY = 5
"""How long the other ranks of a lost attempt may take to say what they saw; then they are killed."""
SECONDS_TO_START = 600
"""How long a rank may take to import what it needs, from a file system that all nodes read at once."""


@dataclass(frozen=True)
class Group:
    """The ranks of this node, and the nodes that they work with."""

    ranks: int
    """On this node."""
    elastic: Elastic
    nodes: int = 1
    """How many there are, with this one."""
    rendezvous: str = "localhost:0"
    run_id: str = ""
    """Name of the meeting, the same on all nodes. What stands before a dot is the same for all meetings of one job."""
    address: str | None = None
    """Name under which the others reach this node."""

    @property
    def alone(self) -> bool:
        """Whether all ranks are on this machine."""
        return self.nodes == 1


def worker_spec(job: Path, group: Group, run_id: str) -> WorkerSpec:
    """What torchrun's agent needs to know; meets nobody yet, but connects to the store where they meet."""
    elastic = group.elastic
    least = min(elastic.least_nodes or group.nodes, group.nodes)
    address = group.address or ("localhost" if group.alone else None)
    meeting = RendezvousParameters(
        backend="c10d",
        endpoint=group.rendezvous,
        run_id=run_id,
        min_nodes=least,
        max_nodes=group.nodes,
        local_addr=address,
        join_timeout=elastic.join_seconds,
        last_call_timeout=elastic.last_call_seconds if least < group.nodes else 1,
        read_timeout=elastic.join_seconds,
        keep_alive_interval=max(elastic.lost_after_seconds // 3, 1),
        keep_alive_max_attempt=3,
    )
    return WorkerSpec(
        role="rank",
        local_world_size=group.ranks,
        entrypoint=sys.executable,
        args=("-m", "runner.training.worker", str(job)),
        rdzv_handler=rendezvous_handler_registry.create_handler(meeting),
        max_restarts=elastic.max_restarts,
        local_addr=address,
        # Torch's own choice of processors near each GPU.
        numa_options=LaunchConfig(1, 1, group.ranks).numa_options,
    )


class Agent(LocalElasticAgent):
    """Torchrun's agent, which decides otherwise what a lost attempt is.

    A rank's exit code tells whether its end was an accident; whoever stays silent, rank or node, has met with one.
    """

    def __init__(self, spec: WorkerSpec, signs: Path, group: Group, failure: Path, watchdog: Watchdog) -> None:
        super().__init__(
            spec, DefaultLogsSpecs(log_dir=str(signs)), exit_barrier_timeout=group.elastic.lost_after_seconds
        )
        self.group, self.failure, self.watchdog = group, failure, watchdog
        self.stall_seconds = load_settings().stall_seconds
        self.met = False
        self.codes: dict[int, int | None] = {}
        """Exit code of each rank of the last attempt on this node; none while it runs."""
        self.reason = ""
        """How the last attempt ended, where it was lost."""
        self.refused = False
        """Whether another attempt is of no use."""
        self._beats: dict[int, tuple[int, float]] = {}

    @property
    def saved(self) -> bool:
        """Whether all ranks of this node ended as asked."""
        self._poll()
        return all(code in (0, STOPPED) for code in self.codes.values())

    def leave(self) -> None:
        """End the meeting for all nodes: none would find the others again."""
        self._expect_host()
        with contextlib.suppress(*HOST_ERRORS):
            self._rdzv_handler.shutdown()

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        with leaving_at_once("the nodes met"), self.watchdog.waiting("the meeting"):
            super()._rendezvous(worker_group)
        self.met = True
        self._beats.clear()

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        self._poll()
        if all(code == 0 for code in self.codes.values()):
            return RunResult(WorkerState.SUCCEEDED, return_values=dict.fromkeys(self.codes))
        if any(self.codes.values()):
            return self._lose(worker_group)
        if silent := self._silent_rank():
            return self._lose(worker_group, silent)
        if lost := self._lost_node(worker_group):
            return self._lose(worker_group, lost)
        return RunResult(WorkerState.HEALTHY)

    def _stop_workers(self, worker_group: WorkerGroup) -> None:
        """End what is left of an attempt: what it has not saved is lost already."""
        self._close(signal.SIGKILL, SECONDS_TO_SAY_WHY)

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
        """Ask the ranks to stop, whichever signal asked this process; kill those that have not saved in time."""
        self._close(signal.SIGTERM, self.group.elastic.save_seconds)

    def _close(self, number: signal.Signals, seconds: int) -> None:
        self.watchdog.expect(None)
        if self._pcontext:
            self._pcontext.close(number, seconds)

    def _poll(self) -> None:
        handlers: dict[int, Any] = getattr(self._pcontext, "subprocess_handlers", {})
        workers = self._worker_group.workers
        self.codes = {workers[local].global_rank: handler.proc.poll() for local, handler in handlers.items()}

    def _lose(self, worker_group: WorkerGroup, reason: str = "") -> RunResult:
        """End the attempt on this node, and say why."""
        stopping = STOPPED in self.codes.values()
        self._close(signal.SIGTERM, self.group.elastic.save_seconds if stopping else SECONDS_TO_SAY_WHY)
        first, self.reason = dict(self.codes), reason
        self._poll()
        self.reason = reason or blame(first, self.codes, self._said())
        stuck = [rank for rank, code in self.codes.items() if code is None]
        if stuck:
            self.reason += f"; rank {stuck[0]} cannot be killed: it waits for a disk or a device of this machine"
        ended = {code for code in self.codes.values() if code is not None}
        self.refused = bool(stuck) or BAD_INPUT in ended or read_failure(self.failure) is not None
        if self.refused or STOPPED in ended:
            self._remaining_restarts = 0
        elif self._remaining_restarts:
            print(
                f"{self.reason}; all ranks begin again from the last checkpoint "
                f"({self._remaining_restarts} of {worker_group.spec.max_restarts} attempts left)",
                file=sys.stderr,
                flush=True,
            )
        return RunResult(WorkerState.FAILED)

    def _said(self) -> dict[int, str]:
        """What each rank of this node said of its end."""
        said = {}
        for rank, sign in self._signs():
            with contextlib.suppress(OSError):
                said[rank] = sign.with_name(REASON).read_text("utf-8")
        return said

    def _signs(self) -> Iterator[tuple[int, Path]]:
        """Where each rank of this node gives a sign of life."""
        assert self._pcontext
        for local, path in self._pcontext.error_files.items():
            yield self._worker_group.workers[local].global_rank, Path(path).with_name(BEAT)

    def _silent_rank(self) -> str | None:
        """The first rank that has given no sign of life for too long: stopped, or waiting where no thread runs."""
        now = time.monotonic()
        for rank, sign in self._signs():
            if self.codes[rank] is not None:
                continue
            try:
                beat, limit = sign.stat().st_mtime_ns, self.stall_seconds
            except OSError:  # it still imports
                beat, limit = 0, max(self.stall_seconds, SECONDS_TO_START)
            known, since = self._beats.get(rank, (None, now))
            if beat != known:
                self._beats[rank] = beat, now
            elif now - since > limit:
                return f"rank {rank} gave no sign of life for {limit} seconds (stall_seconds in settings.yaml)"
        return None

    def _lost_node(self, worker_group: WorkerGroup) -> str | None:
        """What is said of a node that the meeting has given up, if any; those that are done may leave."""
        if self.group.alone:
            return None
        size, seconds = worker_group.group_world_size or 1, self.group.elastic.lost_after_seconds
        self._expect_host()
        try:
            self._rdzv_handler.num_nodes_waiting()  # asks for the state of the meeting
            # Torch tells how many nodes wait, and tells nobody how many are left.
            left = len(self._rdzv_handler._state_holder.state.participants)  # type: ignore[attr-defined]
            if left < size:
                left += sum(worker_group.store.check([_done(rank)]) for rank in range(size))  # type: ignore[attr-defined]
        except HOST_ERRORS:
            self._remaining_restarts = 0
            return f"the node where all meet ({self.group.rendezvous}) does not answer"
        if left >= size:
            return None
        return f"{size - left} of {size} nodes left the meeting, or gave no sign of life for {seconds} seconds"

    def _expect_host(self) -> None:
        # The store waits for an answer without end where its host is gone.
        self.watchdog.expect(
            f"an answer of the node where all meet ({self.group.rendezvous})",
            2 * self.group.elastic.lost_after_seconds,
        )

    def _exit_barrier(self) -> None:
        """Stay until all nodes are done, or lost: this one may host the meeting."""
        group = self._worker_group
        if self.group.alone:
            return
        with contextlib.suppress(*HOST_ERRORS):
            group.store.set(_done(group.group_rank), "1")  # type: ignore[attr-defined]
            every_node = [_done(rank) for rank in range(group.group_world_size or 1)]
            while not self._lost_node(group) and not group.store.check(every_node):  # type: ignore[attr-defined]
                time.sleep(0.2)
        self.watchdog.expect(None)


def _done(group_rank: int | None) -> str:
    return f"twice/done/{group_rank}"


def blame(first: dict[int, int | None], last: dict[int, int | None], said: dict[int, str]) -> str:
    """Which rank of a lost attempt is told of, and what: the one whose end was not the consequence of another's.

    `first` and `last`: exit code of each rank when the first end was seen, and after the rest was ended by this
    process; `said`: what ranks said of their end. Ranks that lost their peer are often the first to be seen.
    """
    own = {rank: code for rank, code in last.items() if code and (first[rank] or code > 0)}
    order = {LOST_PEER: 2, STALLED: 1}
    rank, code = min(own.items(), key=lambda item: (order.get(item[1], 0), item[0]))
    if rank in said:
        return f"rank {rank}: {said[rank]}"
    return f"rank {rank} was killed by {name(-code)}" if code < 0 else f"rank {rank} failed with code {code}"
