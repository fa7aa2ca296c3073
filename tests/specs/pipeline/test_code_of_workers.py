"""Processes that do a part of a stage's work refuse to do it with other code than the stage started with."""

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from data_pipeline.documents.engine import Buckets, Engine
from evaluation.completions.process_pool import spread
from specs.common.errors import UserError
from specs.pipeline.code import Code, code_of, running

OWN = code_of("dedup")
FILE = "data_pipeline/documents/engine.py"
# As a worker sees it where a file was edited after the stage had started, or another machine has another checkout.
OTHER = Code(stage=OWN.stage, paths=OWN.paths, files=OWN.files | {FILE: "0" * 64})


def split(task: int, buckets: Buckets) -> dict[int, bytes]:
    return {task % buckets.count: bytes([task])}


WORK: dict[str, Callable[[], list[Any]]] = {
    "map": lambda: sorted(Engine(workers=2).map(partial(operator.mul, 2), [1, 2, 3])),
    "exchange": lambda: Engine(workers=2, partitions=2, memory=2).exchange(split, b"".join, [0, 1, 2], 4),
    "pool": lambda: sorted(spread(partial(partial, operator.mul, 2), enumerate([1, 2, 3]), 2)),
}


# Daft leaves the pipes to its processes to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", WORK)
def test_workers_with_other_code_refuse(kind: str) -> None:
    with running(OTHER), pytest.raises(UserError, match=rf"^dedup: {FILE} in .* is not as it was when the stage"):
        WORK[kind]()
    with running(OWN):
        assert WORK[kind]()
