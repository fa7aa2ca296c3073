"""Memory of a device against the number of devices, as one SVG, or an HTML page that holds it."""

from collections.abc import Sequence
from html import escape

from specs.estimates.memory import gib
from specs.estimates.plan import Plan

_WIDTH, _HEIGHT = 760, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 150, 50, 60
# Told apart by people with any colour vision (Okabe and Ito, 2008), and by the shape of their marks.
_STYLES = {"zero2": ("#0072B2", "circle"), "mixed": ("#E69F00", "square"), "zero3": ("#009E73", "diamond")}


def svg(title: str, plans: Sequence[Plan], usable: int | None) -> str:
    """The picture: one line for each kind of sharding, the device's memory as a dashed line."""
    counts = sorted({each.devices for each in plans})
    top = max([usable or 0, *(each.memory.needed for each in plans)]) * 1.08
    step = (_WIDTH - _LEFT - _RIGHT) / max(len(counts) - 1, 1)

    def x(devices: int) -> float:
        return _LEFT + counts.index(devices) * step

    def y(size: float) -> float:
        return _HEIGHT - _BOTTOM - size / top * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        'font-family="system-ui, sans-serif" font-size="13">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="28" font-size="16" font-weight="600">{escape(title)}</text>',
    ]
    for tick in _ticks(top):
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#e5e5e5"/>'
        )
        parts.append(f'<text x="{_LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick / 2**30:g}</text>')
    for count in counts:
        parts.append(f'<text x="{x(count):.1f}" y="{_HEIGHT - _BOTTOM + 20}" text-anchor="middle">{count}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 14}" text-anchor="middle">devices</text>')
    turned = f'transform="rotate(-90 16 {_HEIGHT / 2})" text-anchor="middle"'
    parts.append(f'<text x="16" y="{_HEIGHT / 2}" {turned}>GiB a device</text>')
    if usable is not None:
        line = f'x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(usable):.1f}" y2="{y(usable):.1f}"'
        parts.append(f'<line {line} stroke="#D55E00" stroke-dasharray="6 4" stroke-width="2"/>')
        parts.append(
            f'<text x="{_WIDTH - _RIGHT + 8}" y="{y(usable) + 4:.1f}" fill="#D55E00">{gib(usable)} usable</text>'
        )
    for index, (kind, (colour, mark)) in enumerate(_STYLES.items()):
        chosen = sorted((each for each in plans if each.sharding == kind), key=lambda each: each.devices)
        if not chosen:
            continue
        points = " ".join(f"{x(each.devices):.1f},{y(each.memory.needed):.1f}" for each in chosen)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for each in chosen:
            verdict = "fits" if each.fits else "does not fit"
            note = f"{each.label}, {each.devices} devices: {gib(each.memory.needed)}, {verdict}"
            parts.append(_mark(mark, x(each.devices), y(each.memory.needed), colour, each.fits, note))
        row = _TOP + 12 + 22 * index
        parts.append(_mark(mark, _WIDTH - _RIGHT + 16, row, colour, True, kind))
        parts.append(f'<text x="{_WIDTH - _RIGHT + 30}" y="{row + 4}">{kind}</text>')
    note = "hollow: does not fit"
    parts.append(f'<text x="{_WIDTH - _RIGHT + 8}" y="{_TOP + 84}" font-size="11" fill="#555">{note}</text>')
    return "\n".join([*parts, "</svg>", ""])


def html(title: str, plans: Sequence[Plan], usable: int | None, text: Sequence[str]) -> str:
    """A page with the picture and the plan's text below it; nothing is loaded from elsewhere."""
    body = escape("\n".join(text))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        "<style>body{font-family:system-ui,sans-serif;max-width:70rem;margin:2rem auto}"
        "pre{font-size:.85rem;overflow-x:auto}</style></head>\n"
        f"<body>\n{svg(title, plans, usable)}<pre>{body}</pre>\n</body></html>\n"
    )


def _mark(kind: str, x: float, y: float, colour: str, filled: bool, note: str) -> str:
    fill = colour if filled else "white"
    style = f'fill="{fill}" stroke="{colour}" stroke-width="2"'
    tip = f"<title>{escape(note)}</title>"
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" {style}>{tip}</circle>'
    if kind == "square":
        return f'<rect x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9" {style}>{tip}</rect>'
    points = f"{x:.1f},{y - 6:.1f} {x + 6:.1f},{y:.1f} {x:.1f},{y + 6:.1f} {x - 6:.1f},{y:.1f}"
    return f'<polygon points="{points}" {style}>{tip}</polygon>'


def _ticks(top: float) -> list[float]:
    gibibytes = top / 2**30
    step = next(s for s in (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1e9) if gibibytes / s <= 9)
    return [n * step * 2**30 for n in range(int(gibibytes / step) + 1)]
