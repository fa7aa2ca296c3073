"""Progress of long work: a live bar on a terminal, a plain line every few seconds elsewhere."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.live import Live

_SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Counts work done and says so on standard error, with rate and time left.

    >>> with Progress("pack", total=3, unit="documents") as progress:
    ...     progress.advance(3)
    """

    def __init__(self, label: str, total: int | None = None, unit: str = "items") -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self.note = ""
        """Free text at the end of the line, such as the current loss."""
        self._start = self._last = time.monotonic()
        self._done_at_start = 0
        self._said: tuple[int, str] | None = None
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), get_renderable=self._line, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif kind is None and self._said != (self.done, self.note):
            self._print()

    def resume(self, done: int) -> None:
        """Start the count at work that an earlier process did; it does not enter the rate."""
        self.done = self._done_at_start = done

    def advance(self, amount: int = 1, note: str | None = None) -> None:
        """Add finished work."""
        self.done += amount
        if note is not None:
            self.note = note
        if self._live is None and time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES:
            self._print()

    def _print(self) -> None:
        self._last, self._said = time.monotonic(), (self.done, self.note)
        print(self._line(), file=sys.stderr, flush=True)

    def _line(self) -> str:
        seconds = time.monotonic() - self._start
        rate = (self.done - self._done_at_start) / seconds if seconds > 0 else 0.0
        of = f"/{self.total:,}" if self.total is not None else ""
        parts = [f"{self.label}: {self.done:,}{of} {self.unit}", f"{rate:,.1f}/s"]
        if self.total is not None and rate > 0 and self.done < self.total:
            left = (self.total - self.done) / rate
            parts.append(f"{int(left // 60)}:{int(left % 60):02d} left")
        if self.note:
            parts.append(self.note)
        return ", ".join(parts)
