"""Pinned bytes on this machine: the content-addressed store, and the mirrors that may fill it.

A file of the store is named by its sha256 and is checked whenever it is used; nothing enters under a wrong name.
"""

import hashlib
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from specs.common.errors import UserError
from specs.common.files import replacing, sha256_file

CHUNK = 1 << 20


class WrongBytesError(Exception):
    """Bytes that are not the pinned ones; the message says how they differ."""


class Store:
    """Files by sha256, below one folder: `sha256/ab/abcd...`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, sha256: str) -> Path:
        """Where the file with this digest lies, once it is there."""
        return self.root / "sha256" / sha256[:2] / sha256

    def find(self, sha256: str) -> Path | None:
        """The file with this digest. One that has been damaged is reported, removed, and not found."""
        path = self.path(sha256)
        if not path.is_file():
            return None
        if sha256_file(path) == sha256:
            return path
        print(f"store: {path} is damaged (its sha256 is another); removing it", file=sys.stderr, flush=True)
        path.unlink()
        return None

    def add(self, sha256: str, chunks: Iterable[bytes], size: int | None = None) -> Path:
        """Write chunks of bytes as the file with this digest, or leave no trace.

        Raises WrongBytesError as soon as there are more than `size` bytes, or when the digest is another.
        """
        path = self.path(sha256)
        with replacing(path) as temporary:
            digest, length = hashlib.sha256(), 0
            with temporary.open("wb") as file:
                for chunk in chunks:
                    length += len(chunk)
                    if size is not None and length > size:
                        raise WrongBytesError(f"it is longer than the {size:,} bytes that the spec states")
                    digest.update(chunk)
                    file.write(chunk)
            if digest.hexdigest() != sha256:
                raise WrongBytesError(f"its sha256 is {digest.hexdigest()} ({length:,} bytes)")
        return path


class Mirrors:
    """Folders whose files are found by digest, whatever they are called."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders = tuple(folders)
        self._by_size: dict[int, list[Path]] | None = None
        self._digests: dict[Path, str] = {}
        self._lock = threading.Lock()

    def find(self, sha256: str, filename: str, size: int | None = None) -> Path | None:
        """A file with this digest. Where its size is known, only files of that size are read.

        Raises UserError where a mirror is not a folder.
        """
        with self._lock:
            by_size = self._files()
            sizes = [size] if size is not None else sorted(by_size)
            candidates = [path for one in sizes for path in by_size.get(one, ())]
            # Files of the expected name first: a large mirror is then seldom read whole.
            candidates.sort(key=lambda path: path.name != filename)
            return next((path for path in candidates if self._digest(path) == sha256), None)

    def _files(self) -> dict[int, list[Path]]:
        if self._by_size is None:
            by_size: dict[int, list[Path]] = {}
            for folder in self._folders:
                if not folder.is_dir():
                    raise UserError(f"mirror {folder} is not a folder: correct TWICE_MIRRORS or settings.yaml")
                for parent, folders, names in os.walk(folder):
                    folders.sort()
                    for path in (Path(parent) / name for name in sorted(names)):
                        if path.is_file():
                            by_size.setdefault(path.stat().st_size, []).append(path)
            self._by_size = by_size
        return self._by_size

    def _digest(self, path: Path) -> str | None:
        if path not in self._digests:
            try:
                self._digests[path] = sha256_file(path)
            except OSError as error:
                print(f"mirror: cannot read {path} ({error.strerror}); passing over it", file=sys.stderr, flush=True)
                return None
        return self._digests[path]


def read_chunks(path: Path, advance: Callable[[int], None] = lambda length: None) -> Iterator[bytes]:
    """Bytes of a file in chunks; `advance` is told the length of each."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk
            advance(len(chunk))


def copy_out(stored: Path, target: Path) -> None:
    """Copy a file of the store. Never a link: what is done to the copy must not reach the store."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(stored, target)
