"""What is promised against a power cut: bytes are flushed before a name says that they are there, and the name after.

A file system may keep names and bytes in any order until they are flushed; only the order of calls can be tested here.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Calls = list[list[str]]


@pytest.fixture(scope="module")
def recorded(
    tmp_path_factory: pytest.TempPathFactory, compute: Callable[..., Any], make_job: Callable[..., Path]
) -> tuple[Path, Calls]:
    """Folder of a run on two ranks, and what they flushed and renamed, in order."""
    job, log = make_job(), tmp_path_factory.mktemp("calls") / "calls.jsonl"
    compute(job, ranks=2, fault="record_order", argument=str(log)).digests()
    return job.parent, [json.loads(line) for line in log.read_text("utf-8").splitlines()]


def test_a_checkpoint_is_flushed_before_it_has_its_name_and_its_name_before_anything_points_to_it(
    recorded: tuple[Path, Calls],
) -> None:
    folder, calls = recorded
    checkpoints = folder / "checkpoints"
    for step in (2, 4, 6):
        temporary, final = f"{checkpoints}/step-{step}.tmp", f"{checkpoints}/step-{step}"
        named = calls.index(["rename", temporary, final])
        flushed = [path for name, path, *_ in calls[:named] if name == "fsync"]
        shards = [f"rank-0000{rank}-of-00002.safetensors" for rank in range(2)]
        files = [f"{temporary}/{name}" for name in ("manifest.json", "steps.jsonl", *shards)]
        assert set(files) | {temporary} <= set(flushed)
        # The manifest has its name before the folder is flushed for the last time.
        last = max(i for i, call in enumerate(calls[:named]) if call == ["fsync", temporary])
        assert any(call[0] == "replace" and call[2] == files[0] for call in calls[:last])
        pointed = next(
            i for i in range(named, len(calls)) if calls[i][0] == "replace" and calls[i][2].endswith("latest")
        )
        assert ["fsync", str(checkpoints)] in calls[named:pointed]
        assert ["fsync", calls[pointed][1]] in calls[named:pointed], "what points to it is flushed too"
        assert ["fsync", str(checkpoints)] in calls[pointed:]


def test_a_finished_run_is_flushed_before_it_has_its_name(recorded: tuple[Path, Calls]) -> None:
    folder, calls = recorded
    named = next(i for i, call in enumerate(calls) if call[0] == "rename" and call[2] == str(folder / "finished"))
    temporary = calls[named][1]
    for name in ("model.safetensors", "steps.jsonl", "record.json"):
        assert ["fsync", f"{temporary}/{name}"] in calls[:named]
    assert ["fsync", temporary] in calls[:named] and ["fsync", str(folder)] in calls[named:]
