"""A full disk and a worker that the system ends: one line, exit code 75, and what was finished is used again."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipeline.documents.engine import Engine
from specs.common.errors import ShortageError
from specs.common.files import tree_digests
from specs.loading.settings import ROOT
from tests.data_pipeline.documents.test_engine import archive, conversations

STAGE = """
import sys
sys.path.insert(0, sys.argv[1])
import json
from pathlib import Path
import importlib
from specs.loading import settings
from specs.pipeline import stage
root, name, *arguments = sys.argv[2:]
settings.ROOT = Path(root)
nodes = json.loads((Path(root) / "nodes.json").read_text("utf-8"))
stage.node = lambda address, kind: kind.model_validate_json(json.dumps(nodes["corpora"]))
stage.require_own = lambda: None
importlib.import_module(f"data_pipeline.{name}").main(["corpora.c", *arguments])
"""


def run(root: Path, limit: int | None, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A stage under a limit of the bytes that a file may have: a full disk, for whoever writes."""

    def confine() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-c", STAGE, str(ROOT), str(root), name, *arguments]
    environment = os.environ | {"TWICE_SCRATCH": str(root / "scratch"), "TWICE_MEASURED": str(root / "measured")}
    return subprocess.run(
        command, cwd=root, env=environment, preexec_fn=confine, capture_output=True, encoding="utf-8", check=False
    )


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    pinned = archive(tmp_path / "chats.tar.gz", {"chats.jsonl": conversations(400)})
    source = pinned.model_dump(mode="json") | {"name": "chats", "licence": "MIT", "format": "conversations"}
    (tmp_path / "nodes.json").write_text(json.dumps({"corpora": {"name": "c", "sources": [source]}}), "utf-8")
    (tmp_path / "sources" / "chats").mkdir(parents=True)
    (tmp_path / "chats.tar.gz").rename(tmp_path / "sources" / "chats" / "chats.tar.gz")
    return tmp_path


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.thorough)])
def test_a_stage_on_a_full_disk_ends_in_one_line_and_goes_on_later(corpus: Path, workers: str) -> None:
    stages = {
        "ingest": ["--sources", "sources", "--out", "ingested"],
        "filter": ["--documents", "ingested", "--out", "filtered"],
        "dedup": ["--documents", "filtered", "--out", "unique"],
    }
    for name, arguments in stages.items():
        done = run(corpus, 3_000, name, *arguments, "--workers", workers)
        assert done.returncode == 75, done.stderr
        assert "Traceback" not in done.stderr
        last = done.stderr.strip().splitlines()[-1]
        assert (
            last.startswith(("error: a file may grow no further", "error: the disk is full"))
            and "what is finished is kept" in last
        )
        assert not (corpus / arguments[-1]).exists()
        done = run(corpus, None, name, *arguments, "--workers", workers)
        assert done.returncode == 0, done.stderr
        assert tree_digests(corpus / arguments[-1])


# Daft leaves the pipes to its processes to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_worker_that_the_system_ends_is_told_in_one_line() -> None:
    with pytest.raises(ShortageError, match=r"a worker was ended from outside.*fewer workers"):
        list(Engine(workers=2).map(_die, list(range(4))))


def _die(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number
