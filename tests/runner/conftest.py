"""A tiny run for the tests: a token store, a job, and ranks that compute it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.tokens.token_store import Rows, StoreWriter
from runner.training.job import Job
from specs.common.files import tree_digests

VOCABULARY, CONTEXT, ROWS = 130, 32, 80
RARE = 129
"""A token id that stands in one row only."""
RARE_ROW = 41

TINY: dict[str, Any] = {
    "stage": "pretrain",
    "name": "tiny",
    # No dimension is a multiple of four, so that shards are uneven on four ranks.
    "architecture": {
        "d_model": 18,
        "n_layers": 2,
        "n_heads": 3,
        "n_kv_heads": 1,
        "d_ff": 35,
        "context_length": CONTEXT,
        "attention": {"pattern": "interleaved", "window": 8, "global_every": 2},
    },
    "vocab_size": VOCABULARY,
    "training": {
        "micro_batches": 8,
        "micro_batch_size": 1,
        "optimizer": {"lr": 1e-2},
        "schedule": {"warmup_steps": 2},
        # The sharper test: a few bf16 gradients add without rounding in fp32, in any order.
        "precision": {"compute": "fp32"},
        # Gradients of this model are larger: clipping is active at every step.
        "clip_norm": 0.1,
        "checkpoints": {"every": 2},
        "held_out": {"sequences": 5, "every": 3},
        "loss_chunk": 20,
    },
    "steps": 6,
    "level": "topology",
    "threads": 1,
    "device": "cpu",
    "inputs": {"token_store": "0" * 64},
    "initial": None,
}


@dataclass
class Outcome:
    """What became of the ranks of one request."""

    job: Path
    codes: list[int]
    log: str

    @property
    def finished(self) -> Path:
        return self.job.parent / "finished"

    @property
    def failure(self) -> str:
        path = self.job.parent / "failure.txt"
        return path.read_text("utf-8") if path.exists() else ""

    def digests(self) -> dict[str, str]:
        assert set(self.codes) == {0}, self.log
        return tree_digests(self.finished)


Compute = Callable[..., Outcome]
MakeJob = Callable[..., Path]


def write_store(path: Path, rows: int = ROWS, learnt: float = 1.0, **facts: Any) -> Path:
    """Random rows of documents; of a row's targets up to a share `learnt` is learnt, where it is below 1."""
    random = np.random.default_rng(1)
    with StoreWriter(path, CONTEXT) as writer:
        for row in range(rows):
            tokens = random.integers(16, VOCABULARY - 1, CONTEXT + 1).astype(np.uint16)
            if row == RARE_ROW:
                tokens[7] = RARE
            documents = (random.random(CONTEXT + 1) < 0.1).cumsum().astype(np.uint16)
            loss = np.append(0, documents[1:] == documents[:-1]).astype(np.uint8)
            if learnt < 1:
                loss &= random.random(CONTEXT + 1) < random.choice([0, learnt, 1])
            writer.append(Rows(tokens, documents, loss), [])
        source = {"name": "one", "start": 0, "stop": rows, "weight": 1}
        stated = {"vocab_size": VOCABULARY, "tokenizer_sha256": "0" * 64, "loss": "all", "template": "turns-v1"}
        writer.finish(**stated, sources=[source], **facts)
    return path


def _with(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of nested values; changes are named by dotted paths."""
    values = json.loads(json.dumps(values))
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = values
        for parent in parents:
            place = place[parent]
        place[last] = value
    return values


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("data") / "store")


@pytest.fixture(scope="session")
def make_job(tmp_path_factory: pytest.TempPathFactory, store: Path) -> MakeJob:
    """Write the job file of a tiny run in a scratch folder of its own; changes are named by dotted paths."""

    def make(changes: dict[str, Any] | None = None) -> Path:
        folder = tmp_path_factory.mktemp("scratch")
        places = {"store": str(store), "scratch": str(folder), "measured": str(folder / "measured")}
        job = Job.model_validate(_with(TINY | places, changes or {}))
        (folder / "job.json").write_text(job.model_dump_json(), "utf-8")
        return folder / "job.json"

    return make


@pytest.fixture(scope="session")
def _server() -> Iterator["subprocess.Popen[str]"]:
    script = Path(__file__).with_name("rank_server.py")
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )
    yield process
    assert process.stdin and process.stdout
    process.stdin.close()
    process.wait(timeout=600)
    process.stdout.close()


@pytest.fixture(scope="session")
def compute(_server: "subprocess.Popen[str]") -> Compute:
    """Compute a job on so many ranks of one node, or of each node, as torchrun would start them.

    `fault` befalls one rank (None: all).
    """

    def run(
        job: Path,
        ranks: int | Sequence[int] = 1,
        fault: str | None = None,
        argument: Any = None,
        rank: int | None = None,
    ) -> Outcome:
        (job.parent / "failure.txt").unlink(missing_ok=True)
        request = {"job": str(job), "nodes": [ranks] if isinstance(ranks, int) else ranks}
        request |= {"fault": fault, "argument": argument, "rank": rank}
        assert _server.stdin and _server.stdout
        _server.stdin.write(json.dumps(request) + "\n")
        _server.stdin.flush()
        answer = json.loads(_server.stdout.readline())
        return Outcome(job, answer["codes"], answer["log"])

    return run


@pytest.fixture(scope="session")
def reference(make_job: MakeJob, compute: Compute) -> Outcome:
    """The tiny run on one rank, never interrupted."""
    return compute(make_job(), ranks=1)


@pytest.fixture
def begun(tmp_path: Path, _saved: Path, make_job: MakeJob) -> Path:
    """The job of a tiny run that was stopped after step 5, with checkpoints at steps 4 and 5, for a test to damage."""
    job = make_job()
    shutil.copytree(_saved, job.parent / "checkpoints")
    return job


@pytest.fixture(scope="session")
def _saved(make_job: MakeJob, compute: Compute) -> Path:
    job = make_job()
    outcome = compute(job, ranks=2, fault="ask_to_stop", argument=5, rank=1)
    assert outcome.codes == [75, 75], outcome.log
    return job.parent / "checkpoints"
