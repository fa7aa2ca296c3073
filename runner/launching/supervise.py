"""A node's part in a job: one of the agents that work on it, until its ranks are done, stopped or lost."""

import contextlib
import fcntl
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from torch.distributed.elastic.multiprocessing import SignalException

from runner.launching.signals import SIGNALS, deliver, leaving_at_once, raising_signals
from runner.launching.torchrun import Agent, Group, worker_spec
from runner.training.determinism import environment_of_ranks
from runner.training.job import BAD_INPUT, STOPPED
from runner.training.watchdog import Watchdog, read_failure
from specs.common.errors import UserError
from specs.common.run_folder import RunFolder

LOOKS_AT_THE_LOCK = 3
"""How often the agents of another job are seen at work before that is believed."""
MEMORY = Path("/dev/shm")
"""Where signs of life are given: no disk that is full or hangs lies between."""


class StoppedError(Exception):
    """The ranks were asked to stop; running the same command again goes on from what they saved."""


def run_agent(job: Path, threads: int, group: Group) -> None:
    """Run `runner.training.worker` on a job file with the ranks of a group, and wait for them.

    A signal to this process reaches every rank, which saves its state and ends; if this process dies, its ranks die
    with it. A rank that ends by accident (killed, or cut off from the others), one that gives no sign of life, and a
    node that is lost end all ranks of the attempt; the next one, of at most `max_restarts`, goes on from the last
    checkpoint with the nodes that are left. Bad input and a request to stop end the run without another attempt.

    Raises StoppedError after such a stop; UserError with the message of the rank that refused its input, with what
    became of the one that failed otherwise, or where another job's agents work on the same run.
    """
    folder = RunFolder(job.parent)
    group_id = group.run_id or f"twice-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        stack.enter_context(raising_signals())
        try:
            deliver()
            stack.enter_context(_membership(folder, group_id.partition(".")[0]))
            signs = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="twice-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None)
            )
            _prepare_environment(threads, group)
            _run(job, group, group_id, Path(signs))
        except SignalException as error:
            raise StoppedError(f"stopped by {signal.Signals(error.sigval).name}") from error
        except OSError as error:
            raise UserError(
                f"{error.filename or folder.path}: {error.strerror}; the last checkpoint is whole"
            ) from error


def _run(job: Path, group: Group, run_id: str, signs: Path) -> None:
    folder, elastic = RunFolder(job.parent), group.elastic

    def give_up(reason: str) -> None:
        print(f"error: {_ended(folder, reason)}", file=sys.stderr, flush=True)

    watchdog = Watchdog(elastic.join_seconds + 60, give_up, BAD_INPUT)
    agent: Agent | None = None
    try:
        with leaving_at_once("the nodes met"), watchdog.waiting("the meeting"):
            agent = Agent(worker_spec(job, group, run_id), signs, group, folder.failure, watchdog)
        result = agent.run()
        failed = result is not None and result.is_failed()  # none: this node stood by to the end
        if failed:
            agent.leave()
    except SignalException:
        if agent and not agent.saved:
            print("some ranks were killed before they had saved: the last checkpoint stands", file=sys.stderr)
        raise
    except OSError:
        raise
    except Exception as error:  # the store and the rendezvous raise errors of their own, which share no other base
        if agent:
            agent.leave()
        if folder.finished.path.is_dir():
            return  # the node that hosted the meeting was the first to leave
        if reason := read_failure(folder.failure):
            raise UserError(reason) from error
        if folder.stopped.exists():
            raise StoppedError("stopped as asked") from error
        where = "did not find each other" if agent is None or not agent.met else "lost the one where they meet"
        reason = f"the nodes {where} ({group.rendezvous}): {_first_line(error)}; run the same command again"
        raise UserError(_ended(folder, reason)) from error
    finally:
        watchdog.stop()
    if reason := read_failure(folder.failure):
        raise UserError(reason)
    if STOPPED in agent.codes.values() or folder.stopped.exists():
        raise StoppedError("stopped as asked")
    if failed:
        advice = "" if agent.refused else "; run the same command again to go on from the last checkpoint"
        raise UserError(_ended(folder, agent.reason + advice))


def _prepare_environment(threads: int, group: Group) -> None:
    os.environ.update(environment_of_ranks(threads))
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ",".join(number.name for number in SIGNALS)
    # On one machine the loopback interface exists where a host name may not resolve.
    if interface := group.elastic.interface or ("lo" if group.alone else None):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        if interface != "lo":
            os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
    if group.elastic.max_restarts or not group.alone:
        # One store for all attempts would hand a new attempt the addresses that the ranks of the last one left there.
        os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    # The agent announces each signal and each rank's end on its own; what matters is said here.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)


@contextlib.contextmanager
def _membership(folder: RunFolder, job: str) -> Iterator[None]:
    """Work on a run as one of the agents of a job. The first one removes what an earlier job said of its end.

    Raises UserError where agents of another job work on it.
    """
    with folder.agents.open("a+", encoding="utf-8") as lock:
        for _ in range(LOOKS_AT_THE_LOCK):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for end in (folder.failure, folder.stopped, folder.ended):
                    end.unlink(missing_ok=True)
                lock.truncate(0)
                lock.write(job)
                lock.flush()
            # Whoever holds it alone has it for a moment only.
            fcntl.flock(lock, fcntl.LOCK_SH)
            lock.seek(0)
            if (other := lock.read()) == job:
                break
            fcntl.flock(lock, fcntl.LOCK_UN)
            time.sleep(1)  # the others may be about to end
        else:
            raise UserError(f"{folder.path}: the ranks of {other} are at work on this run; wait for them, or end them")
        yield


def _ended(folder: RunFolder, reason: str) -> str:
    """Note how a node ended, for whoever waits for a scheduler's job, if the disk allows it; the first one counts."""
    with contextlib.suppress(OSError), folder.ended.open("x", encoding="utf-8") as file:
        file.write(reason)
    return reason


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ or error
    return (str(cause).splitlines() or [type(cause).__name__])[0]
