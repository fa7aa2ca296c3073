"""Frames read back whole, however a channel cuts them; what is too long or cut short is refused."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.sandbox.frames import FrameTooLongError, frame, read_frame, write_all


def channel(data: bytes, piece: int):
    stream = io.BytesIO(data)
    return lambda size: stream.read(min(size, piece))


@given(st.lists(st.tuples(st.sampled_from([b"S", b"?", b"N"]), st.binary(max_size=300)), max_size=4), st.integers(1, 7))
def test_frames_read_back_however_they_are_cut(frames: list[tuple[bytes, bytes]], piece: int) -> None:
    written = bytearray()

    def write(data: bytes) -> int:
        written.extend(data[:piece])
        return min(piece, len(data))

    for kind, data in frames:
        write_all(write, frame(data, kind))
    read = channel(bytes(written), piece)
    assert [read_frame(read, 300) for _ in frames] == frames


def test_the_bytes_of_a_frame() -> None:
    assert frame(b"ab", b"N") == b"N\0\0\0\2ab"


@given(st.integers(0, 6))
def test_what_is_cut_short_ends(length: int) -> None:
    with pytest.raises(EOFError):
        read_frame(channel(frame(b"ab")[:length], 3), 10)


def test_what_is_too_long_is_not_read() -> None:
    announced = frame(b"")[:1] + (11).to_bytes(4, "big")
    with pytest.raises(FrameTooLongError, match="a frame of 11 bytes, above 10"):
        read_frame(channel(announced, 5), 10)
    assert read_frame(channel(frame(b"x" * 10), 3), 10) == (b"S", b"x" * 10)
