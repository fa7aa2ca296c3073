"""torchrun's agent in this process: starts the ranks of one node, and all ranks anew when one ends by accident."""

import logging
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from runner.launching.cluster import Elastic
from runner.training.determinism import environment_of_ranks
from runner.training.job import LOST_PEER, STOPPED
from specs.common.errors import UserError
from specs.common.run_folder import RunFolder


class StoppedError(Exception):
    """The ranks were asked to stop; running the same command again goes on from what they saved."""


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
    """Name of the meeting, the same on all nodes."""
    address: str | None = None
    """Name under which the others reach this node."""

    @property
    def alone(self) -> bool:
        """Whether all ranks are on this machine."""
        return self.nodes == 1


def run_agent(job: Path, threads: int, group: Group) -> None:
    """Run `runner.training.worker` on a job file with the ranks of a group, and wait for them.

    SIGTERM, SIGUSR1 and SIGINT to this process reach every rank, which saves its state and ends; if this process dies,
    its ranks die with it. A rank that ends by accident (killed, or cut off from the others) ends all ranks of the
    attempt; the next one, of at most `max_restarts`, goes on from the last checkpoint with the nodes that are left.
    Bad input and a request to stop end the run without another attempt.

    Raises StoppedError after such a stop, UserError with the message of the rank that refused its input, or with what
    became of a rank that failed otherwise.
    """
    folder = RunFolder(job.parent)
    failure, stopped = folder.failure, folder.stopped
    os.environ.update(environment_of_ranks(threads))
    elastic = group.elastic
    least = elastic.least_nodes or group.nodes
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(elastic.save_seconds)
    # On one machine the loopback interface exists where a host name may not resolve.
    if interface := elastic.interface or ("lo" if group.alone else None):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        if interface != "lo":
            os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
    if elastic.max_restarts or not group.alone:
        # One store for all attempts would hand a new attempt the addresses that the ranks of the last one left there.
        os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    # The agent announces each signal and each rank's end on its own; what matters is said below.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=least,
        max_nodes=group.nodes,
        nproc_per_node=group.ranks,
        rdzv_backend="c10d",
        rdzv_endpoint=group.rendezvous,
        rdzv_configs={
            "join_timeout": elastic.join_seconds,
            "last_call_timeout": elastic.last_call_seconds if least < group.nodes else 1,
            "read_timeout": elastic.join_seconds,
            "keep_alive_interval": max(elastic.lost_after_seconds // 3, 1),
            "keep_alive_max_attempt": 3,
        },
        local_addr=group.address or ("localhost" if group.alone else None),
        run_id=group.run_id or f"twice-{os.getpid()}",
        max_restarts=elastic.max_restarts,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder.logs)),
        signals_to_handle="SIGTERM,SIGINT,SIGUSR1,SIGHUP,SIGQUIT",
    )
    try:
        elastic_launch(config, sys.executable)("-m", "runner.training.worker", str(job))
    except SignalException as error:
        raise StoppedError(f"stopped by {signal.Signals(error.sigval).name}") from error
    except ChildFailedError as error:
        # A rank that only lost its peer may be noticed first.
        rank, first = min(error.failures.items(), key=lambda item: (item[1].exitcode == LOST_PEER, item[1].timestamp))
        if failure.exists():
            raise UserError(failure.read_text("utf-8")) from error
        end = f"was killed by {first.signal_name()}" if first.exitcode < 0 else f"failed with code {first.exitcode}"
        raise UserError(f"rank {rank} {end}; run the same command again to go on from the last checkpoint") from error
    except (RendezvousError, RuntimeError) as error:
        if folder.finished.path.is_dir():
            return  # the node that hosted the meeting was the first to leave
        if failure.exists():
            raise UserError(failure.read_text("utf-8")) from error
        raise UserError(
            f"the nodes did not find each other, or lost the one where they meet ({group.rendezvous}): "
            f"{str(error).splitlines()[0]}; run the same command again"
        ) from error
    if failure.exists():
        raise UserError(failure.read_text("utf-8"))
    if stopped.exists():
        raise StoppedError("stopped as asked")


def exit_code(error: StoppedError | UserError) -> int:
    """What a node's process ends with."""
    return STOPPED if isinstance(error, StoppedError) else 2
