"""A run bound to what was reviewed: the digest of a commit's specs, pipeline and code."""

import os

from specs.common.errors import UserError
from specs.common.files import digest_json
from specs.common.git import blob, commit_of, run_git

VARIABLE = "TWICE_REVIEWED"
PARTS = ("specs", "data_pipeline", "model", "evaluation", "runner", "dvc.yaml", "requirements.lock")


def reviewed_digest(commit: str) -> str:
    """Digest of everything of a commit that a result may depend on: git's ids of folders and files."""
    return digest_json({path: blob(commit, path) for path in PARTS})


def require_reviewed() -> None:
    """Where TWICE_REVIEWED is set, raise UserError unless this checkout is, unchanged, what was reviewed."""
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    if changed := (run_git("status", "--porcelain", "--", *PARTS) or "").split("\n")[0].strip():
        raise UserError(
            f"{VARIABLE} binds this run to what was reviewed, and the checkout differs: {changed}; commit it"
        )
    digest = reviewed_digest(commit_of("HEAD"))
    if digest != wanted:
        raise UserError(
            f"{VARIABLE} is {wanted[:12]}..., this checkout is {digest[:12]}...: check out what was reviewed, "
            "or have this one reviewed (`twice diff BASE..HEAD` prints its digest)"
        )
