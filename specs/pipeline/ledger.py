"""What a stage was given, what it passed on, and why it dropped the rest, counted."""

from typing import Any

EXAMPLES_PER_REASON = 5
FACTS_IN_A_LIST = 1_000


class Ledger:
    """What a stage was given, what it passed on, and why it dropped the rest. Holds nothing that varies by run."""

    def __init__(self) -> None:
        self._sources: dict[str, dict[str, int]] = {}
        self._drops: dict[str, dict[str, Any]] = {}
        self._facts: dict[str, object] = {}

    def take(self, source: str, size: int, documents: int = 1) -> None:
        """Count what came in: documents and bytes of text."""
        self._add(source, "in", documents, size)

    def keep(self, source: str, size: int, documents: int = 1) -> None:
        """Count what goes out."""
        self._add(source, "out", documents, size)

    def count(self, source: str, name: str, amount: int) -> None:
        """Count something else of a source, such as tokens."""
        counts = self._sources.setdefault(source, {})
        counts[name] = counts.get(name, 0) + amount

    def drop(self, reason: str, example: str, documents: int = 1) -> None:
        """Count a drop; the first few examples of each reason are kept. An example begins with its source and a `/`."""
        self._drop(reason, documents, {example.partition("/")[0]: documents}, [example])

    def _drop(self, reason: str, documents: int, sources: dict[str, int], examples: list[str]) -> None:
        entry = self._drops.setdefault(reason, {"documents": 0, "sources": {}, "examples": []})
        entry["documents"] += documents
        entry["sources"] = _joined(entry["sources"], sources)
        entry["examples"] = (entry["examples"] + examples)[:EXAMPLES_PER_REASON]

    def state(self, name: str, value: object) -> None:
        """Record another fact of the result, as JSON."""
        self._facts[name] = value

    def merge(self, other: dict[str, Any]) -> None:
        """Add what another ledger says `as_json`, of documents that come after those of this one.

        Counts are added, examples kept up to their number. Of facts, numbers are added, lists are joined up to the
        length of `FACTS_IN_A_LIST`, mappings are merged in the same way.
        """
        for source, counts in other["sources"].items():
            own = self._sources.setdefault(source, {})
            for key, amount in counts.items():
                own[key] = own.get(key, 0) + amount
        for reason, entry in other["drops"].items():
            self._drop(reason, entry["documents"], entry["sources"], entry["examples"])
        self._facts = _joined(self._facts, other["facts"])

    def as_json(self) -> dict[str, object]:
        """The ledger as written to `ledger.json`."""
        totals = {
            key: sum(counts.get(key, 0) for counts in self._sources.values())
            for key in ("documents_in", "documents_out", "bytes_in", "bytes_out")
        }
        return {**totals, "sources": self._sources, "drops": self._drops, "facts": self._facts}

    def _add(self, source: str, direction: str, documents: int, size: int) -> None:
        self.count(source, f"documents_{direction}", documents)
        self.count(source, f"bytes_{direction}", size)


def _joined(one: Any, other: Any) -> Any:
    if isinstance(one, dict):
        return {
            key: _joined(one[key], other[key]) if key in one and key in other else one.get(key, other.get(key))
            for key in one | other
        }
    if isinstance(one, list):
        return (one + other)[:FACTS_IN_A_LIST]
    return one + other
