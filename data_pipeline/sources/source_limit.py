"""Which documents of a source stay where its spec sets a limit."""

from data_pipeline.documents.documents import Document
from specs.pipeline import stage


class SourceLimit:
    """The documents of least content hash, as many as the limit of a source says, whatever order they come in."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._keys: list[tuple[str, str]] = []
        self._last: tuple[str, str] | None = None
        self.seen = 0

    def take(self, document: Document) -> bool:
        """Whether a document may be among the chosen ones, as far as is known now."""
        self.seen += 1
        key = document.id, document.path
        if self._limit is None:
            return True
        if self._last is not None and key > self._last:
            return False
        self._keys.append(key)
        # A few more than the limit: the first of those that go are the ledger's examples.
        kept = self._limit + stage.EXAMPLES_PER_REASON
        if len(self._keys) >= 2 * kept:
            self._keys = sorted(self._keys)[:kept]
            self._last = self._keys[-1]
        return True

    def close(self, ledger: stage.Ledger, source: str) -> None:
        """Settle the choice, and tell the ledger what it leaves out."""
        if self._limit is None or self.seen <= self._limit:
            self._last = None
            return
        self._keys.sort()
        self._last = self._keys[self._limit - 1]
        over = self._keys[self._limit :][: stage.EXAMPLES_PER_REASON]
        for _, path in over:
            ledger.drop("over the limit of the source", f"{source}/{path}")
        if (more := self.seen - self._limit - len(over)) > 0:
            ledger.drop("over the limit of the source", f"{source}/{over[-1][1]}", more)

    def holds(self, document: Document) -> bool:
        """Whether a document is among the chosen ones."""
        return self._last is None or (document.id, document.path) <= self._last
