"""The dialogue of the supervisor with the process of one program: candidate, tests, nonce, each in its turn."""

import json
import re
import secrets
import socket
import struct
from dataclasses import dataclass
from typing import Literal

from evaluation.protocols.program import Program

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
    return _ended(kind, data)


def define(channel: socket.socket, candidate: str) -> Outcome | None:
    """Have a process define a candidate and no more; None where that went well or the process ended meanwhile."""
    try:
        _send(channel, candidate.encode("utf-8", "surrogatepass"))
        kind, data = _receive(channel)
    except (EOFError, ConnectionError):
        return None
    return _ended(kind, data) if kind != b"D" or data else None


def _ended(kind: bytes, data: bytes) -> Outcome:
    if kind == b"H":
        raise Broken(data.decode(errors="replace"))
    return _reported(data) if kind == b"F" else Outcome("crashed", _NOISE)


def _reported(data: bytes) -> Outcome:
    """The failure that a process reports. It is the candidate's process: nothing in it is taken on trust."""
    try:
        verdict, message = json.loads(data)
    except (ValueError, TypeError):
        return Outcome("crashed", _NOISE)
    if verdict not in ("wrong", "crashed", "memory", "blocked") or not isinstance(message, str):
        return Outcome("crashed", _NOISE)
    return Outcome(verdict, normalised(message))


def normalised(message: str) -> str:
    """A message without what differs from run to run, in printable characters on one line."""
    message = re.sub(r"0x[0-9a-fA-F]{4,}", "0x...", message)
    return "".join(c if c.isprintable() else " " for c in message).strip()[:_MAX_REPORT]


def _send(channel: socket.socket, data: bytes) -> None:
    channel.sendall(b"S" + struct.pack(">I", len(data)) + data)


def _receive(channel: socket.socket) -> tuple[bytes, bytes]:
    header = _exactly(channel, 5)
    (size,) = struct.unpack(">I", header[1:])
    if size > _MAX_REPORT:
        return b"?", b""
    return header[:1], _exactly(channel, size)


def _exactly(channel: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = channel.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data
