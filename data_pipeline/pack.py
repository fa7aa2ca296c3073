"""Stage: documents to rows of token ids, packed so that almost nothing is padding and only over-long ones are cut."""

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import click
import numpy as np

from data_pipeline.documents import engine as engines
from data_pipeline.documents.blocks import Block, batches, blocks, finish, parts, read_block, resumable
from data_pipeline.documents.documents import Document, parse_conversation
from data_pipeline.documents.outcome import conclude
from data_pipeline.packing import fill_in_the_middle
from data_pipeline.packing.best_fit import best_fit, cut
from data_pipeline.packing.chat_template import Rendered, render, require_template
from data_pipeline.packing.encoded_documents import Encoded, read_encoded, write_encoded
from data_pipeline.packing.epochs import by_times
from data_pipeline.tokens.token_store import Manifest, Origin, Rows, StoreWriter
from data_pipeline.tokens.tokenizer import Special, Tokenizer
from specs.common.errors import UserError
from specs.common.files import replacing, write_json
from specs.common.progress import Progress
from specs.pipeline import stage
from specs.pipeline.nodes import TokenStoreNode

WINDOW = 10_000
"""Pieces that are packed together: more would pack hardly tighter."""
BATCH_CHARACTERS = 4_000_000
"""Text that is encoded in one call."""


@dataclass(frozen=True)
class Piece:
    """Consecutive ids of one document that go into one row."""

    document: Encoded
    offset: int
    """Of its first id among the document's ids."""
    rendered: Rendered

    def __len__(self) -> int:
        return len(self.rendered.ids)


def pack(
    documents: Iterable[Document],
    node: TokenStoreNode,
    tokenizer: Tokenizer,
    out: Path,
    ledger: stage.Ledger,
) -> Manifest:
    """Write the token store of documents that come source by source, all in this process.

    Holds a source at once whose epochs are no whole number.
    Raises UserError where a document cannot be encoded, and as `pack_encoded` does.
    """
    encoded = encode(documents, node.loss == "all", tokenizer)
    groups = groupby(encoded, key=lambda document: document.source)
    sources = ((source, _rereadable(group, node.epochs.get(source, 1.0))) for source, group in groups)
    return pack_encoded(sources, node, tokenizer, out, ledger)


def pack_encoded(
    sources: Iterable[tuple[str, Callable[[], Iterable[Encoded]]]],
    node: TokenStoreNode,
    tokenizer: Tokenizer,
    out: Path,
    ledger: stage.Ledger,
    total: int | None = None,
) -> Manifest:
    """Write the token store of the documents of each source, which may be asked for again; `total` of them, if known.

    Raises UserError where the node has no weight for a source, a source has nothing to learn and may not be empty, or
    nothing at all is left.
    """
    require_template(node.template)
    capacity = node.context_length + 1
    rows: list[dict[str, object]] = []
    seen: set[str] = set()
    counts = {"tokens": 0, "targets": 0, "padding": 0, "documents_cut": 0}
    with StoreWriter(out, node.context_length) as writer, Progress("pack", total, "documents") as progress:
        for source, again in sources:
            if source not in node.weights or source in seen:
                problem = "comes a second time" if source in seen else f"has no weight in {node.corpus!r}"
                raise UserError(f"documents of source {source!r}: it {problem}; run the corpus's stages again")
            seen.add(source)
            for times, group in by_times(source, again, node.epochs.get(source, 1.0), node.weights[source]):
                documents = _counted(group, progress)
                if not times:
                    for document in documents:
                        ledger.take(source, document.size)
                        ledger.drop("beyond the epochs of the source", f"{source}/{document.path}")
                    continue
                start = writer.rows
                pieces = _pieces(documents, capacity, ledger, counts)
                for window in batches(pieces, lambda piece: 1, WINDOW):
                    for chosen in best_fit([len(piece) for piece in window], capacity):
                        _append(writer, [window[index] for index in chosen], capacity, counts)
                rows.append({"name": source, "start": start, "stop": writer.rows, "weight": times})
        # A source of which nothing is left keeps its name, and no rows.
        nothing = {"start": writer.rows, "stop": writer.rows}
        rows += [{"name": name, **nothing, "weight": node.weights[name]} for name in sorted({*node.weights} - seen)]
        if not writer.rows:
            raise UserError(f"no document holds anything to learn under loss {node.loss!r}; check the corpus's sources")
        for name, value in counts.items():
            ledger.state(name, value)
        ledger.state("rows", writer.rows)
        conclude("pack", ledger, sorted(node.weights), node.may_be_empty)
        write_json(out / "ledger.json", ledger.as_json())
        return writer.finish(
            vocab_size=tokenizer.vocab_size,
            tokenizer_sha256=tokenizer.sha256,
            loss=node.loss,
            template=node.template,
            sources=rows,
        )


def encode(
    documents: Iterable[Document], learn_all: bool, tokenizer: Tokenizer, threads: int | None = None
) -> Iterator[Encoded]:
    """Ids of each document, `<document>` at their end, in the order given. Raises UserError as `Tokenizer.encode`."""
    for batch in batches(documents, lambda document: len(document.text), BATCH_CHARACTERS):
        chats = {
            at: parse_conversation(document.text, document.place)
            for at, document in enumerate(batch)
            if document.language == "conversation"
        }
        cuts = {at: fill_in_the_middle.cut_of(document) for at, document in enumerate(batch) if at not in chats}
        texts = [part for at, found in cuts.items() for part in fill_in_the_middle.parts(batch[at].text, found)]
        try:
            plain = iter(tokenizer.encode_batch(texts, threads))
            turns = iter(render(list(chats.values()), tokenizer, threads))
        except UserError as error:
            raise UserError(f"among documents {batch[0].place} to {batch[-1].place}: {error}") from error
        for at, document in enumerate(batch):
            if at in chats:
                rendered = next(turns)
                ids, loss = rendered.ids, np.ones_like(rendered.loss) if learn_all else rendered.loss
            else:
                ids = fill_in_the_middle.arranged([next(plain) for _ in range(3 if cuts[at] else 1)], cuts[at])
                loss = np.full(len(ids), learn_all, np.uint8)
            end = np.uint16(Special.DOCUMENT)
            whole = Rendered(np.append(ids, end), np.append(loss, np.uint8(learn_all)))
            origin = (document.id, document.source, document.path, document.licence, document.repository, document.file)
            yield Encoded(*origin, document.size, whole)


def _encode_block(learn_all: bool, folder: Path, block: Block, path: Path) -> list[tuple[str, int]]:
    """Write the encoded documents of a block. Answers its sources in their order, and how many each has."""
    # One thread: there are as many blocks at work as workers.
    encoded = list(encode(read_block(block), learn_all, _tokenizer(folder), threads=1))
    write_encoded(path, encoded)
    return list(Counter(document.source for document in encoded).items())


@functools.lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)


def _pieces(
    documents: Iterable[Encoded], capacity: int, ledger: stage.Ledger, counts: dict[str, int]
) -> Iterator[Piece]:
    for document in documents:
        rendered = document.rendered
        ledger.take(document.source, document.size)
        if not rendered.loss[1:].any():
            ledger.drop("nothing to learn", f"{document.source}/{document.path}")
            continue
        ledger.keep(document.source, document.size)
        ledger.count(document.source, "tokens", len(rendered.ids))
        counts["documents_cut"] += len(rendered.ids) > capacity
        if rendered.ids[0] == Special.FIM_PREFIX:
            ledger.count(document.source, "fill_in_the_middle", 1)
        for offset, part in cut(rendered, capacity):
            # Where only answers are learnt, a piece may hold none.
            if part.loss.any():
                yield Piece(document, offset, part)


def _append(writer: StoreWriter, pieces: Sequence[Piece], capacity: int, counts: dict[str, int]) -> None:
    tokens = np.full(capacity, Special.PAD, np.uint16)
    documents = np.full(capacity, len(pieces), np.uint16)
    loss = np.zeros(capacity, np.uint8)
    origins, start = [], 0
    for ordinal, piece in enumerate(pieces):
        stop = start + len(piece)
        tokens[start:stop] = piece.rendered.ids
        documents[start:stop] = ordinal
        loss[start:stop] = piece.rendered.loss
        source = piece.document
        origins.append(
            Origin(
                row=writer.rows,
                start=start,
                length=len(piece),
                id=source.id,
                source=source.source,
                path=source.path,
                licence=source.licence,
                repository=source.repository,
                file=source.file,
                offset=piece.offset,
            )
        )
        start = stop
    writer.append(Rows(tokens, documents, loss), origins)
    counts["tokens"] += start
    counts["targets"] += int(loss.sum())
    counts["padding"] += capacity - start


def _rereadable(documents: Iterator[Encoded], epochs: float) -> Callable[[], Iterable[Encoded]]:
    kept = documents if epochs.is_integer() else list(documents)
    return lambda: kept


def _counted(documents: Iterable[Encoded], progress: Progress) -> Iterator[Encoded]:
    for document in documents:
        yield document
        progress.advance()


def _sources(
    written: Sequence[Path], counts: Sequence[Sequence[tuple[str, int]]]
) -> Iterator[tuple[str, Callable[[], Iterator[Encoded]]]]:
    """Each source, and its documents from the parts that hold some."""
    paths: dict[str, list[Path]] = {}
    for path, sources in zip(written, counts, strict=True):
        for source, _ in sources:
            paths.setdefault(source, []).append(path)

    def read(source: str) -> Iterator[Encoded]:
        for path in paths[source]:
            yield from (document for document in read_encoded(path) if document.source == source)

    return ((source, functools.partial(read, source)) for source in paths)


@click.command(
    epilog="Example: python -m data_pipeline.pack token_stores.smoke-code-unigram-8k-512 "
    "--documents corpus --tokenizer tokenizer --out store"
)
@click.argument("node")
@click.option("--documents", type=click.Path(path_type=Path, exists=True), required=True, help="The corpus.")
@click.option("--tokenizer", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of its model.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the store.")
@stage.command
@engines.options
def main(node: str, documents: Path, tokenizer: Path, out: Path, engine: engines.Engine) -> None:
    """Pack the documents of NODE, an address such as token_stores.NAME, into a token store."""
    section = stage.node(node, TokenStoreNode)
    ledger = stage.Ledger()
    require_template(section.template)
    loaded = Tokenizer.load(tokenizer)
    with (
        stage.measuring("pack", node) as facts,
        resumable("pack", section.model_dump(mode="json"), [documents, tokenizer]) as scratch,
        replacing(out) as temporary,
    ):
        all_blocks = blocks(documents)
        encode_block = functools.partial(_encode_block, section.loss == "all", tokenizer.resolve())
        counts = finish(engine, scratch, "pack: encoding", encode_block, all_blocks)
        sources = _sources(parts(scratch, len(all_blocks)), counts)
        total = sum(number for sources_of_block in counts for _, number in sources_of_block)
        manifest = pack_encoded(sources, section, loaded, temporary, ledger, total)
        facts["rows"] = manifest.rows
        facts["store_bytes"] = sum(file.stat().st_size for file in temporary.rglob("*") if file.is_file())


if __name__ == "__main__":
    main()
