"""What a command ends with in one line: bad input (exit code 2), and a machine that lacks room (75)."""

import errno
import re

_ROOM = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file may grow no further (limit of file size)",
    errno.ENOMEM: "memory is used up",
    errno.EMFILE: "too many files are open (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine",
    errno.EROFS: "the file system is read-only",
}
_WORDS = (
    (re.compile(r"No space left on device|\d+ requested and \d+ written", re.I), errno.ENOSPC),
    (re.compile(r"Disk quota exceeded", re.I), errno.EDQUOT),
    (re.compile(r"File too large", re.I), errno.EFBIG),
    (re.compile(r"Cannot allocate memory|MemoryError|OutOfMemory|out of memory", re.I), errno.ENOMEM),
    (re.compile(r"Too many open files", re.I), errno.EMFILE),
    (re.compile(r"Read-only file system", re.I), errno.EROFS),
)
"""How libraries that raise errors of their own repeat what the system said; the second words are numpy's."""


class UserError(Exception):
    """Bad input. The message is one line that names the place and the remedy; commands print it and exit 2."""


class ShortageError(Exception):
    """The machine lacks room; what is finished is kept. The message is one line; commands print it and exit 75."""


def shortage(error: BaseException) -> ShortageError | None:
    """The line for an error that means a full disk, used up memory or their like; none for any other error."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, ShortageError):
            return chain
        number = chain.errno if isinstance(chain, OSError) else errno.ENOMEM if isinstance(chain, MemoryError) else None
        if number not in _ROOM:
            number = next((code for words, code in _WORDS if words.search(str(chain))), None)
        if number is not None:
            where = f": {chain.filename}" if isinstance(chain, OSError) and chain.filename else ""
            return ShortageError(f"{_ROOM[number]}{where}; what is finished is kept: make room, and run again")
        chain = chain.__cause__ or chain.__context__
    return None
