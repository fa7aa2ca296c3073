"""Two sets of scores, problem by problem: how far apart they are, and how sure that is."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from evaluation.scoring.pass_at_k import difference_interval, pass_at_k
from specs.common.errors import UserError
from specs.common.json_lines import read_lines
from specs.common.tables import print_table

ASKED = ("benchmark", "protocol", "temperature", "top_p", "samples", "problems")
"""What two scores must have in common: figures that differ here are figures of different things."""


def compare(first: Path, second: Path) -> list[dict[str, Any]]:
    """pass@k of every evaluation that both folders hold, with the difference and its 95% interval.

    The interval is a bootstrap over problems of the difference on each problem: what makes a problem hard for both
    cancels out. Raises UserError where the folders have no evaluation in common, or one that was asked otherwise.
    """
    ours, theirs = _evaluations(first), _evaluations(second)
    common = sorted({*ours} & {*theirs})
    if not common and len(ours) == len(theirs) == 1:
        # Each holds one: they are what is meant, whatever they are called.
        return _rows(*ours.values(), *theirs.values())
    if not common:
        raise UserError(
            f"{first} holds {', '.join(ours)}, {second} holds {', '.join(theirs)}: no evaluation in common; "
            "give the folders of two evaluations, or of two experiments that share one"
        )
    return [row for name in common for row in _rows(ours[name], theirs[name])]


def _evaluations(folder: Path) -> dict[str, Path]:
    """Folders that hold `scores.json`, by benchmark run: the name of the evaluation without that of its experiment."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("scores.json")):
        evaluation = path.parent.parent if path.parent.name == "scored" else path.parent
        name = evaluation.name.removeprefix(f"{evaluation.parent.name}-")
        if name in found:
            raise UserError(f"{folder}: {found[name]} and {path.parent} are both {name}; give the folder of one run")
        found[name] = path.parent
    if not found:
        raise UserError(f"{folder}: there are no scores; give a folder below which `score` has written some")
    return found


def _rows(first: Path, second: Path) -> list[dict[str, Any]]:
    results = [_read(folder) for folder in (first, second)]
    (ours, passed), (theirs, passed_there) = results
    for key in ASKED:
        if ours.get(key) != theirs.get(key):
            raise UserError(
                f"{first} and {second} cannot be compared: "
                f"{key} is {ours.get(key)!r} here and {theirs.get(key)!r} there"
            )
    if passed.keys() != passed_there.keys():
        odd = sorted(passed.keys() ^ passed_there.keys())[0]
        raise UserError(f"{first} and {second} cannot be compared: only one of them was asked {odd}")
    samples, rows = int(ours["samples"]), []
    for k in sorted(int(k) for k in ours["pass_at"].keys() & theirs["pass_at"].keys()):
        values = [[pass_at_k(samples, counts[task], k) for task in passed] for counts in (passed, passed_there)]
        differences = [a - b for a, b in zip(*values, strict=True)]
        low, high = difference_interval(differences, seed=f"{ours['benchmark']} {k} paired")
        means = [sum(side) / len(side) for side in values]
        rows.append(
            {name: ours[name] for name in ASKED}
            | {"k": k, "first": round(means[0], 6), "second": round(means[1], 6)}
            | {"difference": round(means[0] - means[1], 6), "low": round(low, 6), "high": round(high, 6)}
            | {"better": sum(d > 0 for d in differences), "worse": sum(d < 0 for d in differences)}
        )
    return rows


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The scores of a folder, and how many samples of each task passed."""
    try:
        scores = json.loads((folder / "scores.json").read_bytes())
        passed: defaultdict[str, int] = defaultdict(int)
        for _, record in read_lines(folder / "results.jsonl", "run the score stage again"):
            passed[record["task_id"]] += record["class"] == "passed"
        return scores, dict(passed)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: not what `score` writes ({error}); run the score stage again") from error


def render(rows: list[dict[str, Any]]) -> None:
    """Print the comparison as a table."""
    columns = ("k", "first", "second", "difference", "95% interval", "better on", "worse on")
    cells = [
        (
            row["benchmark"],
            row["protocol"],
            str(row["temperature"]),
            str(row["k"]),
            f"{row['first']:.4f}",
            f"{row['second']:.4f}",
            f"{row['difference']:+.4f}",
            f"{row['low']:+.4f} to {row['high']:+.4f}",
            str(row["better"]),
            str(row["worse"]),
        )
        for row in rows
    ]
    print_table(
        ("benchmark", "protocol", "temperature", *columns), cells, "First against second, paired by problem", words=3
    )
    for row in rows:
        sure = row["low"] > 0 or row["high"] < 0
        verdict = "differ" if sure else "may be equal: the interval holds 0"
        print(f"{row['benchmark']} pass@{row['k']}: the two {verdict}")
