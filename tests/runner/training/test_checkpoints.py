"""Killed anywhere, resumed elsewhere: the same bytes. Damaged in any way: noticed, and passed over."""

import functools
import json
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from runner.training import checkpoint_files
from runner.training.job import LOST_PEER, STALLED
from runner.training.sharding import shard_range

Compute = Callable[..., Any]
MakeJob = Callable[..., Path]


def _calls(chance: random.Random, step: int) -> int:
    """A call at which a kill lands, counted from a step on: a step takes 350 calls, one that saves 2,400."""
    return chance.randrange(1, 3_000 if 1 <= step <= 4 else 300)


@pytest.mark.parametrize("seed", range(4))
def test_killed_anywhere_and_resumed_on_other_ranks(
    seed: int, compute: Compute, make_job: MakeJob, reference: Any
) -> None:
    """SIGKILL at a random call of one rank, saves and loads included, twice in one run."""
    chance = random.Random(seed)
    job = make_job()
    # The second kill is at the first one's step or later: the run goes on from a checkpoint before.
    for step in sorted(chance.choices(range(7), k=2)):
        ranks = chance.choice([1, 2, 3, 5])
        killed = compute(job, ranks, fault="die", argument=[step, _calls(chance, step)], rank=chance.randrange(ranks))
        assert -9 in killed.codes, killed.log
    assert compute(job, chance.choice([1, 2, 3, 5])).digests() == reference.digests()


SHARD_BYTES = 60_000
"""What one rank of two writes of the tiny run's state, and a little less."""
FIFTY = {"steps": 50, "training.checkpoints.every": 5}


@pytest.fixture(scope="module")
def fifty(compute: Compute, make_job: MakeJob) -> Any:
    return compute(make_job(FIFTY), ranks=1)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(20))
def test_twenty_kills_in_fifty_steps(seed: int, compute: Compute, make_job: MakeJob, fifty: Any) -> None:
    chance = random.Random(seed)
    job, ranks = make_job(FIFTY), chance.randint(1, 8)
    where = [chance.randrange(1, 46), chance.randrange(1, 3_000)]
    killed = compute(job, ranks, fault="die", argument=where, rank=chance.randrange(ranks))
    assert -9 in killed.codes, killed.log
    assert compute(job, chance.randint(1, 8)).digests() == fifty.digests()


@pytest.mark.thorough
@pytest.mark.timeout(1800)
def test_one_run_killed_twenty_times_on_as_many_divisions(compute: Compute, make_job: MakeJob) -> None:
    """Twelve micro-batches, from one rank to eight, on one node or on two of different size."""
    chance, changes = random.Random(0), {"training.micro_batches": 12, "steps": 44, "training.checkpoints.every": 1}
    job = make_job(changes)
    for step in range(2, 42, 2):
        layout = chance.choice([[1], [2], [3], [5], [6], [7], [8], [3, 2], [2, 2], [1, 4]])
        killed = compute(job, layout, fault="die", argument=[step, chance.randrange(1, 3_000)], rank=0)
        assert -9 in killed.codes, killed.log
    assert compute(job, [4, 3]).digests() == compute(make_job(changes), 1).digests()


def test_stopped_as_asked_and_resumed(compute: Compute, begun: Path, reference: Any) -> None:
    assert sorted(p.name for p in (begun.parent / "checkpoints").iterdir()) == ["latest", "step-4", "step-5"]
    outcome = compute(begun, ranks=4)
    assert outcome.digests() == reference.digests()
    assert "damaged" not in outcome.log


def _flip(path: Path, bit: int = 3) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1 << bit
    path.write_bytes(content)


def _mix(folder: Path) -> None:
    """The file of another step, as an overwrite in place would leave it."""
    name = "rank-00001-of-00002.safetensors"
    shutil.copyfile(folder.with_name("step-4") / name, folder / name)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "flipped bit in a shard": lambda folder: _flip(folder / "rank-00001-of-00002.safetensors"),
    "flipped bit in the manifest": lambda folder: _flip(folder / "manifest.json"),
    "flipped bit in the steps": lambda folder: _flip(folder / "steps.jsonl"),
    "missing shard": lambda folder: (folder / "rank-00000-of-00002.safetensors").unlink(),
    "missing manifest": lambda folder: (folder / "manifest.json").unlink(),
    "torn shard": lambda folder: (folder / "rank-00000-of-00002.safetensors").write_bytes(b"torn"),
    "mixed steps": _mix,
    "another step's folder": lambda folder: (
        shutil.rmtree(folder),
        shutil.copytree(folder.with_name("step-4"), folder),
    ),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    damage: Callable[[Path], None], compute: Compute, begun: Path, reference: Any
) -> None:
    damage(begun.parent / "checkpoints" / "step-5")
    outcome = compute(begun, ranks=1)
    assert "checkpoint step-5 is damaged" in outcome.log and "falling back" in outcome.log
    assert "checkpoint step-4 is damaged" not in outcome.log
    assert outcome.digests() == reference.digests()


def test_with_every_checkpoint_damaged_the_run_begins_again(compute: Compute, begun: Path, reference: Any) -> None:
    for step in (4, 5):
        _flip(begun.parent / "checkpoints" / f"step-{step}" / "rank-00000-of-00002.safetensors")
    assert compute(begun, ranks=2).digests() == reference.digests()


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.thorough) for seed in range(1, 20))])
def test_ended_at_any_byte_of_a_save(seed: int, compute: Compute, make_job: MakeJob, reference: Any) -> None:
    job, byte = make_job(), random.Random(seed).randrange(SHARD_BYTES)
    ended = compute(job, ranks=2, fault="end_at_byte", argument=byte, rank=seed % 2)
    assert -signal.SIGXFSZ in ended.codes, ended.log
    assert compute(job, ranks=1).digests() == reference.digests()


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.thorough) for seed in range(1, 10))])
def test_ended_at_any_byte_of_a_manifest(seed: int, compute: Compute, make_job: MakeJob, reference: Any) -> None:
    job = make_job()
    ended = compute(job, ranks=1, fault="end_in_manifest", argument=random.Random(seed).randrange(4000))
    assert ended.codes == [-signal.SIGKILL]
    assert [path.name for path in (job.parent / "checkpoints").iterdir()] == ["step-2.tmp"]
    assert compute(job, ranks=2).digests() == reference.digests()


def test_no_flipped_bit_of_a_checkpoint_goes_unnoticed(begun: Path) -> None:
    """A bit of every byte of the manifest; of each other file the first and last bytes, and some between."""
    folder = begun.parent / "checkpoints" / "step-5"
    manifest = checkpoint_files.verify(folder)
    chance = random.Random(1)
    unnoticed = []
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        places = list(range(len(content)))
        if path.name == checkpoint_files.MANIFEST:
            check = functools.partial(checkpoint_files.read_manifest, folder)
        else:
            places = [*places[:64], *chance.sample(places, 100), *places[-64:]]
            check = functools.partial(checkpoint_files.verify_file, folder, path.name, manifest["files"][path.name])
        for place in places:
            flipped = bytes([content[place] ^ 1 << chance.randrange(8)])
            path.write_bytes(content[:place] + flipped + content[place + 1 :])
            try:
                check()
                unnoticed.append((path.name, place))
            except checkpoint_files.DamagedError:
                pass
        path.write_bytes(content)
    checkpoint_files.verify(folder)
    assert not unnoticed


def test_no_shorter_file_of_a_checkpoint_goes_unnoticed(begun: Path) -> None:
    folder = begun.parent / "checkpoints" / "step-5"
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        # (Without the newline at its end a manifest is what it was.)
        for length in {0, 1, 7, 8, len(content) // 2, len(content) - 2}:
            path.write_bytes(content[:length])
            with pytest.raises(checkpoint_files.DamagedError, match=path.name):
                checkpoint_files.verify(folder)
        path.write_bytes(content)


def test_no_space_at_any_byte_is_said_and_costs_nothing_saved(
    compute: Compute, make_job: MakeJob, reference: Any
) -> None:
    job = make_job()
    outcome = compute(job, ranks=2, fault="no_growth_beyond", argument=random.Random(1).randrange(SHARD_BYTES), rank=1)
    assert outcome.codes[1] == 2 and outcome.codes[0] in (2, LOST_PEER), outcome.log
    assert "File too large" in outcome.failure and "the last checkpoint is whole" in outcome.failure
    assert "Traceback" not in outcome.log
    assert compute(job, ranks=4).digests() == reference.digests()


def test_a_loader_that_stalls_ends_the_run_with_a_reason(compute: Compute, make_job: MakeJob, reference: Any) -> None:
    job = make_job()
    outcome = compute(job, ranks=1, fault="stalled_loader", argument=4)
    assert outcome.codes == [STALLED] and not outcome.failure, outcome.log
    assert "rank 0: step 4: its rows of the token store did not come in 5 seconds" in outcome.log
    assert compute(job, ranks=1).digests() == reference.digests()


@pytest.mark.thorough
def test_a_rank_that_stalls_ends_the_run_with_a_reason(compute: Compute, make_job: MakeJob, reference: Any) -> None:
    job = make_job()
    outcome = compute(job, ranks=2, fault="stalled_rank", argument=4)
    # Whoever looks first tells it: the rank itself, its own watchdog or that of the rank that waits.
    assert set(outcome.codes) <= {STALLED, LOST_PEER} and not outcome.failure, outcome.log
    assert "rank 1: the end of step 4 did not come in 5 seconds" in outcome.log
    assert compute(job, ranks=2).digests() == reference.digests()


def test_a_clock_that_jumps_changes_nothing(compute: Compute, make_job: MakeJob, reference: Any) -> None:
    outcome = compute(make_job(), ranks=1, fault="clock_jumps", argument=1)
    assert outcome.digests() == reference.digests()
    lines = (outcome.job.parent / "measured" / "telemetry.jsonl").read_text("utf-8").splitlines()
    assert all(0 < json.loads(line)["seconds"] < 60 for line in lines)


def test_checkpoints_of_every_so_many_steps_stay(
    compute: Compute, make_job: MakeJob, reference: Any, tmp_path: Path
) -> None:
    job = make_job({"training.checkpoints": {"every": 1, "keep": 1, "keep_every": 2}})
    outcome = compute(job, ranks=2)
    folder = job.parent / "checkpoints"
    assert [checkpoint_files.step_of(path) for path in checkpoint_files.find(folder)] == [6, 4, 2]
    weights = dict(checkpoint_files.whole(folder / "step-6", checkpoint_files.verify(folder / "step-6")))
    finished = load_file(outcome.finished / "model.safetensors")
    assert list(weights) == list(checkpoint_files.read_manifest(folder / "step-6")["shapes"])
    assert all(torch.equal(weights[name], finished[name]) for name in finished)
    checkpoint_files.outlive(folder, tmp_path / "kept", 4)
    assert [path.name for path in checkpoint_files.find(tmp_path / "kept")] == ["step-4"]


def test_a_checkpoint_is_data_alone_and_retention_holds(begun: Path) -> None:
    folder = begun.parent / "checkpoints"
    for step in (4, 5):
        files = sorted(path.name for path in (folder / f"step-{step}").iterdir())
        shards = [f"rank-0000{rank}-of-00002.safetensors" for rank in range(2)]
        assert files == ["manifest.json", *shards, "steps.jsonl"]
    assert (folder / "latest").read_text("utf-8") == "step-5\n"


def test_only_files_that_hold_wanted_rows_are_opened(
    compute: Compute, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job()
    assert compute(job, ranks=8, fault="ask_to_stop", argument=2, rank=0).codes == [75] * 8
    folder, opened = job.parent / "checkpoints" / "step-2", []
    manifest, real = checkpoint_files.verify(folder), checkpoint_files.safe_open

    def safe_open(path: Path, framework: str) -> Any:
        opened.append(path.name)
        return real(path, framework=framework)

    monkeypatch.setattr(checkpoint_files, "safe_open", safe_open)
    rows = manifest["shapes"]["embedding.weight"][0]
    wanted = {"embedding.weight": shard_range(rows, 0, 4)}  # a quarter: what the first two of eight ranks wrote
    first = [row for kind, _, row, _ in checkpoint_files.pieces(folder, manifest, wanted) if kind == "value"]
    assert opened == [checkpoint_files.shard_name(rank, 8) for rank in (0, 1)]
    assert first == [0, shard_range(rows, 1, 8)[0]]


def test_below_level_topology_another_number_of_ranks_is_refused(compute: Compute, make_job: MakeJob) -> None:
    job = make_job({"level": "restart"})
    assert compute(job, ranks=2, fault="ask_to_stop", argument=3).codes == [75, 75]
    refused = compute(job, ranks=1)
    assert refused.codes == [2] and "--ranks 2" in refused.failure
    assert set(compute(job, ranks=2).codes) == {0}


def test_checkpoints_of_another_run_are_not_taken(compute: Compute, begun: Path) -> None:
    values = json.loads(begun.read_text("utf-8"))
    values["training"]["optimizer"]["lr"] = 0.02
    begun.write_text(json.dumps(values), "utf-8")
    outcome = compute(begun, ranks=1)
    assert "belongs to another run" in outcome.log and outcome.codes == [0]
