"""Filter: documents that may be used, and that are worth learning from; secrets and personal data are taken out.

Each filter is a small function of (document, limits) that answers (kept, reason). The first that refuses decides.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import click

from data_pipeline.documents import engine as engines
from data_pipeline.documents import licences
from data_pipeline.documents.blocks import batches
from data_pipeline.documents.document_stage import pass_over
from data_pipeline.documents.documents import Document, document_id
from data_pipeline.filters.fast_accept import FAST_ACCEPT
from data_pipeline.filters.linguist import generated_by_tool, vendored
from data_pipeline.filters.quality import KEPT, QUALITY, Verdict, encoded, may_be_encoded
from data_pipeline.filters.redact import NOTHING, Suspicion, redact_document, suspicions
from data_pipeline.text.headers import body_start
from data_pipeline.text.parsers import parses
from specs.pipeline import stage
from specs.schema.data import Corpus
from specs.schema.filters import Filter

_BATCH_CHARACTERS = 16_000_000


def licence(document: Document, limits: Filter) -> Verdict:
    """The licence expression can be met with allowed licences. Permissive licences only, as in The Stack (Kocetkov et
    al., 2022). Raises UserError where an expression, or an entry of `filter.licences`, is not SPDX."""
    if licences.allowed(document.licence, limits.licences):
        return KEPT
    return False, "no known licence" if document.licence == licences.UNKNOWN else f"licence {document.licence}"


FILTERS = (licence, vendored, generated_by_tool, *QUALITY)
"""In their order; `encoded` comes last."""


def judge(document: Document, limits: Filter, may_be: Sequence[bool] = (True, True, True)) -> Verdict:
    """Verdict of all filters: the first refusal, or kept. `may_be` is what `may_be_encoded` says of the text."""
    lines = document.text.count("\n") + 1
    for check in FILTERS:
        proof = FAST_ACCEPT.get(check)
        if proof is None or not proof(document, lines, limits):
            verdict = check(document, limits)
            if not verdict[0]:
                return verdict
    verdict = encoded(document, limits, may_be) if any(may_be) else KEPT
    return KEPT if verdict[0] else verdict


def keep(documents: Iterable[Document], limits: Filter, ledger: stage.Ledger) -> Iterator[Document]:
    """Documents that every filter keeps, redacted, in the order given; what is redacted has an id of its own."""
    counts: Counter[str] = Counter({"documents": 0, "secrets": 0, "emails": 0, "addresses": 0})
    for batch in batches(documents, lambda document: len(document.text), _BATCH_CHARACTERS):
        kept = []
        for document, odd in zip(batch, may_be_encoded([document.text for document in batch]), strict=True):
            ledger.take(document.source, document.size)
            verdict, reason = judge(document, limits, odd)
            if verdict:
                kept.append(document)
            else:
                ledger.drop(reason, document.place)
        for document, suspicion in zip(kept, suspicions([document.text for document in kept]), strict=True):
            result = _redacted(document, limits, suspicion, counts)
            if limits.leave_out_headers:
                result = _without_header(result, counts)
            ledger.keep(result.source, result.size)
            yield result
    ledger.state("redacted", dict(counts))


def _redacted(document: Document, limits: Filter, suspicion: Suspicion, counts: Counter[str]) -> Document:
    if suspicion == NOTHING:
        return document
    text, own = redact_document(document, limits.redact, suspicion)
    counts.update(own)
    if text == document.text:
        return document
    counts["documents"] += 1
    return dataclasses.replace(document, text=text, id=document_id(text))


def _without_header(document: Document, counts: Counter[str]) -> Document:
    """The document without its header; whole where a program would not parse any more, or the first line is markup."""
    start = 0 if document.language == "conversation" else body_start(document.text)
    # `<?php`, `<?xml` and `<!doctype` are no comments.
    if not start or document.text.lstrip().startswith(("<?", "<!d", "<!D")):
        return document
    body = document.text[start:]
    if parses(document.language, body) is False and parses(document.language, document.text):
        counts["headers left alone, because the program would not parse"] += 1
        return document
    counts["headers"] += 1
    return dataclasses.replace(document, text=body, id=document_id(body))


@click.command(epilog="Example: python -m data_pipeline.filter corpora.smoke-code --documents ingested --out filtered")
@click.argument("node")
@click.option("--documents", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of ingest.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for what is kept.")
@stage.command
@engines.options
def main(node: str, documents: Path, out: Path, engine: engines.Engine) -> None:
    """Keep the documents that pass every filter."""
    corpus = stage.node(node, Corpus)
    pass_over("filter", node, corpus, documents, out, lambda given, ledger: keep(given, corpus.filter, ledger), engine)


if __name__ == "__main__":
    main()
