"""What a run leaves on disk: checkpoints, weights and the token store, in bytes of files."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from specs.estimates.counts import parameters, pretraining_steps, sequences_per_step
from specs.loading.settings import load_settings
from specs.pipeline.nodes import RunNode, resolve
from specs.schema.experiment import Experiment

SHARD_ROWS = 2_048
"""Rows in one file of a token store, as `data_pipeline.tokens.token_store` writes it."""
INDEX = 3 * (16 * SHARD_ROWS + 4)
"""Bytes that the shards of the three arrays take for their indexes, for each `SHARD_ROWS` rows begun."""
FIXED = 5_400
"""Bytes of a token store that holds nothing: metadata of its arrays, the frame of its provenance, the manifest."""
RAW = 5
"""Bytes of a position before compression: two for the id, two for the document, one that says what is learnt."""


@dataclass(frozen=True)
class Size:
    """A file, a folder or several of them, and how their size is known."""

    name: str
    bytes: int
    how: str


@dataclass(frozen=True)
class Density:
    """How tightly a token store is packed: bytes of files for each position, those that hold no position apart."""

    bytes_per_position: float
    how: str


MEASURED: tuple[tuple[int, int, float], ...] = (
    (8_192, 512, 1.25),
    (8_192, 2_048, 0.95),
    (8_192, 8_192, 0.83),
    (32_000, 512, 1.27),
    (32_000, 2_048, 0.98),
    (32_000, 8_192, 0.86),
    (64_000, 512, 1.28),
    (64_000, 2_048, 0.98),
    (64_000, 8_192, 0.87),
)
"""Pieces of a tokenizer, context length, and bytes for each position of a store of Python code, provenance included:
what `python -m benchmarks.studies.token_store_density` prints."""


def sizes(experiment: Experiment, measured: Path | None = None) -> list[Size]:
    """Checkpoints, finished weights and token store of pretraining.

    The store is the one that was packed here, where the `measured` folder knows it; without it the most that may be
    needed: as many sequences as training sees.
    """
    training, length = experiment.pretraining, experiment.architecture.context_length
    count = parameters(experiment.architecture, experiment.tokenizer.vocab_size).total
    steps, checkpoints = pretraining_steps(training, experiment.architecture), training.checkpoints
    rows = steps * sequences_per_step(training)
    stay = steps // checkpoints.keep_every if checkpoints.keep_every else 0
    also = f" and every {checkpoints.keep_every}th step's" if stay else ""
    one = checkpoint_bytes(count)
    sizes = [
        Size("checkpoint", one, "weights and AdamW's two moments, in fp32"),
        Size("checkpoints kept", one * (checkpoints.keep + stay), f"the newest {checkpoints.keep}{also}"),
        Size("finished weights", weight_bytes(count), "fp32"),
    ]
    packed = packed_here(experiment, measured)
    if packed is not None:
        sizes.append(Size("token store", packed[1], f"packed here: {packed[0]:,} rows"))
    tight = density(experiment, measured)
    sizes.append(Size("token store, if no sequence is seen twice", store_bytes(rows, length, tight), tight.how))
    sizes.append(Size("the same before compression", raw_bytes(rows, length), f"{RAW} bytes for each position"))
    return sizes


def weight_bytes(parameters: int) -> int:
    """Bytes of finished weights; the file has a header of some 100 bytes for each tensor besides."""
    return 4 * parameters


def checkpoint_bytes(parameters: int) -> int:
    """Bytes of a checkpoint's tensors: fp32 weights and AdamW's two moments. Headers and the manifest are besides."""
    return 3 * weight_bytes(parameters)


def raw_bytes(rows: int, context_length: int) -> int:
    """Bytes of a token store's arrays before compression."""
    return rows * (context_length + 1) * RAW


def store_bytes(rows: int, context_length: int, tight: Density) -> int:
    """Bytes of a token store's files: what its positions take at this density, and what is there besides."""
    return round(rows * (context_length + 1) * tight.bytes_per_position) + _besides(rows)


def density_of(rows: int, size: int, context_length: int, how: str) -> Density:
    """Density of a store of so many rows and bytes: what `store_bytes` needs to tell the size of a larger one."""
    return Density((size - _besides(rows)) / (rows * (context_length + 1)), how)


def density(experiment: Experiment, measured: Path | None = None) -> Density:
    """Density of the experiment's store: measured where one was packed here, else that of the nearest tokenizer."""
    packed = packed_here(experiment, measured)
    if packed is not None:
        rows, size = packed
        how = f"as dense as the {rows:,} rows that were packed here"
        return density_of(rows, size, experiment.architecture.context_length, how)
    wanted = (experiment.tokenizer.vocab_size, experiment.architecture.context_length)
    pieces, length, density = min(MEASURED, key=lambda measurement: _distance(measurement[:2], wanted))
    how = f"as Python code in {pieces:,} pieces, rows of {length:,} (docs/plan.md)"
    return Density(density, how)


def packed_here(experiment: Experiment, measured: Path | None = None) -> tuple[int, int] | None:
    """Rows and bytes of the experiment's token store, as the stage that packed it noted; none where none did."""
    folder = measured or load_settings().folder("measured")
    run = resolve(experiment)["runs"][experiment.name]
    assert isinstance(run, RunNode)
    try:
        noted = json.loads((folder / f"pack@{run.pretraining_store}.json").read_text("utf-8"))
        rows, size = int(noted["rows"]), int(noted["store_bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (rows, size) if rows > 0 and size > 0 else None


def _besides(rows: int) -> int:
    return FIXED + -(-rows // SHARD_ROWS) * INDEX


def _distance(left: tuple[int, int], right: tuple[int, int]) -> float:
    return math.prod(max(a / b, b / a) for a, b in zip(left, right, strict=True))
