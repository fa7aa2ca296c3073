"""The step before the sandbox: a scratch folder of bounded size, leave root behind, become bubblewrap.

Standard library only.

Runs as its own program, `python -I -S drop_root.py PLAN`, so that nothing is done between fork and exec of a
process with threads. PLAN is JSON: `bwrap` (path), `arguments`, `staged` (paths), `user` (id to become, or null), `at`
(folder that may be covered), `scratch` (folder below it) and its mount `options`: bubblewrap's own tmpfs would bound
bytes, but not the number of files.

Root's own limits on processes do not bind, so root becomes another user first. That user may not be able to reach the
interpreter (below /root, say): root therefore binds the needed paths to a place in a mount namespace of its own.
"""

import ctypes
import json
import os
import sys
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18


def _check(result: int, what: str) -> None:
    if result != 0:
        sys.exit(f"{what}: {os.strerror(ctypes.get_errno())}")


def stage(paths: list[str], at: str, scratch: str, options: str) -> None:
    """Bind each path to `at`/0, `at`/1, ... and mount `scratch` in a new mount namespace, hiding whatever `at` held.

    As another user than root that takes a user namespace, in which this one keeps its id.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    _check(libc.unshare(CLONE_NEWNS | (CLONE_NEWUSER if user else 0)), "new mount namespace")
    if user:
        Path("/proc/self/setgroups").write_text("deny", "utf-8")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1", "utf-8")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1", "utf-8")
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
    Path(scratch).mkdir()
    _check(libc.mount(b"none", scratch.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, options.encode()), "scratch folder")


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
    owner = os.geteuid() if plan["user"] is None else plan["user"]
    group = os.getegid() if plan["user"] is None else plan["user"]
    stage(plan["staged"], plan["at"], plan["scratch"], f"{plan['options']},uid={owner},gid={group}")
    if plan["user"] is not None:
        become(plan["user"])
    os.execve(program, ["bwrap", *plan["arguments"]], {})


if __name__ == "__main__":
    main()
