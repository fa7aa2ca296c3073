"""What `twice results` prints: scores, what each stage took on this machine, and where the reports lie."""

import json
from pathlib import Path
from typing import Any

from specs.common.errors import UserError
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
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if results["measured"]:
        table = Table(title="What each stage took on this machine", title_justify="left")
        for name in ("stage", "node"):
            table.add_column(name)
        for name in ("seconds", "CPU seconds", "peak MB"):
            table.add_column(name, justify="right")
        for row in sorted(results["measured"], key=lambda row: (-row["seconds"], row["node"])):
            table.add_row(
                row["stage"],
                row["node"],
                f"{row['seconds']:.1f}",
                f"{row['cpu_seconds']:.1f}",
                f"{row['peak_memory_bytes'] / 1e6:.0f}",
            )
        console.print(table)
    table = Table(title="Scores", title_justify="left")
    # A figure is one of a protocol and a temperature: neither is ever left to be guessed.
    for name in ("evaluation", "protocol", "temperature", "problems", "samples"):
        table.add_column(name)
    ks = sorted({key for score in results["scores"].values() for key in score["pass_at"]}, key=int)
    for k in ks:
        table.add_column(f"pass@{k}", justify="right")
    for name, score in results["scores"].items():
        cells = [f"{score['pass_at'][k]:.4f}" if k in score["pass_at"] else "" for k in ks]
        asked = [str(score[key]) for key in ("protocol", "temperature", "problems", "samples")]
        table.add_row(name, *asked, *cells)
    console.print(table)
    for report in results["reports"]:
        console.print(f"report: {report}")
