"""What a program gives up before it is defined: limits, Landlock, system calls. Standard library only.

Runs inside the sandbox. The server prepares what costs time, the program's own process applies it to itself, and
nothing can be taken back. Landlock's numbers are those of the kernel's linux/landlock.h.
"""

import ctypes
import os
import resource
import signal
import struct
import sys
from pathlib import Path
from typing import TypedDict

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""System calls of Landlock, the same on every architecture."""
_READ_FILE, _WRITE_FILE, _READ_FOLDER, _TRUNCATE = 1 << 2, 1 << 1, 1 << 3, 1 << 14
_FILE_RIGHTS = _READ_FILE | _WRITE_FILE | _TRUNCATE
_KNOWN_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
"""All rights on files by version of Landlock; from version 5 on there is one more, on devices."""
NEEDED_LANDLOCK = 3
"""Version (Linux 6.2) from which Landlock also keeps a program from emptying files that it may only read."""
_PR_SET_PDEATHSIG, _PR_SET_KEEPCAPS, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 8, 22, 38
_SECCOMP_MODE_FILTER = 2
_CAP_DAC_READ_SEARCH = 2
_USERS_PEAK = 256
"""By how many the threads of the user's other processes may grow before a program may start none of its own."""

_libc = ctypes.CDLL(None, use_errno=True)


class Plan(TypedDict):
    """What the supervisor asks for."""

    tier: str
    limits: dict[str, int]
    filter: str
    """Seccomp filter in hexadecimal; empty where this machine's system calls are not known."""
    own: int
    """Word of the filter that becomes the program's process id."""
    readable: list[str]
    writable: list[str]
    user: int | None
    """Id that the server becomes before it serves."""


class Confinement:
    """Prepared by the server, applied by the process of each program.

    Exits with a line on standard error where the tier cannot have what it rests on.
    """

    def __init__(self, plan: Plan) -> None:
        self._tier, self._limits = plan["tier"], plan["limits"]
        self._filter = bytes.fromhex(plan["filter"]) if self._tier != "T2" else b""
        self._own = struct.pack("<I", plan["own"])
        self._ruleset = -1
        version = _libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
        if self._tier != "T2" and not self._filter:
            sys.exit(f"no table of system calls for {os.uname().machine}")
        if self._tier == "T1" and version < NEEDED_LANDLOCK:
            have = f"version {version}" if version > 0 else "none"
            sys.exit(f"Landlock version {NEEDED_LANDLOCK} is needed, the kernel has {have}")
        if self._tier != "T2" and version > 0:
            self._ruleset = _ruleset(version, plan["readable"], plan["writable"])
        self._threads = self._limits["threads"]
        if self._tier == "T1" and plan["user"] is None:
            # The kernel counts the threads of all processes of a user, which is not the program's own here.
            self._threads += _threads_of_user() + _USERS_PEAK
        self._server = os.getpid()
        self._rehearse()

    def _rehearse(self) -> None:
        # What the kernel refuses has to be known before a program is blamed for it.
        process = os.fork()
        if process == 0:
            try:
                self.apply()
                os._exit(0)
            except OSError as error:
                os.write(2, f"the kernel refuses the limits of a program: {error.strerror}\n".encode())
            finally:
                os._exit(1)
        if os.waitpid(process, 0)[1] != 0:
            sys.exit(1)

    def apply(self) -> None:
        """Bind this process for good. Raises OSError where the kernel refuses."""
        _control(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self._server:
            os._exit(1)
        for what, value in self._resources().items():
            # SIGXCPU at the limit says why the program ended; SIGKILL a second later ends one that ignores it.
            resource.setrlimit(what, (value, value + (what == resource.RLIMIT_CPU)))
        if self._tier == "T2":
            return
        _control(_PR_SET_NO_NEW_PRIVS, 1)
        if self._ruleset >= 0:
            _check(_libc.syscall(_RESTRICT_SELF, self._ruleset, 0))
            os.close(self._ruleset)
        if self._filter:
            filter_ = self._filter.replace(self._own, struct.pack("<I", os.getpid()))
            buffer = ctypes.create_string_buffer(filter_, len(filter_))
            # struct sock_fprog: number of instructions of eight bytes, and where they are.
            program = struct.pack("HxxxxxxP", len(filter_) // 8, ctypes.addressof(buffer))
            _control(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program)

    def _resources(self) -> dict[int, int]:
        limits = self._limits
        values = {
            resource.RLIMIT_CPU: limits["cpu_seconds"],
            resource.RLIMIT_AS: limits["memory"],
            resource.RLIMIT_FSIZE: limits["file_bytes"],
            resource.RLIMIT_NOFILE: 128,
            resource.RLIMIT_STACK: 2**23,
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_MSGQUEUE: 0,
            resource.RLIMIT_MEMLOCK: 0,
        }
        if self._tier != "T2":
            # The server is one of those that are counted.
            values[resource.RLIMIT_NPROC] = self._threads + 1
        return values


def become(user: int, readable: list[str]) -> None:
    """Give up the rights of root, for good. Exits with a line where that is not possible.

    Where the user may not reach what programs may read (below /root, say) one right stays: to read what others may not.
    Landlock still says which files those are.
    """
    try:
        _control(_PR_SET_KEEPCAPS, 1)
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        reached = all(os.access(path, os.R_OK) for path in [os.__file__, *readable])
        rights = 0 if reached else 1 << _CAP_DAC_READ_SEARCH
        # struct __user_cap_header_struct and twice __user_cap_data_struct: effective, permitted, inheritable.
        _check(_libc.capset(struct.pack("<Ii", 0x20080522, 0), struct.pack("<6I", rights, rights, 0, 0, 0, 0)))
    except OSError as error:
        sys.exit(f"root cannot become user {user}: {error.strerror}")


def _ruleset(version: int, readable: list[str], writable: list[str]) -> int:
    """Descriptor of a Landlock ruleset: reading below some paths, everything below others, nothing else."""
    rights = _KNOWN_RIGHTS.get(version, (1 << 16) - 1)
    # Version 4 added TCP, version 6 signals and abstract sockets that leave the domain: all handled, none allowed.
    attributes = struct.pack("<QQQ", rights, 3, 3)[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = _check(_libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0))
    for paths, granted in ((readable, _READ_FILE | _READ_FOLDER), (writable, rights)):
        for path in paths:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            here = granted if Path(path).is_dir() else granted & _FILE_RIGHTS & rights
            _check(_libc.syscall(_ADD_RULE, ruleset, 1, struct.pack("<Qi", here, descriptor), 0))
            os.close(descriptor)
    return ruleset


def _threads_of_user() -> int:
    """Threads of all processes of this user that can be seen."""
    count, user = 0, os.getuid()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.stat().st_uid == user:
                count += len(os.listdir(folder / "task"))
        except OSError:  # it ended in between
            continue
    return count


def _control(option: int, value: int, data: bytes | None = None) -> None:
    none = ctypes.c_ulong(0)
    _check(_libc.prctl(option, ctypes.c_ulong(value), none if data is None else data, none, none))


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
