"""Nothing passes from one program to the next, nor to one that runs beside it: one dirties, the other must pass."""

# ruff: noqa: E501 (programs stand as they run)
import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from evaluation.protocols.program import Program
from evaluation.sandbox.container import MAX_FILES
from evaluation.sandbox.dialogue import Outcome
from evaluation.sandbox.sandbox import Sandbox, Tier
from specs.schema.experiment import Limits

IMPORTS = (
    "import contextlib, errno, fcntl, mmap, os, random, resource, signal, socket, sys, tempfile, threading, time\n"
)
# What the first program does, and what the second must find as if it were alone.
PAIRS = {
    "a lock on standard input": (
        "fcntl.flock(0, fcntl.LOCK_EX)",
        "fcntl.flock(os.open('/dev/null', 0), fcntl.LOCK_EX)",
    ),
    "a lock on /dev/null": (
        "f = os.open('/dev/null', os.O_RDWR)\nfcntl.flock(f, fcntl.LOCK_EX)",
        "fcntl.flock(1, fcntl.LOCK_EX | fcntl.LOCK_NB)",
    ),
    "a record lock": (
        "fcntl.lockf(1, fcntl.LOCK_EX)",
        "fcntl.lockf(os.open('/dev/null', os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)",
    ),
    "a lock on the library": (
        "fcntl.flock(os.open(os.__file__, 0), fcntl.LOCK_EX)",
        "fcntl.flock(os.open(os.__file__, 0), fcntl.LOCK_EX | fcntl.LOCK_NB)",
    ),
    "flags of standard output": (
        "fcntl.fcntl(1, fcntl.F_SETFL, os.O_NONBLOCK | os.O_APPEND)",
        "assert not fcntl.fcntl(1, fcntl.F_GETFL) & (os.O_NONBLOCK | os.O_APPEND)",
    ),
    "flags of standard input": (
        "fcntl.fcntl(0, fcntl.F_SETFL, os.O_NONBLOCK)",
        "assert all(not fcntl.fcntl(n, fcntl.F_GETFL) & os.O_NONBLOCK for n in (0, 1, 2))",
    ),
    "closed descriptors": (
        "os.closerange(0, 3)",
        "print('x', flush=True)\nassert os.fstat(0).st_rdev == os.fstat(2).st_rdev",
    ),
    "another file as standard input": (
        "os.dup2(os.open(os.__file__, 0), 0)",
        "assert os.read(0, 9) == b''\nassert input.__name__ == 'input'",
    ),
    "many open descriptors": (
        "kept = [os.dup(0) for _ in range(90)]",
        "kept = [os.dup(0) for _ in range(90)]",
    ),
    "lower limits": (
        "for what in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_STACK):\n"
        "    resource.setrlimit(what, (9, 9))",
        "assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 90\nassert resource.getrlimit(resource.RLIMIT_FSIZE)[0] > 99",
    ),
    "used processor time": (
        "t = time.process_time()\nwhile time.process_time() < t + .7: pass",
        "t = time.process_time()\nwhile time.process_time() < t + .7: pass",
    ),
    "ignored signals": (
        "for n in range(1, 30):\n    with contextlib.suppress(OSError, ValueError): signal.signal(n, signal.SIG_IGN)",
        "assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL\nassert signal.getsignal(signal.SIGXCPU) == signal.SIG_DFL",
    ),
    "blocked signals": (
        "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))",
        "assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())",
    ),
    "an alarm": ("signal.setitimer(signal.ITIMER_REAL, 60)", "assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)"),
    "a file mask": ("os.umask(0o777)", "assert os.umask(0) != 0o777"),
    "another folder": ("os.chdir('/')", "assert os.getcwd() == {cwd!r}"),
    "modules": (
        "import math\nmath.pi = 3\nsys.modules['json'] = None\nrandom.random = int",
        "import json, math\nassert json.loads('1') == 1\nassert math.pi > 3.1\nassert random.random() > 0",
    ),
    "builtins": ("import builtins\nbuiltins.abs = builtins.print = None", "assert abs(-1) == 1\nprint('x')"),
    "the random numbers": ("random.seed(5)\nrandom.random()", "assert random.random() == 0.8444218515250481"),
    "the hash seed": ("os.environ['PYTHONHASHSEED'] = '7'", "assert hash('twice') == {hash}"),
    "the environment": (
        "os.environ['X'] = '1'\nos.putenv('TZ', 'Asia/Tokyo')\ntime.tzset()",
        "assert 'X' not in os.environ\nassert time.localtime(0).tm_hour == 0",
    ),
    "recursion and switch interval": (
        "sys.setrecursionlimit(50)\nsys.setswitchinterval(9)",
        "assert sys.getrecursionlimit() == 1000\nassert sys.getswitchinterval() < 1",
    ),
    "the locale": (
        "import locale\nwith contextlib.suppress(Exception): locale.setlocale(locale.LC_ALL, 'C')",
        "assert '{:n}'.format(1000) == '1000'\nassert open(os.devnull).encoding.lower() == 'utf-8'",
    ),
    "threads": (
        "threading.Thread(target=time.sleep, args=[60], daemon=True).start()",
        "assert threading.active_count() == 1\nt = [threading.Thread(target=int) for _ in range(6)]\n[x.start() for x in t]",
    ),
    "memory": ("x = bytearray(2 * 10**8)", "x = bytearray(2 * 10**8)"),
    "decimal precision": (
        "import decimal\ndecimal.getcontext().prec = 2",
        "import decimal\nassert decimal.getcontext().prec == 28",
    ),
}
FILES = {
    "a file": ("open('note', 'w').write('x')", "assert os.listdir('/tmp') == []"),
    "a hidden folder": ("os.makedirs('.a/b')", "assert os.listdir('/tmp') == []"),
    "a folder that nobody may enter": ("os.mkdir('a', 0)\nos.chmod('/tmp', 0)", "open('/tmp/a', 'w').write('x')"),
    "a full disk": (
        "with contextlib.suppress(OSError):\n    for n in range(99): open(str(n), 'wb').write(bytes(99999))",
        "open('a', 'wb').write(bytes(900_000))",
    ),
    "all inodes": (
        "with contextlib.suppress(OSError):\n    for n in range(9999): os.mkdir(str(n))",
        f"for n in range({MAX_FILES - 10}): open(str(n), 'w').close()",
    ),
    "all inodes, by links": (
        "with contextlib.suppress(OSError):\n    for n in range(9999): os.symlink('x', str(n))",
        "os.symlink('x', 'y')",
    ),
    "an open file that has no name": (
        "f = open('a', 'wb')\nos.unlink('a')\nf.write(bytes(900_000))\nf.flush()",
        "open('b', 'wb').write(bytes(900_000))",
    ),
}
ONE = Program("def f(): return 1", "assert f() == 1")


def pair(box: Sandbox, first: str, second: str) -> tuple[Outcome, Outcome]:
    facts = {"cwd": "/tmp" if box.tier == "T0" else "/", "hash": known_hash()}
    for name, value in facts.items():
        second = second.replace(f"{{{name}!r}}", repr(value)).replace(f"{{{name}}}", str(value))
    return box.run(Program(IMPORTS + first, "")), box.run(Program(IMPORTS + second, ""))


def known_hash() -> int:
    """Hash of a text in an interpreter whose seed is that of the sandbox."""
    done = subprocess.run(
        [sys.executable, "-c", "print(hash('twice'))"], capture_output=True, env={"PYTHONHASHSEED": "0"}, check=True
    )
    return int(done.stdout)


@pytest.mark.parametrize("tier", ["T0", "T1"])
@pytest.mark.parametrize("name", PAIRS)
def test_the_next_program_is_alone(name: str, tier: Tier, boxes: Callable[[Tier], Sandbox]) -> None:
    dirty, clean = pair(boxes(tier), *PAIRS[name])
    assert dirty == Outcome("passed"), "what dirties has to be done"
    assert clean == Outcome("passed")


@pytest.mark.parametrize("name", FILES)
def test_the_next_program_has_an_empty_folder(name: str, boxes: Callable[[Tier], Sandbox]) -> None:
    dirty, clean = pair(boxes("T0"), *FILES[name])
    assert dirty == Outcome("passed"), "what dirties has to be done"
    assert clean == Outcome("passed")


def test_files_are_bounded_in_number(boxes: Callable[[Tier], Sandbox]) -> None:
    """Each one takes memory of the kernel's, which no limit of a process counts: 600 MB of it once."""
    code = "import os\nfor n in range(10**6):\n    os.mkdir(str(n))\n"
    outcome = boxes("T0").run(Program(code, ""))
    assert outcome.verdict == "blocked"
    assert int(outcome.message.rpartition("'")[0].rpartition("'")[2]) <= MAX_FILES


HOLDS = {
    "a lock on standard input": "fcntl.flock(0, fcntl.LOCK_EX)",
    "a lock on the library": "fcntl.flock(os.open(os.__file__, 0), fcntl.LOCK_EX)",
    "a record lock": "fcntl.lockf(1, fcntl.LOCK_EX)",
}


@pytest.mark.parametrize("tier", ["T0", "T1"])
@pytest.mark.parametrize("name", HOLDS)
def test_a_program_that_runs_beside_it_does_not_wait(name: str, tier: Tier, short_limits: Limits) -> None:
    """In another sandbox, and on the host: /dev/null and the library are the same files everywhere."""
    holding = Program(f"{IMPORTS}{HOLDS[name]}\ntime.sleep(30)", "")
    limits = short_limits.model_copy(update={"wall_seconds": 4})
    with Sandbox(limits, tier) as one, Sandbox(limits, tier) as other:
        thread = threading.Thread(target=one.run, args=(holding,))
        thread.start()
        for wanted in (HOLDS[name], HOLDS[name].replace("LOCK_EX", "LOCK_EX | fcntl.LOCK_NB")):
            assert other.run(Program(IMPORTS + wanted, "")) == Outcome("passed")
        for path in (os.devnull, os.__file__):
            with open(path, "rb") as file:  # noqa: PTH123
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        one.interrupt()
        thread.join()


REFUSED = {
    "a pool of threads of multiprocessing": "from multiprocessing.pool import ThreadPool\nThreadPool(2)",
    "a pool of processes": "import multiprocessing\nmultiprocessing.Pool(2)",
    "a lock between processes": "import multiprocessing\nmultiprocessing.Lock()",
    "an executor of processes": ("from concurrent.futures import ProcessPoolExecutor as P\nlist(P(2).map(abs, [-1]))"),
    "shared memory": "from multiprocessing import shared_memory as s\ns.SharedMemory(create=True, size=9)",
}


@pytest.mark.parametrize("tier", ["T0", "T1"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_the_sandbox_does_not_offer_is_blocked_and_no_crash(
    name: str, tier: Tier, boxes: Callable[[Tier], Sandbox]
) -> None:
    assert boxes(tier).run(Program(REFUSED[name], "")).verdict == "blocked"


@pytest.mark.parametrize("tier", ["T0", "T1"])
@pytest.mark.parametrize("zone, hours", [("UTC", 0), ("Europe/Paris", 2), ("Asia/Tokyo", 9), ("America/New_York", -4)])
def test_time_zones_are_those_of_the_pinned_package(
    zone: str, hours: int, tier: Tier, boxes: Callable[[Tier], Sandbox]
) -> None:
    code = f"import datetime as d, zoneinfo as z\nt = d.datetime(2024, 7, 1, tzinfo=z.ZoneInfo({zone!r}))\n"
    assert boxes(tier).run(Program(code, f"assert t.utcoffset() == d.timedelta(hours={hours})")) == Outcome("passed")
