"""Planned sizes against real files: what training wrote, the layout of every shipped spec, real token stores."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from data_pipeline.tokens.token_store import DTYPES, SHARD_ROWS, Origin, Rows, StoreWriter, TokenStore
from model.decoder.transformer import Transformer
from runner.training.checkpoint_files import KINDS
from runner.training.sharding import shard_range
from specs.estimates import disk
from specs.estimates.disk import FIXED, INDEX, MEASURED, Density, density, density_of, raw_bytes, sizes, store_bytes
from specs.loading.load import load_experiment
from specs.loading.settings import ROOT
from specs.schema.experiment import Experiment

EXPERIMENTS = sorted((ROOT / "specs" / "experiments").glob("*.yaml"))
Shapes = Mapping[str, tuple[int, ...]]


@pytest.fixture(scope="module", params=EXPERIMENTS, ids=lambda path: path.stem)
def experiment(request: pytest.FixtureRequest) -> Experiment:
    return load_experiment(request.param)


def planned(experiment: Experiment) -> dict[str, int]:
    return {each.name: each.bytes for each in sizes(experiment)}


def shapes_of(experiment: Experiment) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = Transformer(experiment.architecture, experiment.tokenizer.vocab_size)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def shards_of(shapes: Shapes, ranks: int) -> Iterator[dict[str, tuple[int, ...]]]:
    """What each rank saves: its rows of every weight and of both moments."""
    for rank in range(ranks):
        rows = {name: shard_range(shape[0], rank, ranks) for name, shape in shapes.items()}
        yield {
            f"{kind}/{name}": (rows[name][1] - rows[name][0], *shape[1:])
            for kind in KINDS
            for name, shape in shapes.items()
        }


def write_sparse(path: Path, shapes: Shapes) -> int:
    """A safetensors file of fp32 tensors whose data are a hole: a real file but for the numbers. Returns its size."""
    header, at = {}, 0
    for name in sorted(shapes):
        after = at + 4 * math.prod(shapes[name])
        header[name] = {"dtype": "F32", "shape": list(shapes[name]), "data_offsets": [at, after]}
        at = after
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)
    return path.stat().st_size


def test_files_of_the_layout_have_the_sizes_that_are_planned(experiment: Experiment, tmp_path: Path) -> None:
    """The library that would read them opens each file, and refuses one of another length than its header says."""
    shapes = shapes_of(experiment)
    path, total, held = tmp_path / "file", 0, 0
    for shard in shards_of(shapes, experiment.cluster.devices):
        total += write_sparse(path, shard)
        with safe_open(path, framework="pt") as file:
            held += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    assert held == 3 * sum(map(math.prod, shapes.values()))
    assert total == pytest.approx(planned(experiment)["checkpoint"], rel=0.01)
    assert write_sparse(path, shapes) == pytest.approx(planned(experiment)["finished weights"], rel=0.01)
    assert planned(experiment)["checkpoints kept"] == planned(experiment)["checkpoint"] * (
        experiment.pretraining.checkpoints.keep
    )


def test_a_file_that_is_a_byte_short_would_be_refused(tmp_path: Path) -> None:
    size = write_sparse(tmp_path / "file", {"a": (3, 5)})
    with (tmp_path / "file").open("r+b") as file:
        file.truncate(size - 1)
    with pytest.raises(Exception, match=r"[Ii]ncomplete"):
        safe_open(tmp_path / "file", framework="pt")


def test_training_writes_the_sizes_that_are_planned(
    tmp_path: Path, make_job: Callable[..., Path], compute: Callable[..., Any]
) -> None:
    """One real step of smoke on its two ranks: the checkpoint and the weights that it leaves, every file counted."""
    smoke = load_experiment(ROOT / "specs" / "experiments" / "smoke.yaml")
    length, vocab_size = smoke.architecture.context_length, smoke.tokenizer.vocab_size
    write_store(tmp_path / "store", 16, length, vocab_size)
    training = smoke.pretraining.model_copy(
        update={"held_out": None, "checkpoints": smoke.pretraining.checkpoints.model_copy(update={"every": 1})}
    )
    changes = {
        "architecture": smoke.architecture.model_dump(mode="json"),
        "vocab_size": vocab_size,
        "training": training.model_dump(mode="json", exclude={"tokens"}),
        "steps": 1,
        "store": str(tmp_path / "store"),
    }
    job = make_job(changes)
    outcome = compute(job, ranks=smoke.cluster.devices)
    assert set(outcome.codes) == {0}, outcome.log
    checkpoint = job.parent / "checkpoints" / "step-1"
    assert folder_bytes(checkpoint) == pytest.approx(planned(smoke)["checkpoint"], rel=0.01)
    weights = outcome.finished / "model.safetensors"
    assert weights.stat().st_size == pytest.approx(planned(smoke)["finished weights"], rel=0.01)
    # The layouts of the larger specs are files like these, to the byte but for the numbers.
    layouts = [("model", shapes_of(smoke)), *(("rank", each) for each in shards_of(shapes_of(smoke), 2))]
    for (_, shapes), real in zip(layouts, [weights, *sorted(checkpoint.glob("rank-*"))], strict=True):
        size = write_sparse(tmp_path / "sparse", shapes)
        head = 8 + int.from_bytes(real.read_bytes()[:8], "little")
        assert real.stat().st_size == size
        assert real.read_bytes()[:head] == (tmp_path / "sparse").read_bytes()[:head]


def write_store(path: Path, rows: int, length: int, vocab_size: int) -> int:
    """A store of documents of many lengths, whose ids are as unevenly common as words. Returns the bytes of files."""
    random = np.random.default_rng(7)
    with StoreWriter(path, length) as writer:
        for row in range(rows):
            # The most common half of the ids of a Zipf distribution over the vocabulary.
            tokens = np.minimum(vocab_size ** random.random(length + 1), vocab_size - 1).astype(np.uint16)
            ends = np.unique(random.integers(1, length + 1, max(length // 400, 1)))
            starts, stops = [0, *ends.tolist()], [*ends.tolist(), length + 1]
            documents = np.repeat(np.arange(len(starts)), np.subtract(stops, starts)).astype(np.uint16)
            loss = np.append(0, documents[1:] == documents[:-1]).astype(np.uint8)
            origins = [
                Origin(row, start, stop - start, random.bytes(16).hex(), "one", f"a/{row}/{start}.py", "MIT", 0)
                for start, stop in zip(starts, stops, strict=True)
            ]
            writer.append(Rows(tokens, documents, loss), origins)
        source = {"name": "one", "start": 0, "stop": rows, "weight": 1}
        facts = {"vocab_size": vocab_size, "tokenizer_sha256": "0" * 64, "loss": "all", "template": "turns-v1"}
        writer.finish(**facts, sources=[source])
    return folder_bytes(path)


def folder_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def test_the_size_of_a_store_is_known_from_a_part_of_it(experiment: Experiment, tmp_path: Path) -> None:
    length, vocab_size = experiment.architecture.context_length, experiment.tokenizer.vocab_size
    part, whole = 300, SHARD_ROWS + 200
    size = write_store(tmp_path / "part", part, length, vocab_size)
    real = write_store(tmp_path / "whole", whole, length, vocab_size)
    tight = density_of(part, size, length, "")
    assert store_bytes(whole, length, tight) == pytest.approx(real, rel=0.01)
    # Arrays are planned exactly, before compression.
    read = TokenStore.open(tmp_path / "part").rows(range(part))
    assert read.tokens.nbytes + read.documents.nbytes + read.loss.nbytes == raw_bytes(part, length)


def test_indexes_of_shards_are_not_taken_for_contents(tmp_path: Path) -> None:
    """The control: a part scaled up by its rows alone, as if indexes grew with them, misses by more than 1%."""
    size, real = (write_store(tmp_path / str(rows), rows, 512, 8192) for rows in (300, SHARD_ROWS + 200))
    assert abs(size / 300 * (SHARD_ROWS + 200) / real - 1) > 0.01


def test_the_layout_of_stores_is_the_one_that_is_planned(tmp_path: Path) -> None:
    assert disk.SHARD_ROWS == SHARD_ROWS
    assert len(DTYPES) * (16 * SHARD_ROWS + 4) == disk.INDEX
    assert sum(np.dtype(dtype).itemsize for dtype in DTYPES.values()) == disk.RAW
    one, two = (write_store(tmp_path / str(rows), rows, 64, 8192) for rows in (1, 2))
    assert 2 * one - two == pytest.approx(INDEX + FIXED, rel=0.01)


def test_a_store_that_was_packed_here_is_known_by_its_files(tmp_path: Path) -> None:
    smoke = load_experiment(ROOT / "specs" / "experiments" / "smoke.yaml")
    assert "as Python code" in density(smoke, tmp_path).how
    noted = tmp_path / "pack@smoke-code-unigram-8k-512.json"
    noted.write_text(json.dumps({"rows": 1000, "store_bytes": 1_000_000}), "utf-8")
    found = {each.name: each for each in sizes(smoke, tmp_path)}
    assert (found["token store"].bytes, found["token store"].how) == (1_000_000, "packed here: 1,000 rows")
    assert density(smoke, tmp_path).bytes_per_position == pytest.approx((1_000_000 - INDEX - FIXED) / (1000 * 513))
    for damaged in ("", "[]", '{"rows": 0, "store_bytes": 1}', '{"rows": 5}'):
        noted.write_text(damaged, "utf-8")
        assert "token store" not in {each.name for each in sizes(smoke, tmp_path)}


def test_what_was_measured_elsewhere_stays_below_the_arrays() -> None:
    for _, _, found in MEASURED:
        assert store_bytes(10**6, 2048, Density(found, "")) < raw_bytes(10**6, 2048) / 2
