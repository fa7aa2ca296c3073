"""Programs that mean harm do none, at either tier; what forges only its own verdict is seen by the split checker.

Each program calls `reached` if it got what it wanted. All run after the guard of conftest.py, which ends a program
that could signal another process: none may ever run outside a sandbox.
"""

import os
import platform
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evaluation.protocols.program import Program
from evaluation.sandbox.dialogue import Outcome
from evaluation.sandbox.split_checker import SplitSandbox
from specs.schema.experiment import Limits

Run = Callable[..., Outcome]

PRELUDE = """
import ctypes, errno, os, signal, socket, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def reached(what=''):
    raise RuntimeError(f'reached {what}')
def call(*arguments):
    'A system call by its number on x86-64, without the library in between.'
    result = libc.syscall(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), 'refused')
    return result
"""

# What the placeholders in braces stand for is made by the test: files and sockets outside, ids of processes.
EXHAUST = {
    "fork bomb": "while True:\n    if os.fork() >= 0: reached()",
    "fork by system call": "if call(57) >= 0: reached()",
    "vfork by system call": "call(58)\nreached()",
    "clone by system call": "if call(56, 17, 0, 0, 0, 0) >= 0: reached()",
    "clone that shares memory": "if call(56, 0x4111, 0, 0, 0, 0) >= 0: reached()",
    "clone3 by system call": "if call(435, bytes(88), 88) >= 0: reached()",
    "thread bomb": (
        "for n in range(64):\n    threading.Thread(target=time.sleep, args=[9], daemon=True).start()\nreached()"
    ),
    "small thread bomb": (
        "threading.stack_size(32768)\nfor n in range(4000):\n"
        "    threading.Thread(target=time.sleep, args=[9], daemon=True).start()\nreached()"
    ),
    "memory at once": "x = bytearray(10**10)\nreached()",
    "memory bit by bit": "x = []\nwhile len(x) < 1000: x.append(bytearray(os.urandom(2**20)))\nreached()",
    "memory by threads": (
        "kept = []\ndef take():\n    while True: kept.append(bytearray(2**20))\n"
        "workers = [threading.Thread(target=take) for _ in range(4)]\n[w.start() for w in workers]\n"
        "[w.join() for w in workers]\nif len(kept) > 400: reached()\nraise MemoryError"
    ),
    "memory shared by mapping": "import mmap\nx = mmap.mmap(-1, 2**30)\nreached()",
    "memory in hidden files": "os.memfd_create('x')\nreached()",
    "memory in System V segments": "call(29, 0, 2**28, 0o1600)\nreached()",
    "memory in message queues": "call(68, 0, 0o1600)\nreached()",
    "memory locked": "call(149, 0, 0)\nreached()",
    "memory in deep recursion": "sys.setrecursionlimit(10**9)\ndef f(): f()\nf()\nreached()",
    "a large repetition": "x = [0] * 10**10\nreached()",
    "endless output": "while True: print('x' * 2**20)",
    "endless threads that ignore their limit": (
        "signal.signal(signal.SIGXCPU, lambda *a: None)\ndef spin():\n    while True: pass\n"
        "threading.Thread(target=spin).start()\nspin()"
    ),
    "disk by one file": "f = open('a', 'wb')\nfor n in range(64): f.write(bytes(2**20))\nreached()",
    "disk by many files": (
        "for n in range(64):\n    with open(f'{n}', 'wb') as f: f.write(os.urandom(2**17))\nreached()"
    ),
    "disk by a hole": "os.truncate(os.open('a', os.O_CREAT | os.O_WRONLY), 2**40)\nreached()",
    "disk by allocation": "os.posix_fallocate(os.open('a', os.O_CREAT | os.O_WRONLY), 0, 2**30)\nreached()",
    "descriptors": "x = [os.open(os.devnull, 0) for n in range(10_000)]\nreached()",
    "pipes": "x = [os.pipe() for n in range(10_000)]\nreached()",
    "raise the limit on processes": "import resource\nresource.setrlimit(resource.RLIMIT_NPROC, (999, 999))\nreached()",
    "raise the limit on memory": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))\nreached()",
    "raise the limit on time": "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (99, 99))\nreached()",
}
REACH = {
    "read a secret file": "reached(open({secret!r}).read())",
    "read a secret through a link": "os.symlink({secret!r}, 'link')\nreached(open('link').read())",
    "read a secret from the system call": "reached(os.read(call(2, {secret!r}.encode(), 0), 99))",
    "read a secret by a relative path": "os.chdir('/')\nreached(open({secret!r}[1:]).read())",
    "link to a secret": "os.link({secret!r}, 'mine')\nreached()",
    "empty a file": "os.truncate({secret!r}, 0)\nreached()",
    "remove a file": "os.unlink({secret!r})\nreached()",
    "rename a file": "os.rename({secret!r}, {secret!r} + 'x')\nreached()",
    "open a file's rights": "os.chmod({secret!r}, 0o777)\nreached()",
    "date a file": "os.utime({secret!r}, (0, 0))\nreached()",
    "list a home": "reached(os.listdir(os.path.dirname({secret!r})))",
    "read the accounts": "reached(open('/etc/passwd').read())",
    "write beside the library": "open(os.path.dirname(os.__file__) + '/note.py', 'w')\nreached()",
    "write to the library": "open(os.__file__, 'a')\nreached()",
    "write to the root": "open('/note', 'w')\nreached()",
    "write through a link": "os.symlink('/usr/lib', 'link')\nopen('link/note', 'w')\nreached()",
    "leave the root": "os.chroot('.')\nreached()",
    "mount": "call(165, b'none', b'/tmp', b'tmpfs', 0, 0)\nreached()",
    "unmount": "call(166, b'/tmp', 2)\nreached()",
    "change the root": "call(155, b'/', b'/')\nreached()",
    "device file": "os.mknod('disk', 0o60666, os.makedev(8, 0))\nreached()",
    "its own memory by /proc": "open('/proc/self/mem', 'r+b')\nreached()",
    "processes by /proc": "reached(os.listdir('/proc'))",
    "environment of the parent": "reached(open(f'/proc/{{os.getppid()}}/environ').read())",
    "environment of the supervisor": "reached(open('/proc/{supervisor}/environ').read())",
    "memory of the supervisor": "open('/proc/{supervisor}/mem', 'rb')\nreached()",
    "files of the supervisor": "reached(os.listdir('/proc/{supervisor}/cwd/'))",
    "secrets in its environment": "if any('SECRET' in name for name in os.environ): reached()\nraise PermissionError",
    "secrets in the C environment": (
        "here = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, 'environ')\nn = 0\n"
        "while here and here[n]:\n    if b'SECRET' in here[n]: reached()\n    n += 1\nraise PermissionError"
    ),
    "open by handle": "call(304, -100, bytes(64), 0)\nreached()",
    "trace the parent": "call(101, 16, os.getppid(), 0, 0)\nreached()",
    "trace the supervisor": "call(101, 16, {supervisor}, 0, 0)\nreached()",
    "be traced": "call(101, 0, 0, 0, 0)\nreached()",
    "read the parent's memory": "call(310, os.getppid(), 0, 0, 0, 0, 0)\nreached()",
    "take a descriptor of the parent": "call(438, call(434, os.getppid(), 0), 3, 0)\nreached()",
    "limit the parent": "import resource\nresource.prlimit(os.getppid(), resource.RLIMIT_AS, (9, 9))\nreached()",
    "kill everything": "os.kill(-1, signal.SIGKILL)\nreached()",
    "kill its group": "os.killpg(os.getppid(), signal.SIGKILL)\nreached()",
    "kill the server": "os.kill(os.getppid(), signal.SIGKILL)\nreached()",
    "stop the server": "os.kill(os.getppid(), signal.SIGSTOP)\nreached()",
    "interrupt the server": "os.kill(os.getppid(), signal.SIGINT)\nreached()",
    "kill the supervisor": "os.kill({supervisor}, signal.SIGKILL)\nreached()",
    "kill a thread of the server": "call(200, os.getppid(), 9)\nreached()",
    "kill a thread of the server by group": "call(234, os.getppid(), os.getppid(), 9)\nreached()",
    "signal with data": "call(129, os.getppid(), 9, bytes(128))\nreached()",
    "signal by a descriptor": "signal.pidfd_send_signal(os.pidfd_open(os.getppid()), 9)\nreached()",
    "signal by the owner of a pipe": "import fcntl\nfcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, {supervisor})\nreached()",
    "signal by ioctl": "import fcntl\nfcntl.ioctl(os.pipe()[0], 0x8901, struct.pack('i', {supervisor}))\nreached()",
    "choose the signal of a pipe": "import fcntl\nfcntl.fcntl(os.pipe()[0], 10, 9)\nreached()",
    "outlive the server": "if libc.prctl(1, 0, 0, 0, 0) == 0: reached()\nraise PermissionError",
    "adopt orphans": "if libc.prctl(36, 1, 0, 0, 0) == 0: reached()\nraise PermissionError",
    "lose the filter": "if libc.prctl(22, 0, 0, 0, 0) == 0: reached()\nraise PermissionError",
    "a session of its own": "os.setsid()\nreached()",
    "become root": "os.setuid(0)\nreached()",
    "become another user": "os.setresuid(1000, 1000, 1000)\nreached()",
    "new user namespace": "call(272, 0x10000000)\nreached()",
    "new mount namespace": "call(272, 0x20000)\nreached()",
    "clone into a namespace": "if call(56, 0x10000011, 0, 0, 0, 0) >= 0: reached()",
    "enter a namespace": "call(308, 3, 0)\nreached()",
    "a shell": "if os.system('true') == 0: reached()\nraise PermissionError",
    "a program": "os.execv(sys.executable, [sys.executable, '-c', '1'])\nreached()",
    "a child program": "import subprocess\nsubprocess.run([sys.executable, '-c', '1'])\nreached()",
    "a pool of processes": (
        "import multiprocessing as m\nm.get_context('fork').Process(target=int).start()\nreached()"
    ),
    "connect over TCP": "socket.create_connection(('127.0.0.1', {port}), 2)\nreached()",
    "connect over TCP 6": "socket.socket(socket.AF_INET6).connect(('::1', {port}))\nreached()",
    "listen over TCP": "socket.create_server(('127.0.0.1', 0))\nreached()",
    "send over UDP": "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))\nreached()",
    "raw packets": "socket.socket(type=socket.SOCK_RAW)\nreached()",
    "link packets": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\nreached()",
    "connect to a local socket": "socket.socket(socket.AF_UNIX).connect({local!r})\nreached()",
    "connect to an abstract socket": "socket.socket(socket.AF_UNIX).connect('\\0twice-test')\nreached()",
    "send from a pair": ("a, b = socket.socketpair(type=socket.SOCK_DGRAM)\na.sendto(b'x', {local!r})\nreached()"),
    "talk to the kernel": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)\nreached()",
    "kernel cryptography": "socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)\nreached()",
    "virtual machine sockets": "socket.socket(socket.AF_VSOCK)\nreached()",
    "names over the network": "reached(socket.getaddrinfo('example.com', {port}))",
    "io_uring": "call(425, 8, bytes(120))\nreached()",
    "bpf": "call(321, 0, bytes(120), 120)\nreached()",
    "performance counters": "call(298, bytes(120), 0, -1, -1, 0)\nreached()",
    "keys of the kernel": "call(248, b'user', b'x', b'y', 1, -3)\nreached()",
    "page faults": "call(323, 0)\nreached()",
    "another personality": "call(135, 0x0040000)\nreached()",
    "kernel modules": "call(175, bytes(8), 8, b'')\nreached()",
    "32-bit calls": "call(0x40000000 + 41, 2, 1, 0)\nreached()",
    "the host's name": "call(170, b'x', 1)\nreached()",
    "the clock": "time.clock_settime(time.CLOCK_REALTIME, 0)\nreached()",
}
# Each would pass though `f` is wrong. Tests: `assert f(1) == 2`, or those given. Whether it does in one process.
WRONG = "def f(x): return 0\n"
FORGE = {
    "exit code": (WRONG + "sys.exit(0)", False),
    "exit without cleaning up": (WRONG + "os._exit(0)", False),
    "exit in the test": ("def f(x): os._exit(0)", False),
    "exit at the end": (WRONG + "import atexit\natexit.register(os._exit, 0)", False),
    "exit by a finaliser": (
        "class C:\n    def __del__(self): os._exit(0)\nc = C()\ndef f(x):\n    global c\n    del c",
        False,
    ),
    "exit by a signal": (
        WRONG + "signal.signal(signal.SIGALRM, lambda *a: os._exit(0))\nsignal.setitimer(0, .01)\ntime.sleep(1)",
        False,
    ),
    "exit from a thread": (WRONG + "threading.Thread(target=os._exit, args=[0]).start()\ntime.sleep(1)", False),
    "a thread that goes on": (
        WRONG + "def write():\n    while True:\n        for n in range(3, 9):\n"
        "            try: os.write(n, b'N\\0\\0\\0\\x20' + bytes(32))\n            except OSError: pass\n"
        "threading.Thread(target=write, daemon=True).start()\ntime.sleep(.1)",
        False,
    ),
    "a guess at the nonce": (
        WRONG + "for n in range(3, 64):\n    try: os.write(n, b'N\\0\\0\\0\\x20' + bytes(32))\n"
        "    except OSError: pass\nos._exit(0)",
        False,
    ),
    "a guess at the nonce after the frames that precede it": (
        WRONG + "def frame(k, d=b''): return k + struct.pack('>I', len(d)) + d\n"
        "for n in range(3, 64):\n    try: os.write(n, frame(b'D') + frame(b'T') + frame(b'N', bytes(32)))\n"
        "    except OSError: continue\n    while os.read(n, 2**20): pass\nos._exit(0)",
        False,
    ),
    "success on standard output": (WRONG + "print('passed\\nOK')\nos._exit(0)", False),
    "an assertion that is no failure": (
        "import builtins\nclass AssertionError(SystemExit): pass\nbuiltins.AssertionError = AssertionError\n" + WRONG,
        False,
    ),
    "an exception hook": (WRONG + "sys.excepthook = lambda *a: os._exit(0)", False),
    "equal to everything": (
        "class Equal:\n    def __eq__(self, other): return True\ndef f(x): return Equal()",
        True,
    ),
    "an integer equal to everything": (
        "class Equal(int):\n    def __eq__(self, other): return True\n    __hash__ = None\ndef f(x): return Equal()",
        True,
    ),
    "a patched module": (
        "import math\nmath.isclose = lambda *a, **k: True\n" + WRONG,
        True,
        "import math\nassert math.isclose(f(1), 2)",
    ),
    "a patched builtin": (
        "import builtins\nbuiltins.abs = lambda x: 0\n" + WRONG,
        True,
        "assert abs(f(1) - 2) < 1e-6",
    ),
    "a hidden builtin": ("def abs(x): return 0\n" + WRONG, True, "assert abs(f(1) - 2) < 1e-6"),
    "a patched compiler": (
        "import builtins\nkeep = compile\nbuiltins.compile = lambda text, *a: keep('', *a)\n" + WRONG,
        True,
    ),
    "a patched import": (
        "import types\nfake = types.ModuleType('math')\nfake.isclose = lambda *a: True\nsys.modules['math'] = fake\n"
        + WRONG,
        True,
        "import math\nassert math.isclose(f(1), 2)",
    ),
    "frames": (
        "frame = sys._getframe()\nwhile 'tests' not in frame.f_code.co_varnames: frame = frame.f_back\n"
        "read = frame.f_locals['read']\nmodule = frame.f_globals\n"
        "def receive(channel):\n    data = read(channel)\n    return b'' if b'assert' in data else data\n"
        "send = module['send']\nchannel = frame.f_locals['channel']\nsend(channel, b'D')\nread(channel)\n"
        "send(channel, b'T')\nsend(channel, b'N', read(channel))\nos._exit(0)",
        True,
    ),
    "a walk over the garbage": (
        "import gc\ntodo, seen = [sys.modules], set()\nwhile todo:\n    o = todo.pop()\n"
        "    if id(o) in seen: continue\n    seen.add(id(o))\n"
        "    if isinstance(o, dict) and 'receive' in o and 'MAX_FRAME' in o: break\n"
        "    todo.extend(gc.get_referents(o))\n"
        "for n in range(3, 64):\n    try: o['send'](n, b'D')\n    except OSError: continue\n    o['receive'](n)\n"
        "    o['send'](n, b'T')\n    o['send'](n, b'N', o['receive'](n))\n    os._exit(0)",
        True,
    ),
    "the dialogue itself": (
        "def frame(k, d=b''): return k + struct.pack('>I', len(d)) + d\n"
        "for n in range(3, 64):\n    try: os.write(n, frame(b'D'))\n    except OSError: continue\n"
        "    os.read(n, 2**20)\n    os.write(n, frame(b'T'))\n    nonce = os.read(n, 2**20)[5:]\n"
        "    os.write(n, frame(b'N', nonce))\n    os._exit(0)",
        True,
    ),
    "a tracer that steps over": (
        "def trace(frame, event, arg):\n    if frame.f_code.co_filename == '<tests>':\n"
        "        frame.f_globals['f'] = lambda x: x + 1\n    return None\nsys.settrace(trace)\n" + WRONG,
        True,
    ),
    "functions that follow the test": (
        "def f(x):\n    return [c for c in sys._getframe(1).f_code.co_consts if isinstance(c, int)][-1]",
        True,
    ),
}


class Outside:
    """What lies outside the sandbox and must stay as it is: a secret file, two listening sockets, a process."""

    def __init__(self, folder: Path) -> None:
        self.secret, self.local = folder / "secret", folder / "local"
        self.secret.write_text("the secret", "utf-8")
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.local))
        self.listener.listen()
        self.local.chmod(0o777)
        self.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        self.names = {
            "secret": str(self.secret),
            "local": str(self.local),
            "port": self.tcp.getsockname()[1],
            "supervisor": os.getpid(),
        }
        self.before = self._state()

    def _state(self) -> object:
        status = self.secret.stat()
        return (
            status.st_mode,
            status.st_mtime_ns,
            status.st_nlink,
            self.secret.read_text("utf-8"),
            os.listdir("/"),
        )

    def untouched(self) -> bool:
        """Whether nothing happened to any of it."""
        for listener in (self.tcp, self.listener):
            listener.settimeout(0)
            try:
                listener.accept()
                return False
            except BlockingIOError:
                pass
        return self.process.poll() is None and self._state() == self.before

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.tcp.close()
        self.listener.close()


@pytest.fixture(scope="module")
def outside() -> Iterator[Outside]:
    # Every user may read it: what keeps a program from it is the sandbox alone.
    with tempfile.TemporaryDirectory(prefix="twice-outside-") as folder:
        Path(folder).chmod(0o755)
        world = Outside(Path(folder))
        yield world
        world.close()


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWICE_SECRET", "the secret")


def needs_this_machine(code: str) -> None:
    if "call(" in code and platform.machine() != "x86_64":
        pytest.skip("its system calls are numbered as on x86-64")


@pytest.mark.parametrize("name", [*EXHAUST, *REACH])
def test_no_program_reaches_its_goal(name: str, hostile: Run, outside: Outside) -> None:
    code = {**EXHAUST, **REACH}[name]
    needs_this_machine(code)
    outcome = hostile(PRELUDE + (code.format(**outside.names) if name in REACH else code))
    assert "reached" not in outcome.message
    assert outcome.verdict in ("blocked", "crashed", "memory", "timeout"), outcome
    assert outside.untouched()


@pytest.mark.parametrize("name", FORGE)
def test_a_forger_is_seen_by_the_split_checker(name: str, hostile: Run, split: SplitSandbox, guard: str) -> None:
    code, passes, *tests = FORGE[name]
    test = str(*tests or ["assert f(1) == 2"])
    outcome = hostile(PRELUDE + str(code), test)
    # What the published harnesses cannot see is no pass here only where the nonce prevents it.
    assert (outcome.verdict == "passed") == passes, outcome
    assert split.run(Program(guard + PRELUDE + str(code), test)).verdict != "passed"
    assert split.run(Program("def f(x): return x + 1", "assert f(1) == 2")) == Outcome("passed")


def test_a_program_outside_would_reach_its_goal(outside: Outside) -> None:
    """The control: where nothing forbids it, `reached` is called. This program only reads."""
    code = PRELUDE + REACH["read a secret file"].format(**outside.names)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "reached the secret" in done.stderr


@pytest.fixture(scope="module")
def split(short_limits: Limits) -> Iterator[SplitSandbox]:
    with SplitSandbox(short_limits, "T0") as sandbox:
        yield sandbox
