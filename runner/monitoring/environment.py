"""The machine, the code and the libraries that a run meets: told beside it, and no part of its results."""

import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

from specs.common.files import sha256_file
from specs.loading.settings import ROOT


def environment() -> dict[str, Any]:
    """The machine, the code and every installed distribution: all that may vary while results stay the same."""
    lock = ROOT / "dvc.lock"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "distributions": versions(),
        "dvc_lock": sha256_file(lock) if lock.exists() else None,
        "git": _git(),
    }


@cache
def versions() -> dict[str, str]:
    """Version of every installed distribution, by name."""
    found = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions() if d.metadata["Name"]}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _git() -> dict[str, object] | None:
    """Commit and digest of what differs from it; none outside a repository."""
    if shutil.which("git") is None:
        return None

    def ask(*arguments: str) -> bytes | None:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)
        return done.stdout if done.returncode == 0 else None

    commit, changes = ask("rev-parse", "HEAD"), ask("diff", "HEAD")
    if commit is None:
        return None
    return {"commit": commit.decode().strip(), "changes": hashlib.sha256(changes).hexdigest() if changes else None}
