"""The split checker: candidate and tests in two sandboxes, so that no candidate can forge its own verdict.

The comparable verdict lets a candidate share a process with its tests, as every published harness does. This one is an
audit of it: where the two disagree, the candidate cheated, or the tests need more of it than can be carried over.
"""

import socket
from types import TracebackType
from typing import Self

from evaluation.protocols.program import Program
from evaluation.sandbox.dialogue import Broken, Outcome, converse, define
from evaluation.sandbox.sandbox import Sandbox, Tier
from specs.schema.experiment import Limits


class SplitSandbox:
    """Two sandboxes and a link between them. Use it from the thread that made it."""

    def __init__(self, limits: Limits, tier: Tier = "T0") -> None:
        self._candidate, self._tests = Sandbox(limits, tier), Sandbox(limits, tier)
        self._interrupted = False

    def __enter__(self) -> Self:
        self._candidate.__enter__()
        self._tests.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def interrupt(self) -> None:
        """End both from another thread; what `run` returns then means nothing."""
        self._interrupted = True
        self._candidate.interrupt()
        self._tests.interrupt()

    def discard(self) -> None:
        """End both sandboxes and every process in them."""
        self._candidate.discard()
        self._tests.discard()

    def run(self, program: Program) -> Outcome:
        """Run the tests of one program against its candidate in another process, within the limits of each."""
        for _ in range(2):
            try:
                return self._attempt(program)
            except (Broken, TimeoutError):
                self.discard()
                if self._interrupted:
                    break
        return Outcome("crashed", "the program took its sandbox down")

    def _attempt(self, program: Program) -> Outcome:
        one, other = socket.socketpair()
        with one, other:
            # Whatever is closed before an end is waited for lets a process that still writes to it end.
            with self._candidate.hand("candidate", one) as candidate:
                # Held by the two processes alone: when one ends, the other sees it.
                one.close()
                failed = define(candidate, program.candidate)
            if failed is not None:
                self._candidate.ending()
                return failed
            with self._tests.hand("tests", other) as tests:
                other.close()
                verdict = converse(tests, Program("", f"{program.helpers}\n{program.tests}"))
        ended, candidate_ended = self._tests.ending(), self._candidate.ending()
        if verdict is not None and verdict.verdict == "passed":
            return verdict
        # Its end explains what the tests saw of it: no more than a link that broke.
        return candidate_ended if candidate_ended.verdict == "timeout" else verdict or ended
