"""Programs dealt to several sandboxes at one time."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from evaluation.protocols.program import Program
from evaluation.sandbox.dialogue import Outcome
from evaluation.sandbox.sandbox import Sandbox, Tier
from evaluation.sandbox.split_checker import SplitSandbox
from specs.schema.experiment import Limits

Done = Callable[[Program, Outcome, int], None]
"""Is called with each distinct program, its outcome, and how often it occurs."""


def run_all(
    programs: Sequence[Program],
    limits: Limits,
    *,
    tier: Tier = "T0",
    split: bool = False,
    workers: int | None = None,
    done: Done = lambda program, outcome, copies: None,
) -> list[Outcome]:
    """Outcome of each program, in order; `split`: under the split checker.

    A program that occurs more than once runs once. Neither `workers` (programs run at one time; none means one for each
    core) nor the order changes an outcome. When it is interrupted, by Ctrl-C say, programs in the middle are ended and
    `done` does not see them. Raises UserError where the machine cannot isolate programs.
    """
    copies: dict[Program, int] = {}
    for program in programs:
        copies[program] = copies.get(program, 0) + 1
    outcomes: dict[Program, Outcome] = {}
    waiting = iter(copies)
    runners: list[Sandbox | SplitSandbox] = []
    lock, stopped = threading.Lock(), threading.Event()

    def work() -> None:
        with (SplitSandbox if split else Sandbox)(limits, tier) as runner:
            runners.append(runner)
            while True:
                with lock:
                    program = None if stopped.is_set() else next(waiting, None)
                if program is None:
                    return
                outcome = runner.run(program)
                with lock:
                    if not stopped.is_set():
                        outcomes[program] = outcome
                        done(program, outcome, copies[program])

    count = min(workers or len(os.sched_getaffinity(0)), len(copies))
    with ThreadPoolExecutor(max(1, count)) as pool:
        try:
            for future in wait([pool.submit(work) for _ in range(count)], return_when=FIRST_EXCEPTION).done:
                future.result()
        finally:
            stopped.set()
            for runner in runners:
                runner.interrupt()
    return [outcomes[program] for program in programs]
