"""Texts that were parsed before, kept by content: after an edit of one file, that file alone is parsed.

Parsing YAML takes more than all else that is done with a spec. What a text becomes depends on its characters, on the
code of this project, on Python and on the installed distributions, and is kept under a digest of all of them.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KEPT = 200
"""Texts that stay on disk, the newest first."""


@dataclass
class Shelf:
    """A folder of texts that were parsed under one state of the code. It may be removed at any time."""

    folder: Path
    state: str
    """Digest of the code that parses."""
    new: dict[Path, bytes] = field(default_factory=dict)

    def recall(self, what: str, text: str, work: Callable[[], Any]) -> Any:
        """What a text becomes, as `specs.reading.Recall` has it."""
        if "&" in text:
            # Where an anchor is used many times, plain JSON may be far longer than the text.
            return work()
        name = hashlib.sha256(f"{self.state}\0{what}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()
        path = self.folder / f"{name}.json"
        held = _held(path)
        if held is not None:
            return json.loads(held)
        value = work()
        with contextlib.suppress(TypeError, ValueError):
            plain = json.dumps(value)
            # JSON must give back what it was given, types included: 1 is not 1.0, and no key may have become text.
            if repr(json.loads(plain)) == repr(value):
                self.new[path] = plain.encode()
        return value

    def save(self) -> None:
        """Write what was not known before. Where nothing can be written, the next time takes as long as this one."""
        from specs.files import write_bytes

        with contextlib.suppress(OSError):
            for path, plain in self.new.items():
                write_bytes(path, hashlib.sha256(plain).hexdigest().encode() + b"\n" + plain)
            if self.new:
                remove_all_but(KEPT, self.folder)
        self.new.clear()


@contextlib.contextmanager
def remembering(folder: Path, state: str) -> Iterator[None]:
    """Have every text that is parsed meanwhile looked up in a folder first, and kept there."""
    from specs.reading import recalling

    shelf = Shelf(folder, state)
    try:
        with recalling(shelf.recall):
            yield
    finally:
        shelf.save()


def remove_all_but(count: int, folder: Path) -> None:
    """Remove the oldest files of a folder."""
    for old in sorted(folder.glob("*.json"), key=lambda each: each.stat().st_mtime_ns, reverse=True)[count:]:
        old.unlink(missing_ok=True)


def _held(path: Path) -> bytes | None:
    try:
        digest, _, plain = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    # Damaged files are as good as none.
    return plain if hashlib.sha256(plain).hexdigest().encode() == digest else None
