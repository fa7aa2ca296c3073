"""The program inside the sandbox: a server that forks one process for each candidate. Standard library only.

It runs from its text and that of the modules that it needs, so that the container holds no folder of the project. It
sees neither programs nor nonces: those travel on a channel between the supervisor and the forked process alone. A
process has one of three parts: `alone` it defines the candidate and runs the tests; for the split checker one process
holds the `candidate` and another the `tests`, joined by a link (see `object_proxy`).
"""

import builtins
import contextlib
import ctypes
import errno
import gc
import importlib
import json
import os
import random
import select
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path
from typing import NoReturn

from evaluation.sandbox.confinement import Confinement, Plan, become
from evaluation.sandbox.frames import frame, read_frame, write_all
from evaluation.sandbox.object_proxy import answer, borrowed

# What programs import most, so that no candidate pays for it in processor time.
PRELOADED = tuple(
    """abc array ast base64 binascii bisect calendar cmath collections collections.abc contextlib copy csv
dataclasses datetime decimal difflib enum fractions functools hashlib heapq hmac inspect io itertools json keyword
logging math numbers operator os pprint queue random re secrets statistics string struct subprocess tempfile textwrap
threading time traceback types typing unicodedata unittest urllib.parse uuid warnings weakref zlib""".split()  # noqa: SIM905
)

# What the system answers where the sandbox refuses: no right, read-only, no network, too large, too many processes.
REFUSALS = frozenset(
    getattr(errno, name)
    for name in ("EPERM", "EACCES", "EROFS", "ENETUNREACH", "ENETDOWN", "EFBIG", "ENOSPC", "EAGAIN", "EMFILE")
)
MOST_PERIODS = 20
"""How often the wall-clock limit passes before a program that computes is ended too."""
COMPUTING = 0.02
"""Share of the wall-clock time that a program has of a processor, at least, if it computes."""
MAX_FRAME = 2**26
MAX_MESSAGE = 300


def send(channel: int, kind: bytes, data: bytes = b"") -> None:
    """Write one frame."""
    write_all(partial(os.write, channel), frame(data, kind))


def receive(channel: int) -> bytes:
    """Data of the next frame. Raises EOFError where the other end is gone."""
    return read_frame(partial(os.read, channel), MAX_FRAME)[1]


def classify(error: BaseException) -> str:
    """Class of a failure by its exception."""
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, AssertionError):
        return "wrong"
    if isinstance(error, OSError) and error.errno in REFUSALS:
        return "blocked"
    if isinstance(error, RuntimeError) and error.args == ("can't start new thread",):
        return "blocked"
    return "crashed"


def describe(error: BaseException) -> bytes:
    """Exception type and message, cut short."""
    try:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    except BaseException:
        text = "an exception that cannot be shown"
    return text[:MAX_MESSAGE].encode("utf-8", "backslashreplace")


def run_program(part: str, channel: int, link: int | None, confinement: Confinement) -> NoReturn:
    """Define the candidate, then receive the tests, run them, and only then ask for the nonce and return it.

    Each side speaks in turn: a process that ended with words unread would take its own last report with it.
    """
    leave, write, read = os._exit, send, receive
    try:
        candidate = read(channel)
        confinement.apply()
        # A fork seeds it anew from the system: a program that draws would pass on some runs only.
        random.seed(0)
    except BaseException as error:
        write(channel, b"H", describe(error))
        leave(1)
    # A plain namespace, as the official harness has it: `if __name__ == "__main__"` does not run.
    namespace: dict[str, object] = {}
    try:
        if part == "tests":
            assert link is not None
            namespace.update(borrowed(link))
        exec(compile(candidate, "<candidate>", "exec"), namespace)
        write(channel, b"D")
        if part == "candidate":
            assert link is not None
            answer(link, namespace)
            leave(0)
        tests = read(channel)
        exec(compile(tests, "<tests>", "exec"), namespace)
        write(channel, b"T")
    except BaseException as error:
        write(channel, b"F", json.dumps([classify(error), describe(error).decode()]).encode())
        leave(1)
    write(channel, b"N", read(channel))
    leave(0)


def processor_seconds(process: int) -> float:
    """What another process has used so far; 0 where it is gone."""
    # The clock of a process, as clock_getcpuclockid(3) computes it: no /proc is needed.
    try:
        return time.clock_gettime(~process << 3 | 2)
    except OSError:
        return 0.0


def wait(process: int, control: int, wall_seconds: float) -> bool:
    """Wait until the process ends; True where the wall-clock limit came first. Leaves it to be reaped.

    The limit is for programs that wait. One that computes on a loaded machine begins it anew, up to `MOST_PERIODS`.
    """
    deadline, used, periods = time.monotonic() + wall_seconds, 0.0, 1
    handle = os.pidfd_open(process)
    try:
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                before, used = used, processor_seconds(process)
                if used - before < wall_seconds * COMPUTING or periods == MOST_PERIODS:
                    return True
                deadline, periods = deadline + wall_seconds, periods + 1
                continue
            ready = select.select([handle, control], [], [], left)[0]
            if handle in ready:
                return False
            if control in ready:
                # Nothing is said on it meanwhile: the supervisor is gone, and process 1 takes all others with it.
                os._exit(0)
    finally:
        os.close(handle)


def fresh_descriptors() -> None:
    """Open /dev/null anew for standard input, output and error.

    What a fork inherits is shared with the server and with every program: flags and locks on it would cross over.
    """
    for descriptor in (0, 1, 2):
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, descriptor)
        os.close(null)


def end_all(process: int) -> None:
    """Kill the program, and without a filter whatever else is in its session. It is not reaped: the id is still its."""
    for kill in (os.kill, os.killpg):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(process, signal.SIGKILL)


def reap(process: int) -> tuple[int, float]:
    """Wait status and processor seconds of the candidate; every other one is cleared away too."""
    status, seconds = 0, 0.0
    while True:
        try:
            ended, code, usage = os.wait4(-1, 0)
        except ChildProcessError:
            return status, seconds
        if ended == process:
            status, seconds = code, usage.ru_utime + usage.ru_stime


def serve(control: socket.socket, wall_seconds: int, confinement: Confinement) -> NoReturn:
    """Fork one process for each part of a program that arrives; answer with how it ended."""
    untouched = Path.cwd().stat().st_ctime_ns
    while True:
        part, descriptors, _, _ = socket.recv_fds(control, 16, 2)
        if not part or not descriptors:
            os._exit(0)
        process = os.fork()
        if process == 0:
            control.close()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            try:
                fresh_descriptors()
                os.setsid()
                run_program(part.decode(), descriptors[0], descriptors[1] if descriptors[1:] else None, confinement)
            finally:
                os._exit(1)
        for descriptor in descriptors:
            os.close(descriptor)
        late = wait(process, control.fileno(), wall_seconds)
        end_all(process)
        status, seconds = reap(process)
        # Any file made, removed or given other rights changes it.
        dirty = Path.cwd().stat().st_ctime_ns != untouched
        control.send(json.dumps({"status": status, "seconds": seconds, "late": late, "dirty": dirty}).encode())


def main() -> NoReturn:
    """Load what candidates need, say so, and serve."""
    control = socket.socket(fileno=int(sys.argv[1]))
    plan: Plan = json.loads(sys.argv[2])
    # A handler would let a candidate interrupt the server; process 1 never receives what it has no handler for.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in PRELOADED:
        importlib.import_module(name)
    for name in ("exit", "help", "quit"):
        # Made by `site`, which is not loaded; the official harness leaves them so too.
        setattr(builtins, name, None)
    if plan["user"] is not None:
        become(plan["user"], plan["readable"])
    confinement = Confinement(plan)
    pr_set_dumpable = 4
    ctypes.CDLL(None).prctl(pr_set_dumpable, 0, 0, 0, 0)
    gc.collect()
    gc.freeze()
    fresh_descriptors()
    control.send(b"ready")
    serve(control, plan["limits"]["wall_seconds"], confinement)
