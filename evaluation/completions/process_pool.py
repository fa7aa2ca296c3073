"""The same work dealt to several processes; who does which part changes nothing but the time."""

import contextlib
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import TypeVar

from specs.common.errors import UserError
from specs.pipeline import code

Task = TypeVar("Task")
Result = TypeVar("Result")


def spread(
    make: Callable[[], Callable[[Task], Result]], tasks: Iterable[tuple[int, Task]], count: int
) -> Iterator[tuple[int, Result]]:
    """Results of numbered tasks, as they come, from `count` processes; one process is this one.

    `make` is called once in each process (it must be picklable) and gives the function that does a task. A process
    ends when this one does. Raises what a task raised, and UserError where a process was killed.
    """
    if count == 1:
        do = make()
        yield from ((number, do(task)) for number, task in tasks)
        return
    context = multiprocessing.get_context("spawn")
    waiting = iter(tasks)
    processes: dict[Connection, SpawnProcess] = {}
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, code.current(), make), daemon=True)
            with _deaf():
                process.start()
            # Held by the process alone, so that its death is seen here as the end of the connection.
            theirs.close()
            processes[ours] = process
            ours.send(next(waiting, None))
        open_ends = list(processes)
        while open_ends:
            for end in wait(open_ends):
                assert isinstance(end, Connection)
                try:
                    answer = end.recv()
                    if isinstance(answer, BaseException):
                        raise answer
                    if answer is None:
                        open_ends.remove(end)
                        continue
                    end.send(next(waiting, None))
                except (EOFError, ConnectionError) as error:
                    processes[end].join()
                    raise UserError(
                        f"a worker process ended with code {processes[end].exitcode} (memory?); "
                        "run again: what is finished is kept"
                    ) from error
                yield answer
    finally:
        for end, process in processes.items():
            end.close()
            process.terminate()
            process.join()


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Ignore Ctrl-C, as a process started here then does from its first moment: the group hears it, the parent acts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _work(connection: Connection, own: code.Code | None, make: Callable[[], Callable[[Task], Result]]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        code.require(own)
        do = make()
        while (task := connection.recv()) is not None:
            connection.send((task[0], do(task[1])))
        connection.send(None)
    except (EOFError, BrokenPipeError):
        return
    except BaseException as error:
        connection.send(error)
