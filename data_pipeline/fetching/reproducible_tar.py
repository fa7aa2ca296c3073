"""Folders and git commits as one tar file whose bytes depend on names and contents alone: so that they can be pinned.

Owners, times and modes are left out, and so is the name of the folder or the repository: a copy elsewhere has the same
pin. What is no plain file becomes an entry that ingest refuses by its kind: a symbolic link, a submodule (as a link
that names its commit), a device.
"""

import os
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

Advance = Callable[[int], None]

_CHUNK = 1 << 20
_TOP = "files"
"""The folder around everything, as archives of sources have one."""
_MODES = {"120000": "link", "160000": "submodule"}


class UnreadableError(Exception):
    """A folder or a repository cannot be read; the message says why."""


@dataclass(frozen=True)
class _Entry:
    path: str
    kind: str
    """`file`, `link`, `submodule` or `other`."""
    size: int = 0
    chunks: Iterable[bytes] = ()
    target: str = ""


def folder_chunks(folder: Path, advance: Advance) -> Iterator[bytes]:
    """The files below a folder as the bytes of one tar, in the order of their paths.

    Raises UnreadableError where there is no such folder, or a file changes while it is read.
    """
    if not folder.is_dir():
        raise UnreadableError(f"there is no folder {folder.name} at its place below the project root")
    return _tar(_folder_entries(folder), advance)


def commit_chunks(repository: str, commit: str, advance: Advance) -> Iterator[bytes]:
    """The files of a commit as the bytes of one tar, in the order of their paths.

    `repository` is what `git fetch` takes: an address, or the path of a clone or a bundle. Contents are those that git
    stores: no filter, no attribute and no setting of this machine changes them.
    Raises UnreadableError where git is missing, cannot read the repository, or finds no such commit.
    """
    with tempfile.TemporaryDirectory(prefix="twice-git-") as scratch:
        objects = "sha256" if len(commit) == 64 else "sha1"
        _git(scratch, "init", "--bare", "--quiet", f"--object-format={objects}", scratch)
        bundle = Path(repository).is_file()
        source = f"file://{Path(repository).resolve()}" if Path(repository).is_dir() else repository
        try:
            if bundle:
                raise UnreadableError("a bundle has no single commit to ask for")
            _git(scratch, "fetch", "--quiet", "--no-tags", "--depth=1", "--", source, commit)
        except UnreadableError:
            # Not every server hands out a commit by its name.
            _git(scratch, "fetch", "--quiet", "--", source, "+refs/*:refs/fetched/*")
        try:
            _git(scratch, "cat-file", "-e", f"{commit}^{{commit}}")
        except UnreadableError as error:
            raise UnreadableError(f"the repository has no commit {commit}") from error
        yield from _tar(_commit_entries(scratch, commit), advance)


def _folder_entries(folder: Path) -> Iterator[_Entry]:
    paths = [Path(parent) / name for parent, folders, names in os.walk(folder) for name in (*names, *folders)]
    for path in sorted(paths, key=lambda path: os.fsencode(path.relative_to(folder))):
        name, info = _text(os.fsencode(path.relative_to(folder))), path.lstat()
        if (blob := _blob(path, folder)) is not None:
            yield _Entry(name, "file", blob.stat().st_size, _read(blob))
        elif stat.S_ISLNK(info.st_mode):
            yield _Entry(name, "link", target=_text(os.fsencode(path.readlink())))
        elif stat.S_ISREG(info.st_mode):
            yield _Entry(name, "file", info.st_size, _read(path))
        elif not stat.S_ISDIR(info.st_mode):
            yield _Entry(name, "other")


def _blob(path: Path, folder: Path) -> Path | None:
    """What a link of a snapshot of the hub leads to: a file of `blobs` beside `snapshots`, as its cache keeps them."""
    if not path.is_symlink():
        return None
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):  # it leads nowhere, or to itself
        return None
    home = next(
        (parent.parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.name == "snapshots"), None
    )
    return target if home is not None and target.parent == home / "blobs" and target.is_file() else None


def _text(name: bytes) -> str:
    # Not by the locale, as os.fsdecode does: a header says how its name is encoded, so the bytes would differ.
    return name.decode("utf-8", "surrogateescape")


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _commit_entries(repository: str, commit: str) -> Iterator[_Entry]:
    listed = _git(repository, "ls-tree", "-r", "-z", "--full-tree", commit)
    entries = []
    for line in filter(None, listed.split(b"\0")):
        head, _, path = line.partition(b"\t")
        mode, _, identity = head.decode().split()
        entries.append((path, _MODES.get(mode, "file"), identity))
    with subprocess.Popen(
        ["git", "-C", repository, "cat-file", "--batch"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        for path, kind, identity in sorted(entries):
            name = _text(path)
            if kind == "submodule":
                yield _Entry(name, "submodule", target=f"submodule {identity}")
                continue
            process.stdin.write(identity.encode() + b"\n")
            process.stdin.flush()
            header = process.stdout.readline().split()
            if len(header) != 3:
                raise UnreadableError(f"the repository lacks the contents of {name}")
            size = int(header[2])
            if kind == "link":
                yield _Entry(name, "link", target=_text(process.stdout.read(size)))
            else:
                yield _Entry(name, "file", size, _piped(process.stdout, size))
            process.stdout.read(1)


def _piped(stream: IO[bytes], size: int) -> Iterator[bytes]:
    while size and (chunk := stream.read(min(_CHUNK, size))):
        size -= len(chunk)
        yield chunk


def _tar(entries: Iterable[_Entry], advance: Advance) -> Iterator[bytes]:
    for entry in entries:
        info = tarfile.TarInfo(f"{_TOP}/{entry.path}")
        if entry.kind == "file":
            info.size = entry.size
        elif entry.kind == "other":
            info.type = tarfile.FIFOTYPE
        else:
            info.type, info.linkname = tarfile.SYMTYPE, entry.target
        yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        written = 0
        for chunk in entry.chunks:
            written += len(chunk)
            advance(len(chunk))
            yield chunk
        if written != entry.size:
            raise UnreadableError(f"{entry.path} changed while it was read")
        yield bytes(-written % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _git(repository: str, *arguments: str) -> bytes:
    try:
        done = subprocess.run(
            ["git", "-C", repository, *arguments],
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C"},
        )
    except FileNotFoundError as error:
        raise UnreadableError("git is not installed") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise UnreadableError(f"git {arguments[0]} fails: {lines[-1] if lines else done.returncode}")
    return done.stdout
