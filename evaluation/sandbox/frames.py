"""Frames on a channel between processes: a kind (one byte), the length of the data (four, big-endian), the data.

Standard library only: one end of each channel is inside the sandbox.
"""

import struct
from collections.abc import Callable

_HEADER = struct.Struct(">cI")


class FrameTooLongError(EOFError):
    """The other end announces more than this one takes; nothing of it was read."""


def frame(data: bytes, kind: bytes = b"S") -> bytes:
    """Data as one frame."""
    return _HEADER.pack(kind, len(data)) + data


def read_frame(read: Callable[[int], bytes], limit: int) -> tuple[bytes, bytes]:
    """Kind and data of the next frame. read: gives at most so many bytes, none where the other end is gone.

    Raises EOFError where the other end is gone, and FrameTooLongError where the data are more than `limit` bytes.
    """
    kind, size = _HEADER.unpack(_exactly(read, _HEADER.size))
    if size > limit:
        raise FrameTooLongError(f"a frame of {size:,} bytes, above {limit:,}")
    return kind, _exactly(read, size)


def write_all(write: Callable[[bytes], int], data: bytes) -> None:
    """Write all bytes, by a call that may take fewer."""
    while data:
        data = data[write(data) :]


def _exactly(read: Callable[[int], bytes], size: int) -> bytes:
    parts = []
    while size:
        part = read(min(size, 65_536))
        if not part:
            raise EOFError("the other process ended")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
