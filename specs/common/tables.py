"""Plain text for people: aligned tables, bars, and numbers with their units."""

from collections.abc import Iterable, Sequence

_FULL, _PARTS = "█", " ▏▎▍▌▋▊▉"


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = (), indent: str = "  ") -> list[str]:
    """Lines of a table whose columns are aligned; `right` names the columns that end flush. Rows may be shorter."""
    columns = max((len(row) for row in rows), default=0)
    widths = [max((len(row[i]) for row in rows if i < len(row) - 1 or i in right), default=0) for i in range(columns)]
    lines = []
    for row in rows:
        cells = [cell.rjust(widths[i]) if i in right else cell.ljust(widths[i]) for i, cell in enumerate(row)]
        lines.append((indent + "  ".join(cells)).rstrip())
    return lines


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None, *, words: int = 1
) -> None:
    """Print a table on standard output; the first `words` columns hold words, the others figures.

    On a narrow terminal a name or a number goes on below itself: nothing is cut.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    ruled = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, 0, 0, 1))
    for number, name in enumerate(columns):
        ruled.add_column(name, justify="left" if number < words else "right", overflow="fold")
    for row in rows:
        ruled.add_row(*row)
    Console(highlight=False).print(ruled)


def printable(text: str) -> str:
    """Text of others for a terminal: what is no printable character is told by its escape, as `\\x1b`."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def bar(share: float, width: int = 30) -> str:
    """A bar that is `share` of `width` long, to an eighth of a character; never longer than `width`."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    return _FULL * (eighths // 8) + (_PARTS[eighths % 8] if eighths % 8 else "")


def number(value: float | str | None) -> str:
    """A number as people read it: thousands apart, large ones with their power of ten, small ones to three digits."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, int) or float(value).is_integer():
        text = f"{int(value):,}"
        return text if len(text) <= 24 else f"{text} ({value:.3e})"
    if abs(value) >= 1e15:
        return f"{value:.4g}"
    return f"{value:,.3f}" if abs(value) >= 1 else f"{value:.3g}"


def short(value: float) -> str:
    """A large number in four digits: 34.00B, 2.10M."""
    for factor, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.4g}{suffix}"
    return number(value)


def size(value: float) -> str:
    """Bytes in decimal units, as disks are sold."""
    for factor, suffix in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= factor:
            return f"{value / factor:,.4g} {suffix}"
    return f"{value:,.0f} B"


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for factor, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * factor:
            return f"{seconds / factor:,.1f} {unit}"
    return f"{seconds:,.2f} s"
