"""The code that verifies: the commit of this checkout, and all that differs from it."""

import hashlib
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specs import ROOT
from specs.common.errors import UserError

_SHOWN = 3


@dataclass(frozen=True)
class Checkout:
    """A commit, and what this checkout has beside it."""

    commit: str | None
    """None outside a git repository."""
    files: tuple[str, ...]
    """Files that are not as in the commit, new ones that git does not ignore among them."""
    diff: str
    """The difference, as `git apply` takes it."""

    @property
    def clean(self) -> bool:
        """Whether the commit names all of the code."""
        return self.commit is not None and not self.diff

    def as_json(self) -> dict[str, Any]:
        """For attestations: the commit, and the difference whole."""
        digest = hashlib.sha256(self.diff.encode()).hexdigest() if self.diff else None
        return {"commit": self.commit, "files": list(self.files), "diff": self.diff or None, "diff_sha256": digest}

    def line(self) -> str:
        """For people."""
        if self.commit is None:
            return "no git repository"
        more = f", with {len(self.files)} files that differ from it ({_listed(self.files)})" if self.files else ""
        return f"commit {self.commit[:16]}{more}"


def read_checkout(root: Path = ROOT) -> Checkout:
    """The state of a checkout, read from the files as they are: what git was told to overlook in them counts as well.

    Raises UserError where git fails.
    """
    try:
        return _read(root)
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        raise UserError(f"{root}: git cannot tell what differs from the commit: {detail.strip()}") from error


def require_named(checkout: Checkout, *, dirty: bool) -> None:
    """Raise UserError where no commit names the code, unless a dirty checkout is allowed."""
    if checkout.clean or dirty:
        return
    if checkout.commit is None:
        raise UserError(
            "this is no git repository, so no commit names the code that would verify: clone the project, or give "
            "--dirty, and the verdict says so"
        )
    raise UserError(
        f"this checkout is not commit {checkout.commit[:16]}: {len(checkout.files)} files differ "
        f"({_listed(checkout.files)}); commit them, or give --dirty, and the difference is recorded"
    )


def _read(root: Path) -> Checkout:
    if _git(root, "rev-parse", "--is-inside-work-tree", check=False).strip() != "true":
        return Checkout(None, (), "")
    commit = _git(root, "rev-parse", "HEAD").strip()
    objects = (root / _git(root, "rev-parse", "--git-path", "objects").strip()).resolve()
    with tempfile.TemporaryDirectory() as folder:
        # A fresh index knows no file that it should overlook; what it stores goes with the folder.
        own = {
            "GIT_INDEX_FILE": f"{folder}/index",
            "GIT_OBJECT_DIRECTORY": f"{folder}/objects",
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(objects),
        }
        Path(folder, "objects").mkdir()
        _git(root, "read-tree", "HEAD", environment=own)
        _git(root, "add", "--all", ":/", environment=own)
        plain = ("diff", "--cached", "--no-ext-diff", "--no-textconv", "--no-renames", "HEAD")
        names = _git(root, *plain, "--name-only", "-z", environment=own).split("\0")
        return Checkout(commit, tuple(name for name in names if name), _git(root, *plain, "--binary", environment=own))


def _git(root: Path, *arguments: str, check: bool = True, environment: dict[str, str] | None = None) -> str:
    # Git sets variables of its own for its hooks: here they would name another repository.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", "-C", str(root), *arguments],
        capture_output=True,
        check=check,
        env=inherited | (environment or {}),
        encoding="utf-8",
        errors="backslashreplace",
        timeout=600,
    )
    return done.stdout


def _listed(files: tuple[str, ...]) -> str:
    return ", ".join(files[:_SHOWN]) + (" and more" if len(files) > _SHOWN else "")
