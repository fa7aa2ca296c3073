"""Files that are either whole or absent, and the digests that name their bytes."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


def read_text(path: Path) -> str:
    """A file's text, as UTF-8 whatever the locale says."""
    return path.read_text("utf-8")


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_digests(root: Path) -> dict[str, str]:
    """Hex sha256 of every file below `root` (or of `root`, where it is a file), by relative POSIX path, sorted."""
    if root.is_file():
        return {root.name: sha256_file(root)}
    files = (path for path in root.rglob("*") if path.is_file())
    digests = {path.relative_to(root).as_posix(): sha256_file(path) for path in files}
    return dict(sorted(digests.items()))


def canonical_json(value: object) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces: equal values give equal bytes. NaN and infinities raise ValueError."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_json(value: object) -> str:
    """Hex sha256 of the canonical JSON of a value."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def fsync_directory(path: Path) -> None:
    """Make renames inside a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(root: Path) -> None:
    """Flush every file and folder below `root`, and `root` itself."""
    for folder, _, names in os.walk(root):
        for name in names:
            with (Path(folder) / name).open("rb") as file:
                os.fsync(file.fileno())
        fsync_directory(Path(folder))


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`, to be filled as a file or a folder; then it takes the target's name.

    On an exception, or a kill, the target stays as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    _remove_leftovers(target)
    try:
        yield temporary
        if temporary.is_dir():
            fsync_tree(temporary)
            if target.exists():
                old = target.with_name(f".{target.name}.{os.getpid()}.old.tmp")
                target.rename(old)
                temporary.rename(target)
                _remove(old)
            else:
                temporary.rename(target)
        else:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(target)
        fsync_directory(target.parent)
    finally:
        _remove(temporary)


def write_bytes(target: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(target) as temporary:
        temporary.write_bytes(data)


def write_json(target: Path, value: object) -> None:
    """Write a value as `json_text`, whole or not at all."""
    write_bytes(target, json_text(value).encode())


def json_text(value: object) -> str:
    """A value as the JSON that files hold: indented, keys sorted. NaN and infinities raise ValueError."""
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_leftovers(target: Path) -> None:
    """Remove what killed processes left; another living process keeps its own temporary name."""
    for path in target.parent.glob(f".{target.name}.*.tmp"):
        owner = path.name.removeprefix(f".{target.name}.").split(".")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            _remove(path)
