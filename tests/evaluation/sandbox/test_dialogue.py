"""Whatever a process sends, the supervisor makes an outcome of it: nothing that a program says may raise."""

import contextlib
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from typing import get_args

import pytest

from evaluation.protocols.program import Program
from evaluation.sandbox.dialogue import (
    Broken,
    Ending,
    Outcome,
    Verdict,
    converse,
    define,
    ending,
    reported,
    signal_name,
)

FUZZ = 100_000
SPECIAL = (
    b"[" * 4096,
    b'{"a":' * 800,
    b"[" * 2000 + b"]" * 2000,
    b"1" * 4096,
    b"1e400",
    b"NaN",
    b'["wrong", "\\ud800"]',
    b'["wrong", "\xff"]',
    b'["passed", ""]',
    b'["timeout", ""]',
    b'[["wrong"], "m"]',
    b'[{}, "m"]',
    b'["wrong", 1]',
    b'["wrong"]',
    b'["wrong", "m", "n"]',
    b'{"wrong": "m", "n": "o"}',
    b"null",
    b"",
    b'{"status": 1e9, "seconds": 1.0, "late": false, "dirty": false}',
    b'{"status": -1, "seconds": 1.0, "late": false, "dirty": false}',
    b'{"status": 4991, "seconds": 1.0, "late": false, "dirty": false}',
    b'{"status": 9' + b"9" * 900 + b', "seconds": 1.0, "late": false, "dirty": false}',
    b'{"status": "0", "seconds": 1.0, "late": false, "dirty": false}',
)


def strings(count: int, seed: int) -> Iterator[bytes]:
    """Byte strings: random ones, and true reports and odd JSON with bytes changed, cut and doubled."""
    numbers = random.Random(seed)
    reports = (
        b'["wrong", "AssertionError"]',
        b'["memory", "MemoryError: 0x7f3a2b1c9d80"]',
        b'{"status": 256, "seconds": 0.25, "late": false, "dirty": true}',
    ) * 12 + SPECIAL
    yield from SPECIAL
    for number in range(count - len(SPECIAL)):
        data = bytearray(numbers.choice(reports) if number % 3 else numbers.randbytes(numbers.randrange(64)))
        for _ in range(numbers.randrange(4)):
            at = numbers.randrange(len(data) + 1)
            match numbers.randrange(4):
                case 0:
                    data[at:at] = numbers.randbytes(numbers.randrange(1, 9))
                case 1:
                    del data[at : at + numbers.randrange(1, 9)]
                case 2:
                    data[at:at] = data[: numbers.randrange(32)]
                case _:
                    data[at:at] = numbers.choice([b"[", b"]", b"{", b"}", b'"', b",", b"\\ud8", b"\xed\xa0\x80", b"0"])
        yield bytes(data)


def test_every_report_of_a_program_is_an_outcome_and_none_a_pass() -> None:
    verdicts: Counter[str] = Counter()
    for number, data in enumerate(strings(FUZZ, seed=1)):
        kind = b"FFFNTD?\0"[number % 8 :][:1]
        outcome = reported(kind, data)
        assert outcome.message.isprintable()
        verdicts[outcome.verdict] += 1
    assert sum(verdicts.values()) == FUZZ
    assert verdicts["passed"] == 0
    assert {"wrong", "crashed", "memory"} <= set(verdicts) <= set(get_args(Verdict)), "true reports come through"


def test_every_report_of_the_server_is_an_ending_or_none() -> None:
    endings = broken = 0
    for data in strings(FUZZ, seed=2):
        try:
            assert isinstance(ending(data), Ending)
            endings += 1
        except Broken:
            broken += 1
    assert endings > 100, "true reports come through"
    assert broken > 1000


def test_a_process_that_says_the_sandbox_does_not_hold_is_believed() -> None:
    with pytest.raises(Broken, match="no limits"):
        reported(b"H", b"no limits \xff")


def test_the_whole_dialogue_with_a_process_that_says_anything() -> None:
    """Frames of any kind and length, cut anywhere, while the supervisor is at any step."""
    numbers = random.Random(3)
    seen: Counter[object] = Counter()
    for data in strings(1500, seed=4):
        parts = (b"", data, b"")[: numbers.randrange(1, 4)]
        stream = b"".join(
            numbers.choice([b"D", b"T", b"N", b"F", b"H", b"?"])
            + struct.pack(">I", numbers.choice([len(part), len(part), 0, 5, 4096, 4097, 2**32 - 1]))
            + part
            for part in parts
        )
        stream = stream[: numbers.randrange(len(stream) + 1)] if numbers.randrange(2) else stream
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.settimeout(60)
            writer = threading.Thread(target=_write, args=(theirs, stream))
            writer.start()
            with contextlib.suppress(Broken):
                whole = numbers.randrange(2)
                outcome = converse(ours, Program("x = 1", "assert x")) if whole else define(ours, "x = 1")
                seen[outcome and outcome.verdict] += 1
                assert outcome is None or (isinstance(outcome, Outcome) and outcome.verdict != "passed")
            writer.join()
    assert seen[None] > 10
    assert seen["crashed"] > 10


def _write(channel: socket.socket, stream: bytes) -> None:
    with contextlib.suppress(OSError):
        channel.sendall(stream)
        channel.shutdown(socket.SHUT_RDWR)


def frame(kind: bytes, data: bytes = b"") -> bytes:
    return kind + struct.pack(">I", len(data)) + data


@pytest.mark.parametrize(
    "nonce", [bytes(32), b"\xff" * 32, b"", bytes(31), bytes(33)], ids=["zeros", "ones", "none", "short", "long"]
)
def test_a_guess_at_the_nonce_after_all_that_precedes_it_is_no_pass(nonce: bytes) -> None:
    """All frames of a program that passes, sent at once: only the nonce, which is random, is missing."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(frame(b"D") + frame(b"T") + frame(b"N", nonce))
        assert converse(ours, Program("def f(): pass", "assert False")) == Outcome(
            "crashed", "wrote to the channel of its tests"
        )


def test_the_nonce_returned_is_a_pass() -> None:
    """The control of the one above: the same frames with what the supervisor sent."""
    ours, theirs = socket.socketpair()

    def play() -> None:
        with theirs:
            for kind in (b"D", b"T", b"N"):
                header = theirs.recv(5, socket.MSG_WAITALL)
                data = theirs.recv(struct.unpack(">I", header[1:])[0], socket.MSG_WAITALL)
                theirs.sendall(frame(kind, data if kind == b"N" else b""))

    player = threading.Thread(target=play)
    player.start()
    with ours:
        assert converse(ours, Program("def f(): pass", "assert f() is None")) == Outcome("passed")
    player.join()


def test_every_signal_has_a_name() -> None:
    assert [signal_name(number) for number in (9, 33, 40)] == ["SIGKILL", "signal 33", "signal 40"]
    assert all(signal_name(number) for number in range(130))
