"""How a rank ends that cannot go on: what hangs ends the process, every reason is said, and signs of life are given."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from runner.training.job import BAD_INPUT, STALLED

BEAT, REASON = "beat", "reason"
"""Files in the folder that torchrun gives each rank: touched while the process lives, and what it said of its end."""


class Watchdog:
    """Ends this process, with a message, when something takes too long: a read that hangs cannot be interrupted.

    A thread looks every second; it also tells the agent that started this rank that the process lives.
    `seconds`: how long to wait where nothing else is said; `end`: how to say what did not come; `code`: to end with.
    """

    def __init__(self, seconds: float, end: Callable[[str], None] | None = None, code: int = STALLED) -> None:
        self.seconds, self._end, self._code = seconds, end or say, code
        self._awaited: _Awaited | None = None
        self._over = threading.Event()
        self._sign = _signs(BEAT)
        threading.Thread(target=self._look, name="watchdog", daemon=True).start()

    def expect(
        self, what: str | None, seconds: float | None = None, progress: Callable[[], object] = lambda: None
    ) -> None:
        """From now on wait for something; for nothing: as long as it takes.

        The time begins anew whenever `progress` has another value, and at each `touch`.
        """
        limit = self.seconds if seconds is None else seconds
        self._awaited = _Awaited(what, limit, progress) if what else None

    @contextlib.contextmanager
    def waiting(self, for_what: str, seconds: float | None = None) -> Iterator[None]:
        """Wait for what is done inside; after it for what was awaited before, from the beginning."""
        before = self._awaited
        self.expect(for_what, seconds)
        try:
            yield
        finally:
            self._awaited = before
            self.touch()

    def touch(self) -> None:
        """Let the time for what is awaited begin anew: it comes in parts, and here is one."""
        if awaited := self._awaited:
            awaited.since = time.monotonic()

    def stop(self) -> None:
        """Look no longer."""
        self._over.set()

    def _look(self) -> None:
        while not self._over.wait(1):
            if self._sign:
                with contextlib.suppress(OSError):
                    self._sign.touch()
            if (awaited := self._awaited) and awaited.late():
                self._end(f"{awaited.what} did not come in {awaited.seconds:g} seconds")
                os._exit(self._code)


class _Awaited:
    def __init__(self, what: str, seconds: float, progress: Callable[[], object]) -> None:
        self.what, self.seconds, self.since = what, seconds, time.monotonic()
        self._progress, self._last = progress, progress()

    def late(self) -> bool:
        if (now := self._progress()) != self._last:
            self._last, self.since = now, time.monotonic()
        return time.monotonic() - self.since > self.seconds


def bytes_written() -> int:
    """Bytes that this process has handed to the kernel so far, its threads included; 0 where the kernel tells none."""
    try:
        lines = Path("/proc/self/io").read_text("ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("wchar:")), 0)


def say(message: str) -> None:
    """Say why this rank ends, on standard error and to its agent, as far as either can be written."""
    with contextlib.suppress(OSError):
        print(f"rank {os.environ.get('RANK', 0)}: {message}", file=sys.stderr, flush=True)
    if sign := _signs(REASON):
        with contextlib.suppress(OSError):
            sign.write_text(message, "utf-8")


def refuse(failure: Path, message: str) -> int:
    """End all ranks, of which the first to refuse tells why in a file; returns the exit code of this one."""
    say(message)
    with contextlib.suppress(OSError), failure.open("x", encoding="utf-8") as file:
        file.write(message)
    return BAD_INPUT


def read_failure(failure: Path) -> str | None:
    """Why a rank refused to go on; none where none did."""
    try:
        # On a full disk there is room for a file's name alone.
        return failure.read_text("utf-8") or "a rank cannot go on, and had no room to say why here; see its log"
    except OSError:
        return None


def _signs(name: str) -> Path | None:
    folder = os.environ.get("TORCHELASTIC_ERROR_FILE")
    return Path(folder).with_name(name) if folder else None
