"""Compressed streams by the ending of their name: .gz, .bz2, .xz, .zst."""

import bz2
import gzip
import lzma
from typing import Any, Protocol

import pyarrow as pa

ENDINGS = (".gz", ".bz2", ".xz", ".zst")
SHORT = {".tgz": ".tar.gz", ".tbz2": ".tar.bz2", ".txz": ".tar.xz", ".tzst": ".tar.zst", ".crate": ".tar.gz"}
"""Endings of tar archives that say less than they should; a crate of Rust is one too."""
_STEP = 1 << 20


class Readable(Protocol):
    """The part of a binary stream that members are read through."""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes; none at the end."""

    def readline(self, size: int = -1, /) -> bytes:
        """Bytes up to and including the next line feed, at most `size`."""


class Stream(Readable, Protocol):
    """A binary stream that archives are read through."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move to a byte."""

    def tell(self) -> int:
        """The byte that comes next."""


def full_name(name: str) -> str:
    """A file's name in lower case, its short ending written out."""
    name = name.lower()
    return next((name.removesuffix(short) + long for short, long in SHORT.items() if name.endswith(short)), name)


def stem(name: str) -> str:
    """The name of what is in a compressed file: without its last ending, as it was written."""
    return name.rsplit(".", 1)[0] if name.lower().endswith(ENDINGS) else name


def unpacked(stream: Any, name: str) -> Any:
    """The content of a stream of this name; the stream itself where its ending is none of `ENDINGS`."""
    match full_name(name).rsplit(".", 1)[-1]:
        case "gz":
            return gzip.GzipFile(fileobj=stream)
        case "bz2":
            return bz2.BZ2File(stream)
        case "xz":
            return lzma.LZMAFile(stream)
        case "zst":
            return _Zstd(stream)
    return stream


class _Zstd:
    """Zstandard as a stream that can be read by lines, and moved in by reading it again."""

    def __init__(self, stream: Any) -> None:
        self._source = _LeftOpen(stream)
        self._stream, self._buffer, self._position = self._start(), b"", 0

    def _start(self) -> Any:
        return pa.CompressedInputStream(pa.PythonFile(self._source, mode="r"), "zstd")

    def read(self, size: int = -1, /) -> bytes:
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        if len(data) < size:
            data += self._stream.read(size - len(data))
        self._position += len(data)
        return data

    def readline(self, size: int = -1, /) -> bytes:
        while b"\n" not in self._buffer[:size] and len(self._buffer) < size:
            block = self._stream.read(1 << 16)
            if not block:
                break
            self._buffer += block
        end = self._buffer.find(b"\n", 0, size)
        return self.read(end + 1 if end >= 0 else min(size, len(self._buffer)))

    def seek(self, offset: int, whence: int = 0, /) -> int:
        if offset < self._position:
            self._source.seek(0)
            self._stream, self._buffer, self._position = self._start(), b"", 0
        while self._position < offset and self.read(min(_STEP, offset - self._position)):
            pass
        return self._position

    def tell(self) -> int:
        return self._position


class _LeftOpen:
    """A stream that pyarrow does not close when it lets go of it."""

    closed = False

    def __init__(self, stream: Any) -> None:
        self.read, self.seek, self.tell = stream.read, stream.seek, stream.tell

    def close(self) -> None:
        pass
