"""What a corpus is certain to lose, known from its section alone: told before anything is fetched."""

import difflib

from data_pipeline.documents.languages import known, named
from data_pipeline.documents.licences import allowed
from specs.common.errors import UserError
from specs.schema.data import Corpus

_ROWS_STATE_LICENCES = ("jsonl", "stack-v2")
"""Formats whose rows may state a licence of their own in place of the source's."""


def require_possible(corpus: Corpus) -> None:
    """Raise UserError, one line for each fault, where a whole source would be dropped or a language exists nowhere."""
    faults = [*_languages(corpus), *_licences(corpus)]
    if faults:
        raise UserError("\n".join(f"corpus {corpus.name!r}: {fault}" for fault in faults))


def _languages(corpus: Corpus) -> list[str]:
    names = {f"ingest.languages.{number}": name for number, name in enumerate(corpus.ingest.languages)}
    names |= {f"filter.sizes.{number}.language": size.language for number, size in enumerate(corpus.filter.sizes)}
    return [
        f"{where}: no language is called {name!r}; {_meant(name)}"
        for where, name in names.items()
        if name not in known()
    ]


def _meant(name: str) -> str:
    if (own := named(name)) is not None:
        return f"it is called {own!r} here"
    close = difflib.get_close_matches(name, sorted(known()), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else "data_pipeline/documents/languages.tsv lists all"


def _licences(corpus: Corpus) -> list[str]:
    return [
        f"source {source.name!r}: its licence {source.licence} is not allowed by filter.licences "
        f"({', '.join(corpus.filter.licences)}), so that every document would be dropped; allow it, leave the source "
        "out, or write `may_be_empty: true`"
        for source in corpus.sources
        if source.licence != "NOASSERTION" and not source.may_be_empty
        if source.format not in _ROWS_STATE_LICENCES and not allowed(source.licence, corpus.filter.licences)
    ]
