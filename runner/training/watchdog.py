"""How long a rank waits for what may never come: rows from a disk that hangs, or another rank."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from threading import Timer

from runner.training.job import BAD_INPUT


class Patience:
    """Ends this process, with a message, when something takes too long: a read that hangs cannot be interrupted."""

    def __init__(self, seconds: float, failure: Path) -> None:
        self.seconds, self.failure = seconds, failure

    @contextlib.contextmanager
    def waiting(self, for_what: str) -> Iterator[None]:
        """Wait for what is done inside. When time runs out, say what for in the failure file and end the process."""
        timer = Timer(self.seconds, self._end, [for_what])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _end(self, for_what: str) -> None:
        # The first rank to give up tells why.
        with contextlib.suppress(OSError), self.failure.open("x", encoding="utf-8") as file:
            file.write(f"{for_what} did not come in {self.seconds:g} seconds (stall_seconds in settings.yaml)")
        os._exit(BAD_INPUT)
