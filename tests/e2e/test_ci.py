"""What CI and hooks are configured to do, done: their own files are read, and their commands run on a clone."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from specs.loading.settings import ROOT

BIN = Path(sys.executable).parent
WORKFLOW, GITLAB = ROOT / ".github" / "workflows" / "review.yml", ROOT / ".gitlab-ci.yml"
LEVEL = "level: portable, "
SMOKE = "specs/experiments/smoke.yaml"

# Stands in for GitHub's own command line: keeps the comments of a pull request in a file, as the API would.
GH = """
import json, os, pathlib, sys
store = pathlib.Path(os.environ["COMMENTS"])
comments = json.loads(store.read_text()) if store.exists() else []
arguments = sys.argv[1:]
assert arguments.pop(0) == "api" and os.environ["GH_TOKEN"]
path = next(each for each in arguments if each.startswith("repos/"))
if "--method" not in arguments:
    assert path == "repos/o/r/issues/7/comments" and "--paginate" in arguments and "--jq" in arguments
    assert arguments[-1] == '.[] | select(.body | startswith("<!-- twice diff -->")) | .id', arguments
    print(*(each["id"] for each in comments if each["body"].startswith("<!-- twice diff -->")), sep="\\n")
    sys.exit()
field = arguments[arguments.index("-F") + 1]
assert field.startswith("body=@")
body = pathlib.Path(field.removeprefix("body=@")).read_text()
if "POST" in arguments:
    assert path == "repos/o/r/issues/7/comments"
    comments.append({"id": len(comments) + 1, "body": body})
else:
    (found,) = (each for each in comments if path == f"repos/o/r/issues/comments/{each['id']}")
    found["body"] = body
store.write_text(json.dumps(comments))
"""
# Stands in for curl, against GitLab's API: keeps the note that it is asked to post.
CURL = """
import json, os, pathlib, sys
arguments = sys.argv[1:]
name, _, file = arguments[arguments.index("--data-urlencode") + 1].partition("@")
header = arguments[arguments.index("--header") + 1]
said = {"url": arguments[-1], "header": header, name: pathlib.Path(file).read_text()}
assert arguments[arguments.index("--request") + 1] == "POST"
pathlib.Path(os.environ["COMMENTS"]).write_text(json.dumps(said))
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of the checkout's files, with an environment where `make install` would put it."""
    root = tmp_path_factory.mktemp("clone") / "repository"
    folders = ("specs", "runner", "data_pipeline", "model", "evaluation", ".github")
    for folder in folders:
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("dvc.yaml", ".gitlab-ci.yml", ".pre-commit-config.yaml", ".gitattributes", ".gitignore"):
        shutil.copy(ROOT / file, root)
    git(root, "init", "-q", "-b", "main")
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    (root / ".venv").symlink_to(BIN.parent)
    return root


@pytest.fixture
def change(clone: Path) -> tuple[str, str]:
    """Two commits, the second with another warm-up, and the lock refreshed."""
    git(clone, "checkout", "-q", "-B", "change", "main")
    path = clone / SMOKE
    path.write_text(path.read_text("utf-8").replace("warmup_steps: 20", "warmup_steps: 40"), "utf-8")
    subprocess.run([BIN / "twice", "lock"], cwd=clone, env=environment(clone), check=True, capture_output=True)
    git(clone, "commit", "-qam", "longer warm-up")
    return git(clone, "rev-parse", "main"), git(clone, "rev-parse", "change")


def git(root: Path, *arguments: str) -> str:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "core.hooksPath=/dev/null")
    done = subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def environment(root: Path, **more: str) -> dict[str, str]:
    """Variables under which the clone's own modules are imported, whatever is installed."""
    path = f"{root.parent / 'bin'}:{BIN}:{os.environ['PATH']}"
    return {**os.environ, "PYTHONPATH": str(root), "PATH": path, **more}


def stand_in(root: Path, name: str, program: str) -> None:
    folder = root.parent / "bin"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!{sys.executable}\n{program}", "utf-8")
    (folder / name).chmod(0o755)


def run(root: Path, script: str, **variables: str) -> None:
    """A script as runners run it: by bash, ending at the first command that fails."""
    done = subprocess.run(
        ["bash", "-e", "-c", script], cwd=root, env=environment(root, **variables), capture_output=True, text=True
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"


def read(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path.read_text("utf-8"))


def test_the_workflow_posts_one_comment_and_keeps_it_up_to_date(
    clone: Path, change: tuple[str, str], tmp_path: Path
) -> None:
    stand_in(clone, "gh", GH)
    comments, (base, head) = tmp_path / "comments.json", change
    values = {
        "${{ github.event.pull_request.base.sha }}": base,
        "${{ github.event.pull_request.head.sha }}": head,
        "${{ github.token }}": "token",
        "${{ github.repository }}": "o/r",
        "${{ github.event.pull_request.number }}": "7",
    }
    steps = [
        step for step in read(WORKFLOW)["jobs"]["diff"]["steps"] if step.get("run", "make install") != "make install"
    ]
    assert len(steps) == 3
    for _ in range(2):
        for step in steps:
            variables = {name: values[value] for name, value in step.get("env", {}).items()}
            summary = str(tmp_path / "summary.md")
            run(clone, step["run"], COMMENTS=str(comments), GITHUB_STEP_SUMMARY=summary, **variables)
    (comment,) = json.loads(comments.read_text("utf-8"))
    assert comment["body"].startswith("<!-- twice diff -->\n### ")
    assert "| `pretraining.schedule.warmup_steps`  | 20 | 40 |" in comment["body"]
    assert "`pretrain@smoke`" in comment["body"]
    assert (tmp_path / "summary.md").read_text("utf-8") == 2 * comment["body"]


def test_a_change_that_the_policy_blocks_fails_the_job_and_is_told_in_the_comment(clone: Path, tmp_path: Path) -> None:
    git(clone, "checkout", "-q", "-f", "-B", "weaker", "main")
    path = clone / SMOKE
    text = path.read_text("utf-8")
    path.write_text(text.replace("reproducibility: {", "reproducibility: {level: data, ").replace(LEVEL, ""), "utf-8")
    subprocess.run([BIN / "twice", "lock"], cwd=clone, env=environment(clone), check=True, capture_output=True)
    git(clone, "commit", "-qam", "promise less")
    step = next(step for step in read(WORKFLOW)["jobs"]["diff"]["steps"] if "--policy" in step.get("run", ""))
    variables = {"BASE": git(clone, "rev-parse", "main"), "HEAD": git(clone, "rev-parse", "weaker")}
    variables["GITHUB_STEP_SUMMARY"] = str(tmp_path / "summary.md")
    done = subprocess.run(["bash", "-e", "-c", step["run"]], cwd=clone, env=environment(clone, **variables))
    assert done.returncode == 1
    comment = (clone / "comment.md").read_text("utf-8")
    assert "- **blocked** determinism-lowered: reproducibility.level:" in comment
    assert "TWICE_REVIEWED=" in comment and (tmp_path / "summary.md").read_text("utf-8") == comment


def test_the_job_posts_a_note(clone: Path, change: tuple[str, str], tmp_path: Path) -> None:
    stand_in(clone, "curl", CURL)
    lines = [line for line in read(GITLAB)["review"]["script"] if line != "make install"]
    variables = {
        "CI_MERGE_REQUEST_DIFF_BASE_SHA": change[0],
        "CI_COMMIT_SHA": change[1],
        "TWICE_NOTE_TOKEN": "token",
        "CI_API_V4_URL": "https://example.org/api/v4",
        "CI_MERGE_REQUEST_PROJECT_ID": "3",
        "CI_MERGE_REQUEST_IID": "9",
    }
    run(clone, "\n".join(lines), COMMENTS=str(tmp_path / "note.json"), **variables)
    note = json.loads((tmp_path / "note.json").read_text("utf-8"))
    assert note["url"] == "https://example.org/api/v4/projects/3/merge_requests/9/notes"
    assert note["header"] == "PRIVATE-TOKEN: token"
    assert "| `pretraining.schedule.warmup_steps`  | 20 | 40 |" in note["body"]


@pytest.mark.parametrize("refreshed", [False, True], ids=["stale", "fresh"])
def test_pre_commit_stops_a_commit_whose_lock_is_stale(clone: Path, refreshed: bool, tmp_path: Path) -> None:
    git(clone, "checkout", "-q", "-f", "-B", "hooked", "main")
    path = clone / SMOKE
    path.write_text(path.read_text("utf-8").replace("warmup_steps: 20", "warmup_steps: 40"), "utf-8")
    if refreshed:
        subprocess.run([BIN / "twice", "lock"], cwd=clone, env=environment(clone), check=True, capture_output=True)
    git(clone, "add", ".")
    done = subprocess.run(
        [BIN / "pre-commit", "run"],
        cwd=clone,
        env=environment(clone, PRE_COMMIT_HOME=str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (0 if refreshed else 1), done.stdout + done.stderr
    stale = "runs.smoke.pretraining.schedule.warmup_steps is 40 in the specs, 20 in the lock"
    assert (stale in done.stdout) != refreshed
    assert "twice schema --check" in done.stdout
    git(clone, "reset", "-q", "--hard")


def test_git_diff_tells_changes_through_the_driver(clone: Path) -> None:
    git(clone, "checkout", "-q", "-f", "-B", "driven", "main")
    path = clone / SMOKE
    path.write_text(path.read_text("utf-8").replace("warmup_steps: 20", "warmup_steps: 40"), "utf-8")
    (command,) = [
        line.partition(": ")[2]
        for line in (clone / ".gitattributes").read_text("utf-8").splitlines()
        if "git config" in line
    ]
    run(clone, command)
    done = subprocess.run(
        ["git", "diff"], cwd=clone, env=environment(clone), capture_output=True, text=True, check=True
    )
    assert f"a/{SMOKE} -> b/{SMOKE}" in done.stdout
    assert "pretraining.schedule.warmup_steps: 20 -> 40" in done.stdout
    git(clone, "reset", "-q", "--hard")


@pytest.mark.parametrize(
    "arguments",
    [
        ["check-jsonschema", "--builtin-schema", "vendor.github-workflows", str(WORKFLOW)],
        ["check-jsonschema", "--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci", str(GITLAB)],
        ["pre-commit", "validate-config", str(ROOT / ".pre-commit-config.yaml")],
        ["pre-commit", "validate-manifest", str(ROOT / ".pre-commit-hooks.yaml")],
    ],
    ids=["github", "gitlab", "pre-commit", "hooks"],
)
def test_files_are_what_their_services_take(arguments: list[str]) -> None:
    done = subprocess.run([BIN / arguments[0], *arguments[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
