"""What a stage was given and what it left, said to the person who runs it; a source that is lost stops the stage."""

import sys
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from specs.common.errors import UserError
from specs.pipeline.stage import Ledger

_REASONS = 3
"""Reasons of drops that are told; the ledger has them all."""


def conclude(stage: str, ledger: Ledger, sources: Iterable[str], may_be_empty: Collection[str] = ()) -> None:
    """Print `STAGE: N documents in, M out` with the first reasons, and give every source its counts in the ledger.

    A source without documents has counts of 0 there. Raises UserError where a source had documents, none is left, and
    it is not among those that `may_be_empty`.
    """
    sources = list(sources)
    known: Any = ledger.as_json()["sources"]
    for source in dict.fromkeys([*sources, *known]):
        ledger.take(source, 0, 0)
        ledger.keep(source, 0, 0)
    counts: dict[str, Any] = ledger.as_json()
    dropped = {reason: entry["documents"] for reason, entry in counts["drops"].items()}
    line = f"{stage}: {counts['documents_in']:,} documents in, {counts['documents_out']:,} out"
    if dropped:
        line += f"; {sum(dropped.values()):,} dropped: {_first(dropped)}"
    print(line, file=sys.stderr, flush=True)
    for source in sources:
        given, left = (counts["sources"][source][f"documents_{way}"] for way in ("in", "out"))
        if given and not left and source not in may_be_empty:
            own = {reason: entry["sources"].get(source, 0) for reason, entry in counts["drops"].items()}
            examples = (x for entry in counts["drops"].values() for x in entry["examples"])
            example = next((x for x in examples if x.startswith(f"{source}/")), None)
            raise UserError(
                f"source {source!r}: {stage} leaves none of its {given:,} documents: {_first(own)}"
                f"{f', such as {example}' if example else ''}; change what drops them, or write `may_be_empty: true` "
                "into the source"
            )


def _first(dropped: Mapping[str, int]) -> str:
    reasons = sorted(((-count, reason) for reason, count in dropped.items() if count))
    told = ", ".join(f"{reason} ({-count:,})" for count, reason in reasons[:_REASONS])
    more = len(reasons) - _REASONS
    return f"{told} and {more} more reason{'s' if more > 1 else ''}" if more > 0 else told
