"""A benchmark file is the one that the spec pins, and holds what a protocol shows."""

import json
from pathlib import Path

import pytest

from data_pipeline.problems import content_sha256
from evaluation.completions.completions import load_problems, load_shots
from specs.common.errors import UserError
from specs.common.files import sha256_file
from specs.schema.data import Benchmark


def write(folder: Path, *numbers: int) -> Benchmark:
    """A benchmark of these numbers, and its file."""
    path = folder / "problems.jsonl"
    record = {"text": "Say so.", "code": "def f():\n    return 1", "test_list": ["assert f()"]}
    path.write_text("".join(json.dumps(record | {"task_id": number}) + "\n" for number in numbers), "utf-8")
    return Benchmark.model_validate(
        {
            "name": "mine",
            "problem_schema": "mbpp",
            "licence": "MIT",
            "source": {"locator": {"kind": "file", "path": path.name}, "sha256": sha256_file(path)},
            "first_id": 11,
        }
    )


def test_examples_are_shown_from_outside_the_range_that_counts(tmp_path: Path) -> None:
    benchmark = write(tmp_path, 12, 4, 2, 11, 3)
    assert [problem.number for problem in load_problems(benchmark, tmp_path)] == [11, 12]
    assert [problem.number for problem in load_shots(benchmark, tmp_path, (2, 3, 4))] == [2, 3, 4]
    assert load_shots(benchmark, tmp_path / "nowhere", ()) == []
    with pytest.raises(UserError, match="the protocol shows problem 5, which the file does not hold"):
        load_shots(benchmark, tmp_path, (2, 5))


def test_a_missing_or_changed_file_is_one_clear_line(tmp_path: Path) -> None:
    benchmark = write(tmp_path, 11, 12)
    with pytest.raises(UserError, match=r"there is no such benchmark file; run the fetch stage"):
        load_problems(benchmark, tmp_path / "nowhere")
    write(tmp_path, 11, 13)
    with pytest.raises(
        UserError, match=r"the file has changed since it was fetched; remove it and run the fetch stage"
    ):
        load_problems(benchmark, tmp_path)


def test_the_content_may_be_held_to_a_digest(tmp_path: Path) -> None:
    benchmark = write(tmp_path, 11, 12)
    content = content_sha256(load_problems(benchmark, tmp_path))
    assert load_problems(benchmark.model_copy(update={"content_sha256": content}), tmp_path)
    with pytest.raises(UserError, match=f"have the digest {content}, the spec pins content_sha256 0000"):
        load_problems(benchmark.model_copy(update={"content_sha256": "0" * 64}), tmp_path)
