"""Two runs are compared problem by problem, and only where they were asked the same."""

import json
import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from evaluation.scoring.paired import compare
from evaluation.scoring.pass_at_k import interval
from runner.cli import main
from specs.common.errors import UserError

SAMPLES = 4


def write(folder: Path, passed: dict[str, int], **asked: object) -> Path:
    """What `score` leaves for so many passes of each task."""
    folder.mkdir(parents=True)
    scores = {
        "benchmark": "mine",
        "protocol": "completion-v1",
        "temperature": 0.8,
        "top_p": 0.95,
        "samples": SAMPLES,
        "problems": len(passed),
        "pass_at": {"1": 0.0, "2": 0.0},
    }
    (folder / "scores.json").write_text(json.dumps(scores | asked), "utf-8")
    lines = [
        json.dumps({"task_id": task, "sample": sample, "class": "passed" if sample < count else "wrong", "message": ""})
        for task, count in passed.items()
        for sample in range(SAMPLES)
    ]
    (folder / "results.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return folder


def passes(seed: int, count: int = 60) -> dict[str, int]:
    numbers = random.Random(seed)
    return {f"T/{n}": numbers.randrange(SAMPLES + 1) for n in range(count)}


def test_a_run_is_equal_to_itself_and_surely_worse_than_one_that_is_a_little_better_everywhere(tmp_path: Path) -> None:
    ours = passes(1)
    better = {task: min(SAMPLES, count + (n % 3 == 0)) for n, (task, count) in enumerate(ours.items())}
    write(tmp_path / "a", ours), write(tmp_path / "b", better)
    same = compare(tmp_path / "a", tmp_path / "a")
    # No difference was seen on 60 problems: it may be as large as what is missed on 60 with a chance of 0.025.
    unseen = round(1 - 0.025 ** (1 / 60), 6)
    assert [(row["k"], row["difference"], row["low"], row["high"]) for row in same] == [
        (1, 0, -unseen, unseen),
        (2, 0, -unseen, unseen),
    ]
    first = compare(tmp_path / "a", tmp_path / "b")[0]
    gained = sum(better[task] - ours[task] for task in ours)
    assert first["difference"] == pytest.approx(-gained / (SAMPLES * len(ours)), abs=1e-6)
    assert first["low"] <= first["difference"] <= first["high"] < 0
    assert (first["better"], first["worse"]) == (0, gained)
    # Without pairing the same two figures could not be told apart.
    alone = [interval([count / SAMPLES for count in run.values()], "x") for run in (ours, better)]
    assert alone[0][1] > alone[1][0]
    turned = compare(tmp_path / "b", tmp_path / "a")[0]
    assert turned["difference"] == -first["difference"]


def test_interval_covers_the_true_difference_about_as_often_as_it_says(tmp_path: Path) -> None:
    covered = 0
    for seed in range(60):
        a, b = passes(seed * 2), passes(seed * 2 + 1)
        write(tmp_path / f"{seed}a", a), write(tmp_path / f"{seed}b", b)
        row = compare(tmp_path / f"{seed}a", tmp_path / f"{seed}b")[0]
        covered += row["low"] <= 0 <= row["high"]
    assert covered >= 52


@pytest.mark.parametrize(
    "change", [{"temperature": 0.2}, {"protocol": "chat-v1"}, {"samples": 5}, {"benchmark": "other"}, {"top_p": 1.0}]
)
def test_what_was_asked_otherwise_is_not_compared(change: dict[str, object], tmp_path: Path) -> None:
    write(tmp_path / "a", passes(1)), write(tmp_path / "b", passes(2), **change)
    with pytest.raises(UserError, match=f"cannot be compared: {next(iter(change))} is"):
        compare(tmp_path / "a", tmp_path / "b")


def test_evaluations_are_found_by_the_name_of_their_benchmark_run(tmp_path: Path) -> None:
    for run, seed in (("smoke", 1), ("other", 2)):
        # One of the two benchmarks on which the runs are far apart, and one on which they are alike.
        far = {task: count // seed for task, count in passes(1).items()}
        write(tmp_path / run / f"{run}-humaneval" / "scored", far)
        write(tmp_path / run / f"{run}-basics" / "scored", passes(seed + 5), benchmark="basics")
    rows = compare(tmp_path / "smoke", tmp_path / "other")
    assert [(row["benchmark"], row["k"]) for row in rows] == [("basics", 1), ("basics", 2), ("mine", 1), ("mine", 2)]
    result = CliRunner().invoke(main, ["results", str(tmp_path / "smoke"), "--against", str(tmp_path / "other")])
    assert result.exit_code == 0, result.output
    for row, line in zip(rows, result.output.splitlines()[-len(rows) :], strict=True):
        sure = row["low"] > 0 or row["high"] < 0
        verdict = "differ" if sure else "may be equal: the interval holds 0"
        assert line == f"{row['benchmark']} pass@{row['k']}: the two {verdict}"
    assert {row["low"] > 0 or row["high"] < 0 for row in rows} == {True, False}, "both answers are told"
    form = ["results", str(tmp_path / "smoke"), "--against", str(tmp_path / "other"), "--format", "json"]
    assert json.loads(CliRunner().invoke(main, form).output) == rows


def test_bad_input_is_one_clear_line(tmp_path: Path) -> None:
    write(tmp_path / "a" / "a-x" / "scored", passes(1)), write(tmp_path / "b" / "b-y" / "scored", passes(2, 59))
    with pytest.raises(UserError, match="problems is 60 here and 59 there"):
        compare(tmp_path / "a", tmp_path / "b")
    with pytest.raises(UserError, match="are both"):
        (
            write(tmp_path / "c" / "1" / "1-x" / "scored", passes(1)),
            write(tmp_path / "c" / "2" / "2-x" / "scored", passes(1)),
        )
        compare(tmp_path / "c", tmp_path / "a")
    write(tmp_path / "b" / "b-z" / "scored", passes(2))
    with pytest.raises(UserError, match="no evaluation in common"):
        compare(tmp_path / "a", tmp_path / "b")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="there are no scores"):
        compare(tmp_path / "a", tmp_path / "empty")
    other = dict(reversed(passes(1).items())) | {"T/new": 1}
    del other["T/0"]
    write(tmp_path / "d", other)
    with pytest.raises(UserError, match="only one of them was asked T/0"):
        compare(tmp_path / "a", tmp_path / "d")
    (tmp_path / "d" / "results.jsonl").write_text("{}", "utf-8")
    with pytest.raises(UserError, match="not what `score` writes"):
        compare(tmp_path / "a", tmp_path / "d")
