"""Figures of reports and plans as inline SVG, the same bytes for the same numbers."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

# Text stays text, in the reader's own font; ids do not come from a random salt.
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "twice",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e5e7eb",
    "axes.edgecolor": "#9ca3af",
    "axes.axisbelow": True,
}
_BLUE, _ORANGE, _GREEN, _GREY = "#2563eb", "#d97706", "#059669", "#9ca3af"
_DROPPED = "#e5e7eb"
_CLASS_COLOURS = {
    "passed": _GREEN,
    "wrong": _BLUE,
    "crashed": _ORANGE,
    "timeout": "#7c3aed",
    "memory": "#db2777",
    "extraction": "#64748b",
    "blocked": "#dc2626",
}
# Told apart with any colour vision (Okabe and Ito, 2008), and by their marks.
_SHARDING = {"zero2": ("#0072B2", "o"), "mixed": ("#E69F00", "s"), "zero3": ("#009E73", "D")}


def loss_curve(steps: Sequence[dict[str, Any]], title: str) -> str:
    """Training loss, held-out loss and learning rate over steps."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(7.2, 3.2))
        axes.plot([row["step"] for row in steps], [row["loss"] for row in steps], color=_BLUE, lw=1.2, label="training")
        held_out = [row for row in steps if row.get("held_out_loss") is not None]
        if held_out:
            axes.plot(
                [row["step"] for row in held_out],
                [row["held_out_loss"] for row in held_out],
                color=_ORANGE,
                marker="o",
                ms=4,
                lw=1,
                label="held out",
            )
        axes.set(xlabel="step", ylabel="loss (nats per token)", title=title)
        rates = axes.twinx()
        rates.plot(
            [row["step"] for row in steps],
            [row["lr"] for row in steps],
            color=_GREY,
            lw=1,
            ls=":",
            label="learning rate",
        )
        rates.set_ylabel("learning rate", color=_GREY)
        rates.set_ylim(bottom=0)
        rates.grid(visible=False)
        rates.tick_params(colors=_GREY)
        lines = axes.get_lines() + rates.get_lines()
        axes.legend(lines, [str(line.get_label()) for line in lines], frameon=False)
        return _svg(figure)


def funnel(stages: Sequence[tuple[str, int, int, int]]) -> str:
    """What each stage was given and what it left, from (stage, documents left, bytes given, bytes left)."""
    with plt.rc_context(_STYLE | {"axes.grid": False}):
        figure, axes = plt.subplots(figsize=(7.2, 0.42 * len(stages) + 0.7))
        names = [name for name, *_ in stages]
        given, left = ([sizes[end] / 1e6 for _, _, *sizes in stages] for end in (0, 1))
        # Behind what is left, as far as it reaches beyond: what this stage dropped.
        axes.barh(names, given, color=_DROPPED, height=0.62)
        axes.barh(names, left, color=_BLUE, height=0.62)
        for row, (_, count, *_) in enumerate(stages):
            label = f"{left[row]:,.1f} MB, {count:,} documents"
            axes.annotate(label, (max(given[row], left[row]), row), (3, 0), textcoords="offset points", va="center")
        axes.invert_yaxis()
        axes.set_xlim(0, max(given + left, default=0) * 1.45 or 1)
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(length=0)
        return _svg(figure)


def verdicts(classes: dict[str, dict[str, int]]) -> str:
    """Share of completions by verdict, one bar for each evaluation: evaluation -> verdict -> count."""
    with plt.rc_context(_STYLE | {"axes.grid": False}):
        figure, axes = plt.subplots(figsize=(7.2, 0.5 * len(classes) + 1.0))
        names = list(classes)
        left = [0.0] * len(names)
        present = [c for c in _CLASS_COLOURS if any(counts.get(c) for counts in classes.values())]
        for verdict in present:
            shares = [100 * classes[name].get(verdict, 0) / max(1, sum(classes[name].values())) for name in names]
            axes.barh(names, shares, left=left, color=_CLASS_COLOURS[verdict], height=0.6, label=verdict)
            left = [before + share for before, share in zip(left, shares, strict=True)]
        axes.invert_yaxis()
        axes.set(xlim=(0, 100), xlabel="% of completions")
        axes.tick_params(axis="y", length=0)
        axes.legend(ncols=len(present) or 1, frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
        return _svg(figure)


def memory(needs: Sequence[tuple[str, int, float, bool]], usable: int | None, title: str) -> str:
    """Memory of a device against the number of devices, a line for each kind of sharding; hollow: it does not fit.

    needs: (sharding, devices, bytes, whether it fits); usable: bytes of a device that can be used, a dashed line.
    """
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(7.2, 4.2))
        counts = sorted({devices for _, devices, *_ in needs})
        for sharding, (colour, marker) in _SHARDING.items():
            points = sorted((counts.index(n), need / 2**30, fits) for kind, n, need, fits in needs if kind == sharding)
            axes.plot([x for x, *_ in points], [y for _, y, _ in points], color=colour, marker=marker, label=sharding)
            misfits = [(x, y) for x, y, fits in points if not fits]
            axes.plot([x for x, _ in misfits], [y for _, y in misfits], marker, mfc="white", mec=colour)
        if usable is not None:
            axes.axhline(usable / 2**30, color="#D55E00", ls="--", label=f"{usable / 2**30:.1f} GiB usable")
        axes.set_xticks(range(len(counts)), [str(count) for count in counts])
        axes.set(xlabel="devices (hollow: does not fit)", ylabel="GiB a device", title=title)
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
        return _svg(figure)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
