"""Signals that ask a node to stop: heard in Python code as an exception, and in code outside Python too."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from torch.distributed.elastic.multiprocessing import SignalException

from runner.training.job import STOPPED

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Those that ask for a stop."""
SECONDS_TO_LEAVE = 5
"""How long code may take to come back to Python after a signal; then the process is ended."""


@contextlib.contextmanager
def raising_signals() -> Iterator[None]:
    """Have a signal raise SignalException in the main thread; one that waited until now does so at `deliver`."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SignalException(f"signal {number}", signal.Signals(number))

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def deliver() -> None:
    """Let the signals through that were blocked while this process began."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@contextlib.contextmanager
def leaving_at_once(while_what: str) -> Iterator[None]:
    """Let a signal end this process also where it waits in code outside Python, in which no handler runs."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    over = threading.Event()

    def watch() -> None:
        heard = os.read(read, 1)
        if heard and not over.wait(SECONDS_TO_LEAVE):
            print(f"stopped by {name(heard[0])} while {while_what}; nothing was computed", file=sys.stderr, flush=True)
            os._exit(STOPPED)
        os.close(read)

    threading.Thread(target=watch, daemon=True).start()
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        over.set()
        os.close(write)


def name(number: int) -> str:
    """The name of a signal, where it has one."""
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no name
        return f"signal {number}"
