"""What is made larger and larger: for each stage, something of a size that grows, and what is run on it."""

import contextlib
import dataclasses
import io
import random
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.workloads.inputs import SOURCE, Inputs, library, store_node
from benchmarks.workloads.workloads import MB, packed
from data_pipeline.documents.documents import Document, document_id, write_documents
from specs.loading.load import load_experiment
from specs.loading.settings import ROOT

Sized = Callable[[], object]
Made = Callable[[Inputs, Path, int], contextlib.AbstractContextManager[tuple[float, Sized]]]


def texts(factor: int) -> list[Document]:
    """A megabyte of the library for each unit."""
    return library(factor * MB)


def _ingest(inputs: Inputs, folder: Path, factor: int) -> tuple[float, Sized]:
    from data_pipeline.ingest import ingest
    from specs.common.files import sha256_file
    from specs.pipeline.stage import Ledger
    from specs.schema.data import Ingest
    from specs.schema.sources import LocalFile, Source

    documents, path = texts(factor), folder / "library.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=6) as archive:
        for document in documents:
            content = document.text.encode()
            member = tarfile.TarInfo(f"library/{document.path}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    locator = LocalFile(kind="file", path=path.name)
    source = Source(name=SOURCE, locator=locator, sha256=sha256_file(path), licence="PSF-2.0", format="files")
    return _size(documents), lambda: list(ingest(source, path, Ingest(), Ledger(), folder / "runs"))


def _filter(inputs: Inputs, folder: Path, factor: int) -> tuple[float, Sized]:
    from data_pipeline.filter import keep
    from specs.pipeline.stage import Ledger
    from specs.schema.filters import Filter

    documents = texts(factor)
    return _size(documents), lambda: list(keep(documents, Filter(), Ledger()))


def _dedup(inputs: Inputs, folder: Path, factor: int) -> tuple[float, Sized]:
    documents = texts(factor)
    return _size(documents), _deduplicated(folder, documents)


def _deduplicated(folder: Path, documents: list[Document]) -> Sized:
    from data_pipeline.dedup import find_duplicates
    from data_pipeline.documents.engine import Engine
    from data_pipeline.near_duplicates.matches import Duplicates
    from specs.schema.data import Dedup

    write_documents(folder, documents, [SOURCE])

    def duplicates() -> Duplicates:
        with tempfile.TemporaryDirectory() as scratch:
            return find_duplicates(folder, Dedup(), Engine(), Path(scratch))

    return duplicates


_HEADER = "".join(
    f"# Copyright {year}, licensed under the terms of the licence number {year}\n" for year in range(2000, 2020)
)


def _adversarial(text: Callable[[int, random.Random], str]) -> Made:
    """2,000 short documents for each unit, made to be alike."""

    def make(inputs: Inputs, folder: Path, factor: int) -> tuple[float, Sized]:
        texts_of = (text(number, random.Random(number)) for number in range(2_000 * factor))
        documents = [
            Document(document_id(each), SOURCE, f"{number:07}", "PSF-2.0", "python", each)
            for number, each in enumerate(texts_of)
        ]
        return len(documents), _deduplicated(folder, documents)

    return _plain(make)


def _words(rng: random.Random, count: int) -> str:
    return " ".join(f"w{rng.randrange(10**6)}" for _ in range(count))


def _under_one_header(number: int, rng: random.Random) -> str:
    return _HEADER + _words(rng, 30)


def _below_the_threshold(number: int, rng: random.Random) -> str:
    """Any two have a similarity of 0.65: they share two thirds of their bands' keys with all others."""
    return _words(random.Random("shared"), 120) + " " + _words(rng, 30)


def _chained(number: int, rng: random.Random) -> str:
    """Each begins where the one before has lost a tenth: like its neighbours, and no others."""
    return " ".join(f"w{place}" for place in range(12 * number, 12 * number + 120))


def _edited_copies(number: int, rng: random.Random) -> str:
    """Copies of 50 texts, with a word changed in each."""
    words = _words(random.Random(number % 50), 120).split()
    words[rng.randrange(120)] = f"x{number}"
    return " ".join(words)


def _decontaminate(inputs: Inputs, folder: Path, factor: int) -> tuple[float, Sized]:
    from benchmarks.workloads.inputs import PROBLEMS
    from data_pipeline.decontaminate import Index, keep
    from data_pipeline.problems import read_problems
    from specs.pipeline.stage import Ledger
    from specs.schema.data import Decontaminate

    documents = texts(factor)
    index = Index([("basics", each) for each in read_problems(PROBLEMS, "mbpp")], Decontaminate())
    return _size(documents), lambda: list(keep(documents, index, Ledger()))


def _augment(inputs: Inputs, folder: Path, factor: int) -> tuple[float, Sized]:
    from data_pipeline.augment import rewrite
    from specs.pipeline.stage import Ledger
    from specs.schema.data import Augment

    documents = texts(factor)
    section = Augment.model_validate({"rename_locals": 0.2, "quotes": 0.2})
    return _size(documents), lambda: list(rewrite(documents, section, Ledger()))


def _tokenize(inputs: Inputs, folder: Path, factor: int) -> tuple[float, Sized]:
    contents = [document.text for document in texts(factor)]
    return sum(map(len, contents)) / MB, lambda: inputs.tokenizer.encode_batch(contents)


def _pack(inputs: Inputs, folder: Path, factor: int) -> tuple[float, Sized]:
    from data_pipeline.pack import pack
    from specs.pipeline.stage import Ledger

    documents = texts(factor)

    def fresh() -> None:
        shutil.rmtree(folder / "store", ignore_errors=True)
        pack(documents, store_node(512), inputs.tokenizer, folder / "store", Ledger())

    return _size(documents), fresh


def _read(inputs: Inputs, folder: Path, factor: int) -> tuple[float, Sized]:
    """The same number of rows from larger and larger stores, in the order of training."""
    from data_pipeline.tokens.shuffle import Order, Share

    store = packed(inputs, folder, 512, MB)
    # The order over the declared rows is what depends on the length; the rows read are those that exist.
    order = Order([Share(0, 1_000_000 * factor, 1)], seed=1)
    return 1_000_000 * factor, lambda: [store.rows(order.rows(8 * at, 8) % len(store)) for at in range(256)]


def _steps(update: Callable[[int], tuple[dict[str, int], dict[str, int]]], unit: Callable[[int], float]) -> Made:
    def make(inputs: Inputs, folder: Path, factor: int) -> contextlib.AbstractContextManager[tuple[float, Sized]]:
        return _stepping(inputs, folder, *update(factor), unit(factor))

    return make


@contextlib.contextmanager
def _stepping(
    inputs: Inputs, folder: Path, architecture: dict[str, int], training: dict[str, int], size: float
) -> Iterator[tuple[float, Sized]]:
    from benchmarks.workloads.training_run import first_step, training_run

    smoke = load_experiment(ROOT / "specs" / "experiments" / "smoke.yaml")
    model = smoke.architecture.model_copy(update=architecture)
    phase = smoke.pretraining.model_copy(update=training)
    with training_run(model, phase, packed(inputs, folder, model.context_length, 2 * MB), folder) as run:
        micro_batches = run.loader.micro_batches(0, 0, 1)
        yield size, lambda: first_step(run, micro_batches)


def _ranks(inputs: Inputs, folder: Path, factor: int) -> tuple[float, Sized]:
    """The pieces of so many ranks, folded into one shard: what a rank does in a reduction, the same bytes in all."""
    import torch

    from runner.training.reduction import Fold

    torch.set_num_threads(1)
    received = torch.ones(2 * factor, 2**24 // (2 * factor), dtype=torch.bfloat16)

    def fold() -> None:
        for _ in range(4):
            tree = Fold()
            for piece in received:
                tree.add([piece.float()])
            tree.total()

    return 2 * factor, fold


def _lock(inputs: Inputs, folder: Path, factor: int) -> tuple[float, Sized]:
    """So many experiments, each under a name of its own, resolved and written as a lock."""
    from specs.pipeline.lock import render_lock
    from specs.pipeline.nodes import resolve

    smoke = load_experiment(ROOT / "specs" / "experiments" / "smoke.yaml")

    def lock() -> None:
        nodes: dict[str, dict[str, object]] = {}
        for number_of_experiment in range(factor):
            experiment = smoke.model_copy(update={"name": f"smoke-{number_of_experiment}"})
            for kind, found in resolve(experiment).items():
                named = {f"{name}-{number_of_experiment}": each.model_dump(mode="json") for name, each in found.items()}
                nodes.setdefault(kind, {}).update(named)
        render_lock({"experiments": list(range(factor)), **nodes})

    return factor, lock


def _score(inputs: Inputs, folder: Path, factor: int) -> tuple[float, Sized]:
    from benchmarks.workloads.inputs import PROBLEMS
    from data_pipeline.problems import read_problems
    from evaluation.protocols.registry import find_protocol
    from evaluation.score import canonical, score
    from specs.schema.experiment import Limits

    protocol = find_protocol("completion-v1", "mbpp")
    asked = [
        (problem, dataclasses.replace(answer, completion=f"{answer.completion}\n# {copy}\n"))
        for copy in range(factor)
        for problem, answer in canonical(read_problems(PROBLEMS, "mbpp")[:20], protocol)
    ]
    return len(asked), lambda: score(asked, protocol, Limits())


def _size(documents: list[Document]) -> float:
    return sum(document.size for document in documents) / MB


def _plain(make: Callable[[Inputs, Path, int], tuple[float, Sized]]) -> Made:
    @contextlib.contextmanager
    def made(inputs: Inputs, folder: Path, factor: int) -> Iterator[tuple[float, Sized]]:
        yield make(inputs, folder, factor)

    return made


STAGES: dict[str, tuple[str, Made]] = {
    "ingest": ("MB of documents", _plain(_ingest)),
    "filter": ("MB of documents", _plain(_filter)),
    "dedup": ("MB of documents", _plain(_dedup)),
    "dedup, one header": ("documents", _adversarial(_under_one_header)),
    "dedup, below the threshold": ("documents", _adversarial(_below_the_threshold)),
    "dedup, chains": ("documents", _adversarial(_chained)),
    "dedup, edited copies": ("documents", _adversarial(_edited_copies)),
    "decontaminate": ("MB of documents", _plain(_decontaminate)),
    "augment": ("MB of documents", _plain(_augment)),
    "tokenize": ("million characters", _plain(_tokenize)),
    "pack": ("MB of documents", _plain(_pack)),
    "read": ("rows in the store", _plain(_read)),
    "step, tokens": (
        "sequences in the batch",
        _steps(lambda n: ({"context_length": 128}, {"micro_batches": 2, "micro_batch_size": n}), lambda n: 2 * n),
    ),
    "step, micro-batches": (
        "micro_batches",
        _steps(lambda n: ({"context_length": 128}, {"micro_batches": n, "micro_batch_size": 2}), lambda n: n),
    ),
    "step, length": (
        "positions, as many tokens in all",
        _steps(
            lambda n: ({"context_length": 128 * n}, {"micro_batches": 1, "micro_batch_size": 16 // n}),
            lambda n: 128 * n,
        ),
    ),
    "reduction": ("ranks, as many bytes in all", _plain(_ranks)),
    "lock": ("experiments", _plain(_lock)),
    "score": ("programs", _plain(_score)),
}

ADVERSARIAL = tuple(name for name in STAGES if name.startswith("dedup,"))
"""Corpora that are made to cost deduplication as much as possible."""
