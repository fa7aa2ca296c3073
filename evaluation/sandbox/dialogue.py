"""The dialogue of the supervisor with the process of one program: candidate, tests, nonce, each in its turn."""

import contextlib
import json
import os
import re
import secrets
import signal
import socket
from dataclasses import dataclass
from typing import Literal

from evaluation.protocols.program import Program
from evaluation.sandbox.frames import FrameTooLongError, frame, read_frame

Verdict = Literal["passed", "wrong", "crashed", "timeout", "memory", "blocked", "extraction"]
"""How a program ended. All but `passed` are what the program's own process reported, or what ended that process;
`extraction`: the completion held no program."""

_MAX_REPORT = 4096
_NOISE = "wrote to the channel of its tests"


@dataclass(frozen=True)
class Outcome:
    """How a program ended, in words that are the same on every run."""

    verdict: Verdict
    message: str = ""


class Broken(Exception):
    """The sandbox itself ended or answers no more: it is discarded, and the program gets another."""


@dataclass(frozen=True)
class Ending:
    """How the server says that a process ended."""

    code: int
    """Exit status; of a process that a signal ended, the signal's number below 0."""
    seconds: float
    """Processor time."""
    late: bool
    """The wall-clock limit came first."""
    dirty: bool
    """It touched the folder that programs share."""


def converse(channel: socket.socket, program: Program) -> Outcome | None:
    """The dialogue with one program's process; None where that process ended, or broke the rules, without a report."""
    try:
        _send(channel, program.candidate.encode("utf-8", "surrogatepass"))
        kind, data = _receive(channel)
        if kind == b"D" and not data:
            _send(channel, program.tests.encode("utf-8", "surrogatepass"))
            kind, data = _receive(channel)
            if kind == b"T" and not data:
                nonce = secrets.token_bytes(32)
                _send(channel, nonce)
                kind, data = _receive(channel)
                if kind == b"N" and secrets.compare_digest(data, nonce):
                    return Outcome("passed")
    except (EOFError, ConnectionError):
        return None
    return reported(kind, data)


def define(channel: socket.socket, candidate: str) -> Outcome | None:
    """Have a process define a candidate and no more; None where that went well or the process ended meanwhile."""
    try:
        _send(channel, candidate.encode("utf-8", "surrogatepass"))
        kind, data = _receive(channel)
    except (EOFError, ConnectionError):
        return None
    return reported(kind, data) if kind != b"D" or data else None


def reported(kind: bytes, data: bytes) -> Outcome:
    """What a process says of its end, whatever it says: it is the candidate's process, and nothing is taken on trust.

    Total, but for Broken, raised where the process says that the sandbox did not hold.
    """
    if kind == b"H":
        raise Broken(data.decode(errors="replace"))
    match _parsed(data) if kind == b"F" else None:
        case [("wrong" | "crashed" | "memory" | "blocked" | "timeout") as verdict, str(message)]:
            return Outcome(verdict, normalised(message))
    return Outcome("crashed", _NOISE)


def ending(data: bytes) -> Ending:
    """What the server says of a process. Raises Broken where that is no such report."""
    match _parsed(data):
        case {"status": int(status), "seconds": float(seconds), "late": bool(late), "dirty": bool(dirty)}:
            with contextlib.suppress(ValueError, OverflowError):
                return Ending(os.waitstatus_to_exitcode(status), seconds, late, dirty)
    raise Broken("the server of the sandbox sends no report")


def signal_name(number: int) -> str:
    """Name of a signal; real-time signals have none of their own in Python."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _parsed(data: bytes) -> object:
    """What bytes say as JSON; none where they are none, or are nested too deeply to be read."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError, MemoryError):
        return None


def normalised(message: str) -> str:
    """A message without what differs from run to run, in printable characters on one line."""
    message = re.sub(r"0x[0-9a-fA-F]{4,}", "0x...", message)
    return "".join(c if c.isprintable() else " " for c in message).strip()[:_MAX_REPORT]


def _send(channel: socket.socket, data: bytes) -> None:
    channel.sendall(frame(data))


def _receive(channel: socket.socket) -> tuple[bytes, bytes]:
    try:
        return read_frame(channel.recv, _MAX_REPORT)
    except FrameTooLongError:
        return b"?", b""
