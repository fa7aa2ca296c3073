"""What `twice diff` prints: text with colour, markdown for a review comment, JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import date
from typing import Any

import click

from specs.common.git import commit_of
from specs.common.tables import duration, number, short, size, table
from specs.estimates.memory import gib
from specs.pipeline.reviewed import reviewed_digest
from specs.review.compare import ends_of, pairs
from specs.review.diff import Change
from specs.review.impact import Difference, Quantity, difference
from specs.review.policy import Judgement, judge
from specs.review.price import Price, total

_SIGNS = {"added": "+", "removed": "-", "renamed": ">", "reordered": "~", "changed": "~"}
_COLOURS = {"+": "green", "-": "red", ">": "cyan", "~": "yellow"}


def as_json(review: Difference) -> dict[str, Any]:
    """Everything as plain values."""
    return asdict(review) | {"empty": review.empty}


def judged(states: Sequence[str], form: str) -> int:
    """Print the differences and what the policy says of them. Returns the exit code: 1 where a change is blocked."""
    ends = ends_of(states[0]) if len(states) == 1 else None
    parts, plain, blocked = [], [], False
    for old, new in pairs(states):
        review = difference(old, new)
        if review.empty:
            continue
        judgements = judge(review, old, new, date.today())
        blocked |= any(one.blocks for one in judgements)
        lines = (as_markdown if form == "markdown" else as_text)(review)
        parts.append("\n".join([*lines, "", *_judgements(judgements, form)]))
        plain.append(as_json(review) | {"policy": [asdict(one) for one in judgements]})
    if ends is not None:
        digest = reviewed_digest(commit_of(ends[1]))
        parts.append(f"Reviewed: TWICE_REVIEWED={digest} lets `dvc repro` run this state and no other.")
    click.echo(json.dumps(plain, indent=2, ensure_ascii=False) if form == "json" else "\n\n".join(parts))
    return 1 if blocked else 0


def _judgements(judgements: Sequence[Judgement], form: str) -> list[str]:
    """The policy's remarks: what blocks first."""
    if not judgements:
        return ["Policy: nothing to remark on"]
    lines, item = (["**Policy**", ""], "- **{}**") if form == "markdown" else (["Policy"], "  {}")
    for one in sorted(judgements, key=lambda one: not one.blocks):
        word = item.format("blocked" if one.blocks else "waived" if one.waiver else "warning")
        end = f"waived until {one.waiver.until}: {one.waiver.reason}" if one.waiver else f"ask {one.owner}"
        lines.append(f"{word} {one.rule}: {one.message}; {end}")
    return lines


def as_text(review: Difference) -> list[str]:
    """Lines for a terminal."""
    lines = [click.style(f"{review.old} -> {review.new}", bold=True)]
    if review.empty:
        note = "; the check of the lock runs again" if review.stages.checks else ""
        return [*lines, f"  no difference{note}"]
    if review.changes:
        lines += ["", "What changed"]
        for change in review.changes:
            sign = _SIGNS[change.kind]
            lines.append(f"  {click.style(sign, fg=_COLOURS[sign], bold=True)} {_sentence(change)}")
            if change.why:
                lines.append(click.style(f"      {change.why}", dim=True))
    lines += ["", "What runs again"]
    stages = review.stages
    rows = [[name, why] for name, why in stages.changed.items() if name not in stages.checks]
    rows += [[name, f"after {maker}, unless its input comes out unchanged"] for name, maker in stages.following.items()]
    lines += [click.style(line, fg="yellow") for line in table(rows)] or ["  nothing"]
    for name in stages.checks:
        lines.append(click.style(f"  {name}: a check; nothing follows from it", dim=True))
    lines.append(f"  reused: {len(stages.reused)} of {_total(review)} stages{_listed(stages.reused)}")
    if stages.gone:
        lines.append(f"  no longer there: {', '.join(stages.gone)}")
    if review.again:
        rows, unknown = _priced(review)
        lines += ["", "What running again costs", *table(rows, right=(1, 2, 3, 4, 5))]
        lines += [click.style(f"  {unknown}", dim=True)] if unknown else []
    if moved := _moved(review):
        lines += ["", "What the numbers become", *table([list(cells) for cells in moved], right=(1, 2, 3))]
    if review.changes:
        lines += ["", "Scores", *table([[run, verdict] for run, verdict in _verdicts(review)])]
        lines += [click.style(f"  note: {caveat}", fg="yellow") for caveat in review.caveats]
        lines += ["", f"Old checkpoints: {_loading(review)}"]
    return lines


def as_markdown(review: Difference) -> list[str]:
    """Lines of a comment in a review."""
    lines = [f"### `{review.old}` → `{review.new}`", ""]
    if review.empty:
        return [*lines, "No difference in values."]
    if review.changes:
        lines += ["| field | old | new | why it matters |", "|---|---|---|---|"]
        for change in review.changes:
            old, new = (_cell(_shown(value)) for value in (change.old, change.new))
            lines.append(
                f"| `{change.path}` {'' if change.kind == 'changed' else change.kind} | {old} | {new} | {change.why} |"
            )
        lines.append("")
    stages = review.stages
    changed = [f"`{name}` ({why})" for name, why in stages.changed.items() if name not in stages.checks]
    lines.append(f"**Runs again:** {', '.join(changed) or 'nothing'}.")
    if stages.following:
        names = ", ".join(f"`{name}`" for name in stages.following)
        lines.append(f"**Follows, unless inputs come out unchanged:** {names}.")
    lines.append(f"**Reused:** {len(stages.reused)} of {_total(review)} stages.")
    if stages.gone:
        lines.append(f"**No longer there:** {', '.join(f'`{name}`' for name in stages.gone)}.")
    if review.again:
        rows, unknown = _priced(review)
        lines.append("")
        if rows:
            lines += [f"| {' | '.join(rows[0])} |", "|---|--:|--:|--:|--:|--:|---|"]
            lines += [f"| {' | '.join(row)} |" for row in rows[1:]]
        lines += [f"Cost {unknown}."] if unknown else []
    if moved := _moved(review):
        lines += ["", "| | old | new | change |", "|---|--:|--:|--:|"]
        lines += [f"| {' | '.join(cells)} |" for cells in moved]
    if review.changes:
        lines += ["", "| scores | |", "|---|---|", *(f"| `{run}` | {verdict} |" for run, verdict in _verdicts(review))]
        lines += ["", *(f"> {caveat}" for caveat in review.caveats), f"**Old checkpoints:** {_loading(review)}."]
    return lines


def _priced(review: Difference) -> tuple[list[list[str]], str]:
    """Rows of a table of what running again takes, and a line for the stages of which that is not known."""
    known = [price for price in review.again if price.seconds is not None]
    unknown = [price for price in review.again if price.seconds is None]
    rows = [_price(price) for price in known]
    if len(known) > 1:
        rows.append(_price(total(known)))
    if review.spared.seconds is not None:
        rows.append(_price(replace(review.spared, stage="spared by reuse")))
    head = ["stage", "time", "device-hours", "money", "energy", "download", "how it is known"]
    reasons = " or ".join(dict.fromkeys(price.how.removeprefix("unknown: ") for price in unknown))
    line = f"not known of {_named([price.stage for price in unknown])}: {reasons}" if unknown else ""
    return [head, *rows] if rows else [], line


def _price(price: Price) -> list[str]:
    hours, money = price.device_hours, price.money
    return [
        price.stage,
        duration(price.seconds or 0),
        "" if hours is None else f"{hours:,.0f}" if hours >= 10 else f"{hours:,.2g}",
        "" if money is None else f"${money:,.0f}" if money >= 10 else f"${money:,.2f}",
        "" if price.kilowatt_hours is None else f"{price.kilowatt_hours:,.0f} kWh",
        size(price.download) if price.download else "",
        price.how,
    ]


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _sentence(change: Change) -> str:
    match change.kind:
        case "added":
            return f"{change.path}: {_shown(change.new)}"
        case "removed":
            return f"{change.path}: was {_shown(change.old)}"
        case "renamed":
            return f"{change.path}: renamed to {change.new}"
    return f"{change.path}: {_shown(change.old)} -> {_shown(change.new)}"


def _shown(value: Any) -> str:
    """A value in canonical units: 2,097,152, not 2Mi."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}" + (f" ({short(value)})" if abs(value) >= 10**6 else "")
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        parts = [f"{key}: {_shown(inner)}" for key, inner in value.items() if inner is not None]
        text = ", ".join(parts)
    else:
        text = "[" + ", ".join(_shown(item) for item in value) + "]"
    return text if len(text) <= 160 else text[:157] + "..."


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _moved(review: Difference) -> list[tuple[str, str, str, str]]:
    """Quantities that differ: name, old, new, change."""
    rows = []
    for quantity in review.quantities:
        if quantity.old == quantity.new:
            continue
        change = "" if not quantity.old or quantity.new is None else f"{quantity.new / quantity.old - 1:+.2%}"
        rows.append((quantity.name, _amount(quantity, quantity.old), _amount(quantity, quantity.new), change))
    return rows


def _amount(quantity: Quantity, value: float | None) -> str:
    if value is None:
        return "unknown"
    if quantity.unit == "bytes":
        return gib(value) if "memory" in quantity.name else size(value)
    if quantity.unit == "h":
        return duration(value * 3600) if value < 48 else f"{value:,.0f} h"
    return f"{quantity.unit}{value:,.0f}" if quantity.unit else number(value)


def _verdicts(review: Difference) -> list[tuple[str, str]]:
    words = {True: "comparable", False: "not comparable", None: "nothing to compare"}
    return [
        (score.run, words[score.comparable] + (f": {'; '.join(score.reasons)}" if score.reasons else ""))
        for score in review.scores
    ]


def _loading(review: Difference) -> str:
    loading = review.loading
    if loading.resumes:
        return "training goes on from them"
    begin = "training begins anew; their weights load" if loading.weights else "they do not load"
    return f"{begin} ({'; '.join(loading.reasons)})"


def _total(review: Difference) -> int:
    return len(review.stages.changed) + len(review.stages.following) + len(review.stages.reused)


def _listed(names: tuple[str, ...]) -> str:
    return f" ({', '.join(names)})" if 0 < len(names) <= 8 else ""
