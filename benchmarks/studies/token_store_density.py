"""How tightly token stores of Python code are packed: the figures of `specs.estimates.disk` and of docs/plan.md.

    python -m benchmarks.studies.token_store_density

Takes the Python files of the libraries that are installed here: every second one by content hash trains the tokenizers,
24 MB of the others are packed, whole and as a tenth from which the size of the whole is told. Five CPU minutes.
"""

import sysconfig
import tempfile
from pathlib import Path

from data_pipeline.documents.documents import Document, document_id
from data_pipeline.pack import pack
from data_pipeline.tokens.tokenizer import Tokenizer
from data_pipeline.train_tokenizer import sample, train
from specs.estimates.disk import density_of, store_bytes
from specs.pipeline import stage
from specs.pipeline.nodes import TokenStoreNode
from specs.schema import data

PIECES = {8_192: 8_000_000, 32_000: 40_000_000, 64_000: 90_000_000}
"""Sizes of vocabularies, and the bytes that each is trained on (all there are, where they are fewer)."""
CONTEXTS = (512, 2_048, 8_192)
PACKED = 24_000_000


def library() -> list[Document]:
    """Python files of the installed libraries, without copies, in the order of their content hashes."""
    found: dict[str, Document] = {}
    for path in sorted(Path(sysconfig.get_paths()["purelib"]).rglob("*.py")):
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if 32 <= len(text) < 1_000_000:
            identity = document_id(text)
            found.setdefault(identity, Document(identity, "library", path.name, "MIT", "python", text))
    return sorted(found.values(), key=lambda document: document.id)


def packed(documents: list[Document], tokenizer: Tokenizer, context_length: int) -> tuple[int, int]:
    """Rows and bytes of the store of some documents."""
    node = TokenStoreNode(
        corpus="library",
        tokenizer="measured",
        context_length=context_length,
        loss="all",
        template="turns-v1",
        weights={"library": 1},
    )
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        rows = pack(documents, node, tokenizer, store, stage.Ledger()).rows
        return rows, sum(file.stat().st_size for file in store.rglob("*") if file.is_file())


def main() -> None:
    """Print bytes for each position, and how far the size that a tenth tells is from the whole."""
    documents = library()
    whole = sample(documents[1::2], PACKED)
    part = sample(whole, PACKED // 10)
    print("pieces  context  bytes/position  told from a tenth")
    for pieces, size in PIECES.items():
        section = data.Tokenizer(name="measured", vocab_size=pieces, sample_bytes=size, threads=1)
        tokenizer = Tokenizer.from_model(train(sample(documents[::2], size), section), "measured")
        for length in CONTEXTS:
            rows, held = packed(whole, tokenizer, length)
            told = store_bytes(rows, length, density_of(*packed(part, tokenizer, length), length, ""))
            tight = density_of(rows, held, length, "").bytes_per_position
            print(f"{pieces:6,}  {length:7,}  {tight:14.3f}  {told / held - 1:+17.2%}", flush=True)


if __name__ == "__main__":
    main()
