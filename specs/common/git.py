"""What git holds of this project: commits by name, files and folders at a commit."""

import subprocess
from functools import cache

from specs import ROOT
from specs.common.errors import UserError


def commit_of(revision: str) -> str:
    """Full hash of a revision. Raises UserError where git knows no such revision, or this is no repository."""
    found = None
    if not revision.startswith("-"):
        found = run_git("rev-parse", "--quiet", "--verify", f"{revision}^{{commit}}")
    if found is None:
        raise UserError(f"git knows no revision {revision!r} here; give a commit, a branch or a tag")
    return found.strip()


def show(commit: str, path: str) -> str | None:
    """Text of a file at a commit (its hash: a branch moves), by its path from the project root."""
    texts = _texts(commit)
    return texts[path] if path in texts else _shown(commit, path)


def files(commit: str, folder: str) -> list[str]:
    """Paths of what a folder holds at a commit, in it and below it, sorted."""
    return sorted(path for path in _tree(commit) if path.startswith(f"{folder}/"))


def blob(commit: str, path: str) -> str | None:
    """git's object id of a file or folder at a commit."""
    return _tree(commit).get(path)


@cache
def _tree(commit: str) -> dict[str, str]:
    entries = (
        line.partition("\t") for line in (run_git("ls-tree", "-r", "-t", "-z", commit) or "").split("\0") if line
    )
    return {path: facts.split()[2] for facts, _, path in entries}


@cache
def _shown(commit: str, path: str) -> str | None:
    return run_git("show", f"{commit}:./{path}")


@cache
def _texts(commit: str) -> dict[str, str]:
    """Texts of all YAML files of the specs at a commit, and of the pipeline, by path: one process instead of many."""
    wanted = {
        path: blob
        for path, blob in _tree(commit).items()
        if path == "dvc.yaml" or (path.startswith("specs/") and path.endswith(".yaml"))
    }
    output = _run("cat-file", "--batch", given="".join(f"{blob}\n" for blob in wanted.values())) or b""
    texts, at = {}, 0
    for path in wanted:
        head, _, _ = output[at : at + 200].partition(b"\n")
        match head.split():
            case [_, kind, size]:
                begin = at + len(head) + 1
                at = begin + int(size) + 1
                if kind == b"blob":
                    texts[path] = output[begin : at - 1].decode("utf-8", "replace")
            case _:
                at += len(head) + 1  # missing, as a submodule is
    return texts


def run_git(*arguments: str) -> str | None:
    """Output of a git command in the project root; none where it fails."""
    output = _run(*arguments)
    return None if output is None else output.decode("utf-8", "replace")


def _run(*arguments: str, given: str = "") -> bytes | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, check=False, timeout=60, input=given.encode()
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"cannot run git: {error}") from error
    return done.stdout if done.returncode == 0 else None
