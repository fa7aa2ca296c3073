"""Results beside peers as a table in a page, and as a plot beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.peers import OURS, Found, shown
from specs.common.errors import UserError
from specs.common.files import replacing, write_bytes

BEGIN, END = "<!-- peers -->", "<!-- end of peers -->"
PLOT = "performance-peers.svg"


def rows(results: Mapping[str, Any], found: Mapping[str, Sequence[Found]]) -> list[str]:
    """A Markdown table: a line for each peer of each piece of work."""
    lines = ["| work | who | a second | twice is | limit in the same run | date |", "|---|---|--:|--:|---|---|"]
    for name, pieces in found.items():
        for piece in pieces:
            own = median(piece.rates[OURS])
            limit = f"{own / piece.limit[1]:.1%} of {piece.limit[0]}" if piece.limit else ""
            lines.append(
                f"| {piece.what} | **twice** | {shown(own)} {piece.unit} | | {limit} | {results[name]['date']} |"
            )
            for peer in piece.rates:
                if peer != OURS:
                    note = f" ({piece.notes[peer]})" if peer in piece.notes else ""
                    rate = f"{shown(median(piece.rates[peer]))} {piece.unit}"
                    lines.append(f"| | {peer}{note} | {rate} | {piece.ratio(peer):.2f}x | | |")
    return lines


def plot(found: Mapping[str, Sequence[Found]], path: Path) -> None:
    """How many times as fast as each peer, on a logarithmic axis, as an SVG that equal results give byte by byte."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    bars = [
        (f"{piece.what}: {peer}", piece.ratio(peer))
        for pieces in found.values()
        for piece in pieces
        for peer in piece.rates
        if peer != OURS
    ]
    with mpl.rc_context({"svg.hashsalt": "peers", "font.size": 9}):
        figure = Figure(figsize=(11, 0.8 + 0.32 * len(bars)))
        axes = figure.add_subplot()
        names, ratios = [name for name, _ in bars][::-1], [ratio for _, ratio in bars][::-1]
        axes.barh(names, [ratio - 1 for ratio in ratios], left=1, color=["#2a6" if r >= 1 else "#c54" for r in ratios])
        axes.set_xscale("log")
        axes.axvline(1, color="black", linewidth=0.8)
        for place, value in enumerate(ratios):
            side = "left" if value >= 1 else "right"
            axes.annotate(f" {value:.2f}x ", (value, place), va="center", ha=side, fontsize=8)
        axes.margins(x=0.2)
        axes.set_xlabel("multiples of the peer's speed in the same run")
        figure.tight_layout()
        with replacing(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})


def write_into(page: Path, results: Mapping[str, Any], found: Mapping[str, Sequence[Found]]) -> None:
    """Write table and plot. Raises UserError where the page lacks the markers."""
    text = page.read_text("utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{page}: has no {BEGIN} ... {END} to write between; add both lines")
    plot(found, page.with_name(PLOT))
    told = "\n".join(["", *rows(results, found), "", f"![Speed beside peers]({PLOT})", ""])
    write_bytes(page, f"{before}{BEGIN}\n{told}\n{END}{after}".encode())
