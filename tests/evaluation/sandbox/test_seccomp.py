"""The seccomp filter, run in a small model of the kernel's machine."""

import errno
import re
import struct
from pathlib import Path

import pytest

from evaluation.sandbox.seccomp import _ALLOWED, _CONDITIONAL, _ON_FILES, OWN, allowed, numbers, seccomp_filter

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
DONE = 0x50000
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# read, clone, clone3, prlimit64, kill, tgkill, prctl, ioctl, fcntl, socketpair, mkdirat; then forbidden ones: fork (or
# vfork, or nothing), execve, ptrace, socket, mount, memfd_create, setsid, tkill
CALLS = {
    "x86_64": (0, 56, 435, 302, 62, 234, 157, 16, 72, 53, 258, 57, 59, 101, 41, 165, 319, 112, 200),
    "aarch64": (63, 220, 435, 261, 129, 131, 167, 29, 25, 199, 34, 999, 221, 117, 198, 40, 279, 157, 130),
}


def decide(
    machine: str, number: int, *arguments: int, architecture: int | None = None, files: bool = True, own: int = OWN
) -> int:
    """What the filter answers to one call, where the process that installed it is `own`."""
    program = seccomp_filter(machine, files)
    assert program is not None
    program = program.replace(struct.pack("<I", OWN), struct.pack("<I", own))
    padded = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("<IIQ6Q", number, architecture or ARCHITECTURES[machine], 0, *padded)
    instructions = list(struct.iter_unpack("<HBBI", program))
    at, accumulator = 0, 0
    while True:
        code, yes, no, value = instructions[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif code == 0x15:
            at += yes if accumulator == value else no
        elif code == 0x45:
            at += yes if accumulator & value else no
        elif code == 0x54:
            accumulator &= value
        else:
            assert code == 0x06
            return value


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_calls_are_decided_as_listed(machine: str) -> None:
    read, clone, clone3, prlimit, kill, tgkill, prctl, ioctl, fcntl, pair, mkdirat, *forbidden = CALLS[machine]
    column = list(ARCHITECTURES).index(machine)
    assert decide(machine, read) == ALLOW
    flock = {"x86_64": 73, "aarch64": 32}[machine]
    decided = {clone, prlimit, kill, tgkill, prctl, ioctl, fcntl, flock, pair}
    for number in set(range(600)) - decided:
        expected = ALLOW if number in allowed(column) else ENOSYS if number == clone3 else EPERM
        assert decide(machine, number) == expected
    assert all(decide(machine, number) == EPERM for number in forbidden)
    assert decide(machine, read, architecture=0x40000003) == KILL
    # Threads, but neither processes nor namespaces.
    assert decide(machine, clone, 0x3D0F00) == ALLOW
    for flags in (0x1200011, 17, 0x4111, 0x10000000, 0x3D0F00 | 0x10000000, 0x20011, 0):
        assert decide(machine, clone, flags) == EPERM
    for process in (0, 1, 41, 43, 2**32 - 1, 2**32 - 42, OWN):
        for call in (kill, tgkill):
            assert decide(machine, call, process, own=42) == EPERM
    assert decide(machine, kill, 42, 9, own=42) == decide(machine, tgkill, 42, 43, 9, own=42) == ALLOW
    assert decide(machine, prlimit, 0) == ALLOW
    assert decide(machine, prlimit, 1) == EPERM
    assert decide(machine, prctl, 15) == ALLOW
    assert {decide(machine, prctl, option) for option in (1, 4, 8, 22, 36, 38)} == {EPERM}
    assert decide(machine, ioctl, 9, 0x5401) == ALLOW
    assert {decide(machine, ioctl, 9, wish) for wish in (0x5412, 0x5452, 0x8901, 0x8902)} == {EPERM}
    assert {decide(machine, fcntl, 9, wish) for wish in (0, 1, 2, 3, 4, 1030)} == {ALLOW}
    assert {decide(machine, fcntl, 9, wish) for wish in (8, 10, 15, 1024, 1026)} == {EPERM}
    # Locks are not made, and say that they are.
    assert {decide(machine, fcntl, 9, wish) for wish in (6, 7, 37, 38)} == {decide(machine, flock, 0, 2)} == {DONE}
    assert decide(machine, pair, 1, 1 | 0o2000000) == ALLOW
    assert {decide(machine, pair, 1, kind) for kind in (2, 3, 5, 2 | 0o4000)} == {EPERM}
    assert decide(machine, mkdirat) == ALLOW
    assert decide(machine, mkdirat, files=False) == EPERM


HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_numbers_are_those_of_the_kernel(machine: str) -> None:
    if not HEADERS[machine].exists():
        pytest.skip("the kernel's headers are not installed")
    text = HEADERS[machine].read_text("utf-8")
    known = {m[1]: int(m[2]) for m in re.finditer(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    known |= {f"new{name}": number for name, number in known.items() if name == "fstatat"}
    for table in (_ALLOWED, _ON_FILES, _CONDITIONAL):
        for name, number in numbers(table, list(ARCHITECTURES).index(machine)).items():
            assert known[name] == number


def test_calls_of_the_32_bit_table_are_refused() -> None:
    """The x32 calls of x86-64 carry a bit of their own."""
    assert decide("x86_64", 0x40000000) == EPERM


def test_an_unknown_machine_has_no_filter() -> None:
    assert seccomp_filter("riscv64") is None
