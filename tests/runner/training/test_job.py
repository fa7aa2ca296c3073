"""What a job is told: which runs are the same, how many ranks may compute one, which steps it has."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.training.job import Job, parse_steps, require_ranks
from specs.common.errors import UserError


def read(job: Path) -> Job:
    return Job.model_validate_json(job.read_bytes())


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": {"token_store": "1" * 64}},
        {"training.optimizer.lr": 0.02},
        {"training.seed": 8},
        {"architecture.d_ff": 36},
        {"vocab_size": 131},
        {"steps": 7},
        {"threads": 2},
        {"level": "portable"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_decides_a_bit_makes_another_run(change: dict[str, Any], make_job: Callable[..., Path]) -> None:
    assert read(make_job(change)).identity != read(make_job()).identity


@pytest.mark.parametrize("change", [{"name": "other"}, {"trace": [2, 3]}, {"until": 3}, {"launch": {"hosts": "a"}}])
def test_what_decides_none_makes_the_same_run(change: dict[str, Any], make_job: Callable[..., Path]) -> None:
    assert read(make_job(change)).identity == read(make_job()).identity


def test_there_is_a_micro_batch_for_every_rank(make_job: Callable[..., Path]) -> None:
    training = read(make_job({"training.micro_batches": 5})).training
    for ranks in range(1, 6):
        require_ranks(training, ranks)
    for ranks in (0, 6):
        with pytest.raises(UserError, match=f"{ranks} ranks for 5 micro-batches: give any number from 1 to 5"):
            require_ranks(training, ranks)


def test_steps_that_a_run_has_not_are_refused() -> None:
    assert [parse_steps(text, 6, "--steps") for text in ("1:6", "6:6", "2:", ":4")] == [(1, 6), (6, 6), (2, 6), (1, 4)]
    for text in ("0:3", "3:7", "4:3", "7:"):
        with pytest.raises(UserError, match="the run has steps 1 to 6"):
            parse_steps(text, 6, "--steps")
