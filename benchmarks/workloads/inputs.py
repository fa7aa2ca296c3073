"""Inputs that every machine has: the standard library as a corpus, a tokenizer trained on it, problems that ship."""

import platform
import sysconfig
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from data_pipeline.documents.documents import Document, document_id
from data_pipeline.tokens.tokenizer import MODEL, Tokenizer
from specs.common.files import digest_json, write_bytes
from specs.loading.settings import ROOT, load_settings
from specs.pipeline.nodes import TokenStoreNode
from specs.schema import data

SOURCE = "library"
VOCABULARY = 4_096
SAMPLE_BYTES = 1_500_000
PROBLEMS = ROOT / "evaluation" / "basics.jsonl"


def library(most: int | None = None) -> list[Document]:
    """Modules of the standard library in order of path, some 25 MB of Python; at most about so many bytes of it."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found, size = [], 0
    for path in sorted(root.glob("*.py")) + sorted(root.glob("[a-z]*/*.py")):
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        if text:
            name = path.relative_to(root).as_posix()
            found.append(Document(document_id(text), SOURCE, name, "PSF-2.0", "python", text))
            size += found[-1].size
        if most is not None and size >= most:
            break
    return sorted(found, key=lambda document: document.path)


def store_node(context_length: int) -> TokenStoreNode:
    """A token store of the library, every token learnt."""
    return TokenStoreNode(
        corpus=SOURCE,
        tokenizer="benchmarks",
        context_length=context_length,
        loss="all",
        template="turns-v1",
        weights={SOURCE: 1},
    )


@dataclass(frozen=True)
class Inputs:
    """What workloads start from; `folder` holds the files that are made once for a machine."""

    folder: Path

    @cached_property
    def documents(self) -> list[Document]:
        """The whole library."""
        return library()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """A unigram model of 4,096 pieces."""
        return Tokenizer.load(self.folder)


def prepare() -> Inputs:
    """Make what is not there yet, below the folder `scratch`: half a minute once, for the tokenizer."""
    from data_pipeline.train_tokenizer import train

    facts = {"python": platform.python_version(), "vocabulary": VOCABULARY, "sample": SAMPLE_BYTES}
    inputs = Inputs(load_settings().folder("scratch") / f"benchmarks-{digest_json(facts)[:16]}")
    if not (inputs.folder / MODEL).is_file():
        section = data.Tokenizer(name="benchmarks", vocab_size=VOCABULARY, sample_bytes=SAMPLE_BYTES, threads=2)
        inputs.folder.mkdir(parents=True, exist_ok=True)
        write_bytes(inputs.folder / MODEL, train(inputs.documents, section))
    return inputs
