import email
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline.documents.documents import Document, document_id
from data_pipeline.tokens.tokenizer import Tokenizer
from data_pipeline.train_tokenizer import train
from specs.schema import data

MakeDocument = Callable[..., Document]


def make_document(
    text: str, source: str = "library", path: str = "a.py", language: str = "python", licence: str = "PSF-2.0"
) -> Document:
    return Document(document_id(text), source, path, licence, language, text)


@pytest.fixture(scope="session")
def document() -> MakeDocument:
    """Makes a document of a text, with plausible values for all else."""
    return make_document


@pytest.fixture(scope="session")
def library() -> list[Document]:
    """Modules of the standard library as documents of two sources: about 400 kB of Python, in their total order."""
    documents = []
    for source, package in (("email", email), ("json", json)):
        for path in sorted(Path(str(package.__file__)).parent.glob("*.py")):
            text = path.read_bytes().decode()
            documents.append(make_document(text, source, path.name))
    return documents


@pytest.fixture(scope="session")
def small_tokenizer() -> data.Tokenizer:
    """Section of a tokenizer that trains in a second."""
    return data.Tokenizer(name="small", vocab_size=1_024, sample_bytes=300_000, threads=2)


@pytest.fixture(scope="session")
def tokenizer(library: list[Document], small_tokenizer: data.Tokenizer) -> Tokenizer:
    """A tokenizer trained on `library`."""
    return Tokenizer.from_model(train(library, small_tokenizer), "test")
