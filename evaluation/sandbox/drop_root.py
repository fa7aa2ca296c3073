"""The step before the sandbox: leave root behind, then become bubblewrap. Standard library only.

Runs as its own program, `python -I -S drop_root.py PLAN`, so that nothing is done between fork and exec of a
process with threads. PLAN is JSON: `bwrap` (path), `arguments`, `staged` (paths), `user` (id to become, or null), `at`
(folder).

Root's own limits on processes do not bind, so root becomes another user first. That user may not be able to reach the
interpreter (below /root, say): root therefore binds the needed paths to a place in a mount namespace of its own.
"""

import ctypes
import json
import os
import sys
from pathlib import Path

CLONE_NEWNS = 0x00020000
MS_NOSUID, MS_BIND, MS_REC, MS_PRIVATE = 2, 4096, 16384, 1 << 18


def _check(result: int, what: str) -> None:
    if result != 0:
        sys.exit(f"{what}: {os.strerror(ctypes.get_errno())}")


def stage(paths: list[str], at: str) -> None:
    """Bind each path to `at`/0, `at`/1, ... in a new mount namespace, hiding whatever `at` held."""
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.unshare(CLONE_NEWNS), "new mount namespace")
    _check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "private mounts")
    # Opened first, as `at` may hide them, and in the new namespace, as a mount cannot cross from another.
    sources = [os.open(path, os.O_PATH) for path in paths]
    _check(libc.mount(b"none", at.encode(), b"tmpfs", MS_NOSUID, b"size=64k,mode=755"), f"tmpfs at {at}")
    for index, (path, source) in enumerate(zip(paths, sources, strict=True)):
        target = Path(at) / str(index)
        if Path(path).is_dir():
            target.mkdir()
        else:
            target.touch()
        _check(
            libc.mount(f"/proc/self/fd/{source}".encode(), str(target).encode(), None, MS_BIND | MS_REC, None),
            f"bind {path}",
        )
        os.close(source)


def become(user: int) -> None:
    """Give up every right of root, for good."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def main() -> None:
    """Carry out the plan."""
    plan = json.loads(sys.argv[1])
    # When memory runs out, the kernel ends a candidate before anything else.
    Path("/proc/self/oom_score_adj").write_text("1000", "utf-8")
    program = os.open(plan["bwrap"], os.O_RDONLY)
    if plan["user"] is not None:
        stage(plan["staged"], plan["at"])
        become(plan["user"])
    os.execve(program, ["bwrap", *plan["arguments"]], {})


if __name__ == "__main__":
    main()
