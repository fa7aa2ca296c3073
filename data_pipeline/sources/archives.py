"""Archives to members, read in place and never unpacked to disk: tar, zip, wheels, gems, compressed and plain files.

An archive may be hostile or broken. A member that must not be used (a link, a device, a path that leaves the archive)
is reported and passed over; an archive that is damaged, or larger than the limits, is an error.
"""

import contextlib
import lzma
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data_pipeline.sources import compression
from data_pipeline.sources.compression import Readable
from specs.common.errors import UserError
from specs.schema.data import Ingest

Refuse = Callable[[str, str], None]
"""Told the reason and the path of a member that must not be used."""

_TAR_ENDINGS = (".tar", *(f".tar{ending}" for ending in compression.ENDINGS))
_ZIP_ENDINGS = (".zip", ".whl")
_CHUNK = 2**20
_MAX_READ = 16 * 2**20
_HEADER_BYTES = 4096

# What the readers of the standard library raise for broken bytes.
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    RuntimeError,
    UnicodeError,
    ValueError,
)


class _TooLargeError(Exception):
    """The archive is larger than the limits allow."""


@dataclass(frozen=True)
class Member:
    """A plain file inside an archive; it can be read until the next member is asked for."""

    path: str
    """Relative, with `/` between its parts, without the folder that a source archive puts around everything."""
    size: int
    """Bytes it claims to have; 0 where the archive does not say."""
    archive: str
    """Name of the archive, for errors."""
    stream: Readable
    file: Path | None = None
    """The file itself, where the member is all of it as it lies there."""

    def chunk(self, size: int) -> bytes:
        """At most `size` bytes; none at the end. Raises as `read` does."""
        with _naming(self.archive):
            return self.stream.read(size)

    def read(self, limit: int) -> bytes | None:
        """All bytes; none where there are more than `limit`. Raises UserError where the archive is damaged."""
        with _naming(self.archive):
            data = bytearray()
            while chunk := self.stream.read(min(_CHUNK, limit + 1 - len(data))):
                data += chunk
                if len(data) > limit:
                    return None
            return bytes(data)

    def lines(self, limit: int) -> Iterator[bytes | None]:
        """Lines without their line feed; none for one of more than `limit` bytes. Raises as `read` does."""
        with _naming(self.archive):
            while line := self.stream.readline(limit + 1):
                if line.endswith(b"\n") or len(line) <= limit:
                    yield line.removesuffix(b"\n")
                    continue
                while line and not line.endswith(b"\n"):
                    line = self.stream.readline(_CHUNK)
                yield None


def members(path: Path, limits: Ingest, refuse: Refuse) -> Generator[Member, None, None]:
    """Plain files of an archive, in its order. A file of another ending is its own only member.

    Raises UserError naming the file where it is damaged, ends early, or exceeds `max_archive_bytes` or `max_members`.
    """
    name = compression.full_name(path.name)
    read = _tar if name.endswith(_TAR_ENDINGS) else _zip if name.endswith(_ZIP_ENDINGS) else _single
    read = _gem if name.endswith(".gem") else read
    with _naming(path.name):
        yield from read(path, limits, refuse)


@contextlib.contextmanager
def _naming(archive: str) -> Iterator[None]:
    """Turn what the readers raise into one line that names the archive."""
    try:
        yield
    except _TooLargeError as error:
        raise UserError(f"{archive}: {error}; raise the limit in ingest, or leave the source out") from error
    except FileNotFoundError as error:
        raise UserError(f"{archive}: there is no such file; run the fetch stage") from error
    except _DAMAGE as error:
        trouble = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{archive}: the archive is damaged or ends early ({trouble}); pin and fetch an intact copy"
        ) from error


def _single(path: Path, limits: Ingest, refuse: Refuse) -> Iterator[Member]:
    name = compression.stem(path.name)
    compressed = name != path.name
    size = path.stat().st_size
    with _unpacked(path, limits.max_archive_bytes) as stream:
        yield Member(name, 0 if compressed else size, path.name, stream, None if compressed else path)
        _drain(stream)


def _tar(path: Path, limits: Ingest, refuse: Refuse) -> Iterator[Member]:
    # Headers and padding come on top of the members themselves.
    with _unpacked(path, limits.max_archive_bytes + limits.max_members * _HEADER_BYTES) as stream:
        names: list[str] = []
        total = 0
        # A first pass holds the archive to its limits, and shows what is common to all names, before anything is read.
        for count, (info, _) in enumerate(_tar_entries(stream), start=1):
            total += max(info.size, 0)
            _check(count, total, limits)
            if not info.isdir():
                names.append(info.name)
        top, seen = _top_folder(names), set[str]()
        for info, archive in _tar_entries(stream):
            if info.isdir():
                continue
            inner = _accepted(info.name, _tar_trouble(info), top, seen, refuse)
            if inner is not None and (file := archive.extractfile(info)) is not None:
                yield Member(inner, info.size, path.name, file)


def _gem(path: Path, limits: Ingest, refuse: Refuse) -> Iterator[Member]:
    """A gem of Ruby: a tar, whose `data.tar.gz` holds the files."""
    with _unpacked(path, limits.max_archive_bytes) as stream, tempfile.TemporaryDirectory() as folder:
        inner = Path(folder) / f"{path.name}.tar.gz"
        for info, archive in _tar_entries(stream):
            if info.name == "data.tar.gz" and (data := archive.extractfile(info)) is not None:
                with inner.open("wb") as file:
                    shutil.copyfileobj(data, file, _CHUNK)
        if not inner.exists():
            raise tarfile.ReadError("no data.tar.gz in it")
        yield from _tar(inner, limits, refuse)


def _tar_entries(stream: "Bounded") -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    start: int | None = 0
    # Several archives one after the other, as `cat` makes them, are read like one.
    while start is not None:
        stream.seek(start)
        # The stubs of tarfile ask for a `write` that reading never calls.
        with tarfile.open(fileobj=stream, mode="r:", encoding="utf-8") as archive:  # type: ignore[call-overload]
            while (info := archive.next()) is not None:
                yield info, archive
                # tarfile remembers every header: a large archive would fill the memory.
                archive.members.clear()
            # tarfile takes a damaged header in the middle, or a missing end, for the end of the archive.
            stream.seek(archive.offset)
            if stream.read(tarfile.BLOCKSIZE) not in (bytes(tarfile.BLOCKSIZE), b""):
                raise tarfile.ReadError(f"no header at byte {archive.offset}")
        start = _next_archive(stream)


def _next_archive(stream: "Bounded") -> int | None:
    """Where the zeros at the end of a tar end, and another one begins; none at the end of the file."""
    while chunk := stream.read(_CHUNK):
        if rest := chunk.lstrip(b"\0"):
            return (stream.tell() - len(rest)) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
    return None


def _tar_trouble(info: tarfile.TarInfo) -> str | None:
    if info.issym() or info.islnk():
        return "link"
    return None if info.isreg() and not info.issparse() else "not a plain file"


def _zip(path: Path, limits: Ingest, refuse: Refuse) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
        _check(len(infos), sum(info.file_size for info in infos), limits)
        # A wheel has no folder around its files: what lies on top is a package.
        wheel = path.name.lower().endswith(".whl")
        top, seen = None if wheel else _top_folder([info.filename for info in infos]), set[str]()
        for info in infos:
            inner = _accepted(info.filename, _zip_trouble(info), top, seen, refuse)
            if inner is not None:
                with archive.open(info) as file:
                    yield Member(inner, info.file_size, path.name, file)


def _zip_trouble(info: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "link"
    if kind not in (0, stat.S_IFREG):
        return "not a plain file"
    return "encrypted" if info.flag_bits & 1 else None


def _accepted(name: str, trouble: str | None, top: str | None, seen: set[str], refuse: Refuse) -> str | None:
    """Path of a member below the top folder, or none once it has been refused."""
    parts = PurePosixPath(name).parts
    inner = "/".join(parts if top is None else parts[1:])
    trouble = trouble or _unsafe(name) or ("path occurs twice" if inner in seen else None)
    if trouble is not None:
        refuse(trouble, name.encode(errors="backslashreplace").decode())
        return None
    seen.add(inner)
    return inner


def _unsafe(name: str) -> str | None:
    parts = PurePosixPath(name).parts
    if not parts or parts[0].startswith("/") or ".." in parts or "\\" in name or name[1:2] == ":":
        return "path leaves the archive"
    # Control characters, and the surrogates that stand for bytes which are not UTF-8.
    return None if name.isprintable() else "path is not printable UTF-8"


def _top_folder(names: list[str]) -> str | None:
    """The folder that holds every file, as source archives have it; none where there is no such folder."""
    paths = (PurePosixPath(name).parts for name in names if _unsafe(name) is None)
    tops = {parts[0] if len(parts) > 1 else None for parts in paths}
    return tops.pop() if len(tops) == 1 else None


def _check(count: int, total: int, limits: Ingest) -> None:
    if count > limits.max_members:
        raise _TooLargeError(f"holds more than max_members = {limits.max_members:,} members")
    if total > limits.max_archive_bytes:
        raise _TooLargeError(f"unpacks to more than max_archive_bytes = {limits.max_archive_bytes:,} bytes")


class Bounded:
    """A stream that refuses to go past a number of bytes, whatever the headers inside it claim."""

    closed = False
    """pyarrow asks before it reads."""

    def __init__(self, stream: compression.Stream, cap: int) -> None:
        self._stream, self._cap = stream, cap

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes."""
        if not 0 <= size <= _MAX_READ:
            # tarfile reads the value of a long header whole, however long it says it is.
            raise tarfile.ReadError(f"a header claims {size:,} bytes")
        return self._within(self._stream.read(size))

    def readline(self, size: int = -1, /) -> bytes:
        """Bytes up to the next line feed, at most `size`."""
        return self._within(self._stream.readline(size))

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move to a byte of the unpacked stream."""
        if offset > self._cap:
            raise _TooLargeError(f"unpacks to more than {self._cap:,} bytes")
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """Byte of the unpacked stream that comes next."""
        return self._stream.tell()

    def close(self) -> None:
        """Left to whoever opened the stream."""

    def _within(self, data: bytes) -> bytes:
        if self._stream.tell() > self._cap:
            raise _TooLargeError(f"unpacks to more than {self._cap:,} bytes")
        return data


@contextlib.contextmanager
def _unpacked(path: Path, cap: int) -> Iterator[Bounded]:
    with path.open("rb") as raw:
        yield Bounded(compression.unpacked(raw, path.name), cap)


def _drain(stream: Bounded) -> None:
    # gzip checks length and checksum at its very end only.
    while stream.read(_CHUNK):
        pass
