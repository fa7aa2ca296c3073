"""What every stage from documents to documents shares: read in order, write in order, count, show progress, resume."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.documents.blocks import Block, blocks, finish, parts, read_block, resumable, write_part, write_shards
from data_pipeline.documents.documents import Document
from data_pipeline.documents.engine import Engine
from data_pipeline.documents.outcome import conclude
from specs.common.files import replacing, write_json
from specs.pipeline import stage
from specs.schema.data import Corpus

Change = Callable[[Iterator[Document], stage.Ledger], Iterable[Document]]
"""Takes consecutive documents in their total order and answers those to write, in that order; the ledger counts both.
It is asked for each block by itself, in a process of the engine's choice."""


def pass_over(
    name: str,
    address: str,
    corpus: Corpus,
    documents: Path,
    out: Path,
    change: Change,
    engine: Engine | None = None,
    inputs: Sequence[Path] = (),
    facts: Mapping[str, object] | None = None,
) -> None:
    """Write `change` of the documents in one folder, and a ledger, to another folder, whole or not at all.

    `name` is the stage's and `address` its node's, for progress and measurements. `inputs` are whatever else the change
    depends on, and `facts` what the ledger shall say once for all blocks.
    Raises UserError where the documents cannot be read or a source ends empty, and whatever `change` raises.
    """
    engine = engine or Engine()
    with (
        stage.measuring(name, address) as measured,
        resumable(name, corpus.model_dump(mode="json"), [documents, *inputs]) as scratch,
        replacing(out) as temporary,
    ):
        ledger = write_changed(name, corpus, documents, temporary, functools.partial(_change, change), engine, scratch)
        for fact, value in (facts or {}).items():
            ledger.state(fact, value)
        conclude(name, ledger, corpus.source_names, corpus.may_be_empty)
        counts = ledger.as_json()
        write_json(temporary / "ledger.json", counts)
        measured["bytes"] = counts["bytes_in"]


def write_changed(
    name: str,
    corpus: Corpus,
    documents: Path,
    out: Path,
    change: Callable[[Block, stage.Ledger], Iterable[Document]],
    engine: Engine,
    scratch: Path,
) -> stage.Ledger:
    """Write what `change` makes of each block of a folder to another folder; answers the ledger of all."""
    all_blocks = blocks(documents)
    folder = scratch / "parts"
    ledger = stage.Ledger()
    for counts in finish(engine, folder, name, functools.partial(_part, change), all_blocks):
        ledger.merge(counts)
    write_shards(engine, out, parts(folder, len(all_blocks)), corpus.source_names, f"{name}: writing")
    return ledger


def _change(change: Change, block: Block, ledger: stage.Ledger) -> Iterable[Document]:
    return change(iter(read_block(block)), ledger)


def _part(change: Callable[[Block, stage.Ledger], Iterable[Document]], block: Block, path: Path) -> dict[str, Any]:
    ledger = stage.Ledger()
    write_part(path, change(block, ledger))
    return ledger.as_json()
