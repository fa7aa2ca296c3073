"""Augment: a share of the documents of code is rewritten in ways that keep its meaning, each proven.

Which documents, and how, follows from (document id, transform, seed) alone. A rewritten document takes the place of the
original; what cannot be proven is left as it was, and counted. Last, a share of all documents but conversations is
marked to be written with its middle last (`data_pipeline.packing.fill_in_the_middle`).
"""

import dataclasses
import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from data_pipeline.augmentations import tree_sitter_layout
from data_pipeline.augmentations.python_layout import TRANSFORMS
from data_pipeline.documents import engine as engines
from data_pipeline.documents.document_stage import pass_over
from data_pipeline.documents.documents import Document
from data_pipeline.packing.fill_in_the_middle import Cut
from specs.pipeline import stage
from specs.schema.data import Augment, Corpus

MIDDLE = "fill_in_the_middle"
"""Name of the section in the spec, as the other transforms go by the names of their shares."""


def augment(document: Document, section: Augment) -> tuple[Document, dict[str, str]]:
    """The document as augmented, and for each transform that was chosen: `applied`, `nothing to change`, `unproven`.

    Of a middle that comes last the outcome is the order of parts: `psm` or `spm`.
    """
    outcomes: dict[str, str] = {}
    text = document.text
    applied: list[str] = []
    for name, transform in (
        TRANSFORMS if document.language == "python" else tree_sitter_layout.transforms(document.language)
    ).items():
        chance = _hash(document.id, name, section.seed)
        if chance >= getattr(section, name) * 2**64:
            continue
        changed = transform(text, random.Random(chance))
        outcomes[name] = "unproven" if changed is None else "nothing to change" if changed == text else "applied"
        if changed is not None and changed != text:
            text = changed
            applied.append(name)
    if (wanted := section.fill_in_the_middle) is not None and document.language != "conversation":
        chance = _hash(document.id, MIDDLE, section.seed)
        if chance < wanted.rate * 2**64:
            cut = Cut.draw(len(text), wanted, random.Random(chance))
            outcomes[MIDDLE] = cut.order
            applied.append(cut.mark)
    derived = "+".join(filter(None, [document.derived, *applied]))
    return dataclasses.replace(document, text=text, derived=derived), outcomes


def rewrite(documents: Iterable[Document], section: Augment, ledger: stage.Ledger) -> Iterator[Document]:
    """Every document, augmented or not, in the order given; the ledger counts outcomes by transform."""
    names = [*TRANSFORMS, *([MIDDLE] if section.fill_in_the_middle is not None else [])]
    outcomes: dict[str, Counter[str]] = {name: Counter() for name in names}
    unproven: list[str] = []
    for document in documents:
        ledger.take(document.source, document.size)
        changed, chosen = augment(document, section)
        for name, outcome in chosen.items():
            outcomes[name][outcome] += 1
            if outcome == "unproven":
                unproven.append(f"{document.place}: {name}")
        ledger.keep(changed.source, changed.size)
        yield changed
    ledger.state("transforms", {name: dict(sorted(counts.items())) for name, counts in outcomes.items()})
    ledger.state("unproven", unproven[: stage.EXAMPLES_PER_REASON])


def _hash(identity: str, transform: str, seed: int) -> int:
    """64 uniform bits."""
    digest = hashlib.blake2b(f"{seed}:{transform}:{identity}".encode(), digest_size=8)
    return int.from_bytes(digest.digest())


@click.command(epilog="Example: python -m data_pipeline.augment corpora.smoke-code --documents clean --out documents")
@click.argument("node")
@click.option(
    "--documents", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of decontaminate."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the final documents.")
@stage.command
@engines.options
def main(node: str, documents: Path, out: Path, engine: engines.Engine) -> None:
    """Rewrite a share of the documents of code without changing what they mean."""
    corpus = stage.node(node, Corpus)
    section = corpus.augment
    pass_over("augment", node, corpus, documents, out, lambda given, ledger: rewrite(given, section, ledger), engine)


if __name__ == "__main__":
    main()
