"""What `twice results` prints: scores, what each stage took on this machine, and where the reports lie."""

import json
from pathlib import Path
from typing import Any

from specs.common.errors import UserError
from specs.common.tables import print_table
from specs.loading.settings import load_settings


def read_results(folder: Path) -> dict[str, Any]:
    """Scores and reports below `folder`, and this machine's measurements.

    Raises UserError where there are no scores yet.
    """
    scores = {
        path.parent.parent.name: json.loads(path.read_text("utf-8")) for path in sorted(folder.rglob("scores.json"))
    }
    if not scores:
        raise UserError(f"{folder}: there are no scores yet; run `dvc repro`")
    measured = sorted(load_settings().folder("measured").glob("*.json"))
    return {
        "scores": scores,
        "measured": [json.loads(path.read_text("utf-8")) for path in measured],
        "reports": [str(path) for path in sorted(folder.rglob("report.html"))],
    }


def render_results(results: dict[str, Any]) -> None:
    """Print results as tables."""
    if results["measured"]:
        longest_first = sorted(results["measured"], key=lambda row: (-row["seconds"], row["node"]))
        rows = [
            (
                row["stage"],
                row["node"],
                f"{row['seconds']:.1f}",
                f"{row['cpu_seconds']:.1f}",
                f"{row['peak_memory_bytes'] / 1e6:.0f}",
            )
            for row in longest_first
        ]
        columns = ("stage", "node", "seconds", "CPU seconds", "peak MB")
        print_table(columns, rows, "What each stage took on this machine", words=2)
    ks = sorted({key for score in results["scores"].values() for key in score["pass_at"]}, key=int)
    # A figure is one of a protocol and a temperature: neither is ever left to be guessed.
    facts = ("protocol", "temperature", "problems", "samples")
    scores = [
        (
            name,
            *(str(score[fact]) for fact in facts),
            *(f"{score['pass_at'][k]:.4f}" if k in score["pass_at"] else "" for k in ks),
        )
        for name, score in results["scores"].items()
    ]
    print_table(("evaluation", *facts, *(f"pass@{k}" for k in ks)), scores, "Scores", words=5)
    for report in results["reports"]:
        print(f"report: {report}")
