"""Stage: train a SentencePiece unigram model on a sample of a corpus."""

import heapq
import io
import re
import sys
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path

import click
from sentencepiece import SentencePieceTrainer

from data_pipeline.documents.documents import Document, parse_conversation, read_documents
from data_pipeline.documents.outcome import conclude
from data_pipeline.tokens.tokenizer import MODEL, Special, Tokenizer
from specs.common.errors import UserError
from specs.common.files import replacing, write_json
from specs.common.progress import Progress
from specs.pipeline import stage
from specs.pipeline.nodes import TokenizerNode
from specs.schema import data

CHUNK_CHARACTERS = 4_096
"""Longest piece of text that training sees at once."""

TAB_RUNS = 8
"""Runs of so many tabs, and every shorter one, are pieces from the start: SentencePiece cannot learn them, because
training uses the tab as its own separator."""


def sample(documents: Iterable[Document], size: int) -> list[Document]:
    """The fewest documents, in the order of a hash, whose text comes to `size` bytes of UTF-8 or more; all if none do.

    The choice depends on what the documents are, not on the order in which they come. Holds little more than the
    sample in memory.
    """
    # A heap of the documents chosen so far, the one with the greatest hash on top: it leaves as soon as the others do.
    chosen: list[tuple[int, int, Document]] = []
    total = 0
    for document in documents:
        length = document.size
        heapq.heappush(chosen, (-_rank(document), length, document))
        total += length
        while total - chosen[0][1] >= size:
            total -= heapq.heappop(chosen)[1]
    return [document for _, _, document in sorted(chosen, key=lambda entry: -entry[0])]


def train(documents: Iterable[Document], tokenizer: data.Tokenizer) -> bytes:
    """The model file of a tokenizer trained on these documents, in this order.

    Raises UserError where the documents are too few, or of too many characters, for the size of the vocabulary.
    """
    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=(chunk for document in documents for text in _texts(document) for chunk in _chunks(text)),
            model_writer=model,
            model_type=tokenizer.algorithm,
            vocab_size=tokenizer.vocab_size,
            character_coverage=tokenizer.character_coverage,
            max_sentencepiece_length=tokenizer.max_piece_length,
            split_digits=tokenizer.split_digits,
            # The model depends on the number of threads.
            num_threads=tokenizer.threads,
            # Exact round trip: the text is taken as it is, and what has no piece is spelt in bytes.
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            byte_fallback=True,
            # Indentation of several columns is one piece.
            allow_whitespace_only_pieces=True,
            # Control symbols are never matched in text, user-defined ones always are.
            control_symbols=[special.piece for special in Special if special > Special.PAD],
            user_defined_symbols=["\t" * length for length in range(TAB_RUNS, 0, -1)],
            unk_id=Special.UNK,
            unk_piece=Special.UNK.piece,
            pad_id=Special.PAD,
            pad_piece=Special.PAD.piece,
            bos_id=-1,
            eos_id=-1,
            # In bytes; a character takes four at most. SentencePiece would skip longer chunks in silence.
            max_sentence_length=4 * CHUNK_CHARACTERS,
            shuffle_input_sentence=False,
            # Positions in the sample need more than 32 bits from 2 GiB.
            train_extremely_large_corpus=tokenizer.sample_bytes >= 2_000_000_000,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _explained(str(error), tokenizer) or error from error
    return model.getvalue()


def _rank(document: Document) -> int:
    # The person parameter makes the choice independent of others that go by the same id; source and path tell apart
    # documents of one id.
    identity = "\0".join((document.id, document.source, document.path))
    return int.from_bytes(blake2b(identity.encode(), digest_size=16, person=b"tokenizer-sample").digest(), "big")


def _texts(document: Document) -> Iterator[str]:
    """What encoding will be asked to encode: of a conversation, the messages without their JSON."""
    if document.language == "conversation":
        yield from (message.content for message in parse_conversation(document.text, document.place))
    else:
        yield document.text


def _chunks(text: str) -> Iterator[str]:
    """Split a text after newlines into chunks of at most `CHUNK_CHARACTERS`; a longer line is cut where it must be."""
    start = 0
    while start < len(text):
        end = start + CHUNK_CHARACTERS
        if end < len(text):
            end = text.rfind("\n", start, end) + 1 or end
        yield text[start:end]
        start = end


def _explained(message: str, tokenizer: data.Tokenizer) -> UserError | None:
    if match := re.search(r"Vocabulary size too high \(\d+\)\. Please set it to a value <= (\d+)", message):
        return UserError(
            f"tokenizer {tokenizer.name!r}: the sample fills {int(match[1]):,} pieces at most, not vocab_size "
            f"{tokenizer.vocab_size:,}; lower vocab_size, or raise sample_bytes ({tokenizer.sample_bytes:,}) "
            "if the corpus holds more"
        )
    if match := re.search(r"Vocabulary size is smaller than required_chars\. \d+ vs (\d+)", message):
        return UserError(
            f"tokenizer {tokenizer.name!r}: single characters and bytes alone take {int(match[1]):,} pieces, more than "
            f"vocab_size {tokenizer.vocab_size:,}; raise vocab_size or lower character_coverage"
        )
    return None


def _counted(documents: Iterable[Document], ledger: stage.Ledger) -> Iterator[Document]:
    with Progress("tokenizer sample", unit="documents") as progress:
        for document in documents:
            ledger.take(document.source, document.size)
            progress.advance()
            yield document


@click.command(
    epilog="Example: python -m data_pipeline.train_tokenizer tokenizers.unigram-8k --documents corpus --out tokenizer"
)
@click.argument("node")
@click.option("--documents", type=click.Path(path_type=Path, exists=True), required=True, help="The corpus.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the model and its ledger.")
@stage.command
def main(node: str, documents: Path, out: Path) -> None:
    """Train the tokenizer of NODE, an address such as tokenizers.unigram-8k."""
    section = stage.node(node, TokenizerNode).tokenizer
    ledger = stage.Ledger()
    with stage.measuring("tokenizer", node) as facts, replacing(out) as temporary:
        chosen = sample(_counted(read_documents(documents), ledger), section.sample_bytes)
        if not chosen:
            raise UserError(f"{documents}: holds no documents to train a tokenizer on; check the corpus's filters")
        for document in chosen:
            ledger.keep(document.source, document.size)
        # A sample need not hold something of every source.
        conclude("tokenizer sample", ledger, sources=())
        print(f"tokenizer: training on {len(chosen):,} documents, silent until it ends", file=sys.stderr, flush=True)
        model = train(chosen, section)
        trained = Tokenizer.from_model(model, str(out))
        ledger.state("model_sha256", trained.sha256)
        ledger.state("vocab_size", trained.vocab_size)
        facts["sample_bytes"] = ledger.as_json()["bytes_out"]
        temporary.mkdir()
        (temporary / MODEL).write_bytes(model)
        write_json(temporary / "ledger.json", ledger.as_json())


if __name__ == "__main__":
    main()
