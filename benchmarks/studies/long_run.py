"""What a run of months costs beside its training: a poll, a save and an attachment, at the size of `code-34b`.

    python -m benchmarks.studies.long_run FOLDER

Writes a journal of 333,787 steps (1.6 GB), and a token store of as many files as one of 613 GB has (they hold holes).
Measures, on this machine, medians of five: the poll of the process that waits for a scheduler's job; how long a save
keeps a rank from training, beside a journal of one step; and the look at a store that is as it was, when a stage is
started again. One rank is real; a save's blocking part on 256 is the copy of a rank's own shards, and a barrier.
"""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np

from benchmarks.workloads.training_run import training_run
from data_pipeline.tokens.token_store import MANIFEST, Rows, StoreWriter, TokenStore
from runner.launching.phase import state_of, verify_once
from runner.launching.scheduler import progress_of
from runner.training.run import Run
from specs.common.files import write_json
from specs.common.run_folder import RunFolder
from specs.common.tables import table
from specs.schema.training import Architecture, Training

STEPS, LINE = 333_787, 4_800
"""Steps of `code-34b`, and bytes of a line of its journal."""
FILES, FILE_BYTES = 41_000, 15_000_000
"""Files of its token store, of 2,048 rows each."""
ROUNDS = 5
CONTEXT, VOCABULARY, ROWS = 64, 256, 64
PHASE: dict[str, Any] = {
    "micro_batches": 2,
    "micro_batch_size": 1,
    "optimizer": {"lr": 1e-3},
    "schedule": {"warmup_steps": 1},
    "precision": {"compute": "fp32"},
    "checkpoints": {"every": 1},
}


def seconds(work: Callable[[], object]) -> float:
    """Median wall time of a few rounds."""
    taken = []
    for _ in range(ROUNDS):
        began = time.monotonic()
        work()
        taken.append(time.monotonic() - began)
    return median(taken)


def long_journal(path: Path, steps: int) -> None:
    """A journal of so many steps, as long as that of the run; its chain is none."""
    with path.open("wb") as file:
        for step in range(1, steps + 1):
            entry = {"step": step, "loss": 2.0, "lr": 1e-4, "weights": "", "chain": "0" * 64}
            entry["weights"] = "0" * (LINE - len(json.dumps(entry)) - 1)
            file.write(json.dumps(entry).encode() + b"\n")


def small_store(path: Path) -> TokenStore:
    """A store of random rows."""
    random = np.random.default_rng(1)
    with StoreWriter(path, CONTEXT) as writer:
        for _ in range(ROWS):
            tokens = random.integers(16, VOCABULARY - 1, CONTEXT + 1).astype(np.uint16)
            writer.append(Rows(tokens, np.zeros_like(tokens), np.ones(CONTEXT + 1, np.uint8)), [])
        source = {"name": "one", "start": 0, "stop": ROWS, "weight": 1}
        facts = {"tokenizer_sha256": "0" * 64, "loss": "all", "template": "turns-v1"}
        writer.finish(vocab_size=VOCABULARY, sources=[source], **facts)
    return TokenStore.open(path)


def large_store(path: Path, files: int) -> None:
    """The same with many more files in its manifest, of their size and with nothing in them."""
    small_store(path)
    manifest = json.loads((path / MANIFEST).read_bytes())
    (path / "more").mkdir()
    for number in range(files):
        name = f"more/{number}"
        with (path / name).open("wb") as file:
            file.truncate(FILE_BYTES)
        manifest["files"][name] = {"size": FILE_BYTES, "sha256": "0" * 64}
    write_json(path / MANIFEST, manifest)


def save_blocks(run: Run, journal: Path) -> float:
    """Seconds that a save keeps its rank from training."""
    taken = []
    for _ in range(ROUNDS):
        began = time.monotonic()
        run.checkpoints.save(1, "0" * 64, journal, journal.stat().st_size)
        taken.append(time.monotonic() - began)
        run.checkpoints.finish()
    return median(taken)


def measured(folder: Path, steps: int, files: int) -> list[tuple[str, str]]:
    """What was measured, and in milliseconds how long it took."""
    run_folder = RunFolder(folder / "run")
    run_folder.path.mkdir()
    long_journal(run_folder.steps, steps)
    long_journal(folder / "short.jsonl", 1)
    large_store(folder / "store", files)
    write_json(run_folder.verified, state_of(folder / "store"))
    assert progress_of(run_folder.path)[0] == steps
    rows = [
        ("poll", seconds(lambda: progress_of(run_folder.path))),
        ("attach: look at the store", seconds(lambda: verify_once(folder / "store", run_folder.verified))),
    ]
    architecture = Architecture(d_model=256, n_layers=4, n_heads=4, d_ff=1024, context_length=CONTEXT)
    store = small_store(folder / "small")
    with training_run(architecture, Training.model_validate(PHASE), store, folder / "saved") as run:
        rows += [
            ("save, blocking, journal of one step", save_blocks(run, folder / "short.jsonl")),
            (f"save, blocking, journal of {steps:,} steps", save_blocks(run, run_folder.steps)),
        ]
    return [(name, f"{1000 * taken:,.1f} ms") for name, taken in rows]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--steps", default=STEPS, show_default=True, help="Steps in the journal.")
@click.option("--files", default=FILES, show_default=True, help="Files of the token store.")
def main(folder: Path, steps: int, files: int) -> None:
    """Measure in FOLDER, which is made, and removed at the end."""
    folder.mkdir(parents=True)
    try:
        click.echo("\n".join(table(measured(folder, steps, files), right=(1,))))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
