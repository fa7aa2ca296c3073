"""Workloads: real code on fixed inputs, ready to be run again and again. Suites and the A/B run share them.

Each takes inputs and an empty folder, and yields a `Work`. What a workload needs is imported when it is built, so that
a revision whose sampler has another form can still be compared in the rest.
"""

import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.workloads.inputs import PROBLEMS, SOURCE, Inputs, library, store_node
from data_pipeline.tokens.token_store import TokenStore
from specs.common.run_folder import RunFolder
from specs.loading.load import load_experiment
from specs.loading.settings import ROOT

if TYPE_CHECKING:
    from model.decoder.transformer import Transformer
    from specs.schema.training import Architecture

MB = 1_000_000
VOCABULARY_OF_SAMPLER = 8_192


@dataclass(frozen=True)
class Work:
    """One round of a workload."""

    run: Callable[[], object]
    amount: float
    """How much of `unit` a round does."""
    unit: str
    before: Callable[[], None] = lambda: None
    """What must be done before each round, not measured."""
    extra: object = None
    """What the round works on, for suites that look closer."""


Build = Callable[[Inputs, Path], AbstractContextManager[Work]]


@contextlib.contextmanager
def specs(inputs: Inputs, folder: Path) -> Iterator[Work]:
    """Load the largest experiment and compare it with the smallest."""
    from specs.review.compare import compare

    names = [str(ROOT / "specs" / "experiments" / name) for name in ("code-34b.yaml", "smoke.yaml")]
    yield Work(lambda: [compare(names) for _ in range(5)], 5, "comparisons")


@contextlib.contextmanager
def filtering(inputs: Inputs, folder: Path) -> Iterator[Work]:
    """Every document past every filter."""
    from data_pipeline.filter import keep
    from specs.pipeline.stage import Ledger
    from specs.schema.filters import Filter

    documents = library(3 * MB)
    size = sum(document.size for document in documents)
    yield Work(lambda: list(keep(documents, Filter(), Ledger())), size / MB, "MB")


@contextlib.contextmanager
def deduplicating(inputs: Inputs, folder: Path) -> Iterator[Work]:
    """Exact and near-duplicates of a folder of documents, of which a quarter is there twice with a line changed."""
    from data_pipeline.dedup import find_duplicates
    from data_pipeline.documents.documents import document_id, write_documents
    from data_pipeline.documents.engine import Engine
    from data_pipeline.near_duplicates.matches import Duplicates
    from specs.schema.data import Dedup

    documents = library(3 * MB)
    for original in documents[::4]:
        text = original.text.replace("\n", "\n# a copy\n", 1)
        path = f"copies/{original.path}"
        documents.append(dataclasses.replace(original, id=document_id(text), path=path, text=text))
    write_documents(folder / "documents", documents, [SOURCE])
    size = sum(document.size for document in documents)

    def found() -> Duplicates:
        # A scratch folder of its own each time: nothing is taken over from the time before.
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            return find_duplicates(folder / "documents", Dedup(), Engine(), Path(scratch))

    yield Work(found, size / MB, "MB")


@contextlib.contextmanager
def tokenizing(inputs: Inputs, folder: Path) -> Iterator[Work]:
    """Text to ids, on all cores."""
    documents = library(3 * MB)
    texts = [document.text for document in documents]
    size = sum(document.size for document in documents)
    yield Work(lambda: inputs.tokenizer.encode_batch(texts), size / MB, "MB", extra=texts)


@contextlib.contextmanager
def packing(inputs: Inputs, folder: Path) -> Iterator[Work]:
    """Documents to a token store."""
    from data_pipeline.pack import pack
    from specs.pipeline.stage import Ledger

    documents, out = library(3 * MB), folder / "store"
    size = sum(document.size for document in documents)
    yield Work(
        lambda: pack(documents, store_node(512), inputs.tokenizer, out, Ledger()),
        size / MB,
        "MB",
        before=lambda: shutil.rmtree(out, ignore_errors=True),
    )


def packed(inputs: Inputs, folder: Path, context_length: int, most: int) -> TokenStore:
    """A token store of about so many bytes of the library."""
    from data_pipeline.pack import pack
    from specs.pipeline.stage import Ledger

    pack(library(most), store_node(context_length), inputs.tokenizer, folder / "store", Ledger())
    return TokenStore.open(folder / "store")


@contextlib.contextmanager
def reading(inputs: Inputs, folder: Path) -> Iterator[Work]:
    """Rows of a token store in the order of training, checksums verified."""
    from data_pipeline.tokens.shuffle import Order

    store, rows, at_a_time = packed(inputs, folder, 2_048, 6 * MB), 4_096, 8
    order = Order(store.shares, seed=1)

    def read() -> None:
        for start in range(0, rows, at_a_time):
            store.rows(order.rows(start, at_a_time))

    yield Work(read, rows, "rows", extra=store)


@contextlib.contextmanager
def stepping(inputs: Inputs, folder: Path) -> Iterator[Work]:
    """The training step of `smoke`'s model, its data read from a store: ten sequences in two micro-batches."""
    from benchmarks.workloads.training_run import first_step, training_run

    experiment = load_experiment(ROOT / "specs" / "experiments" / "smoke.yaml")
    architecture = experiment.architecture.model_copy(update={"context_length": 256})
    training = experiment.pretraining.model_copy(update={"micro_batches": 2, "micro_batch_size": 5})
    store = packed(inputs, folder, 256, 2 * MB)
    with training_run(architecture, training, store, folder) as run:
        micro_batches = run.loader.micro_batches(0, 0, 1)
        yield Work(lambda: first_step(run, micro_batches), 10 * 256, "tokens", extra=run)


def sampler(architecture: "Architecture", folder: Path, *, portable: bool = False) -> "Transformer":
    """A model with the weights of the beginning, loaded as the sampling stage loads it."""
    import torch
    from safetensors.torch import save_file

    from model.decoder.init import initial_values
    from model.decoder.transformer import Transformer
    from model.weights import load_for_sampling

    with torch.device("meta"):
        shapes = {
            name: each.shape for name, each in Transformer(architecture, VOCABULARY_OF_SAMPLER).named_parameters()
        }
    weights = {
        name: initial_values(architecture, 1, name, 0, shape.numel()).view(shape).contiguous()
        for name, shape in shapes.items()
    }
    save_file(weights, RunFolder(folder).weights)
    return load_for_sampling(RunFolder(folder).weights, architecture, VOCABULARY_OF_SAMPLER, portable=portable)


@contextlib.contextmanager
def sampling(inputs: Inputs, folder: Path, *, portable: bool = False) -> Iterator[Work]:
    """Sixteen prompts, continued sixteen at a time by 32 tokens each."""
    import torch

    from model.nucleus import Stream
    from model.sampling import Request, Sampling, sample

    torch.set_num_threads(1)
    experiment = load_experiment(ROOT / "specs" / "experiments" / "smoke.yaml")
    model = sampler(experiment.architecture, folder, portable=portable)
    prompts = [[16 + (7 * row + 3 * place) % 4_000 for place in range(40 + row)] for row in range(16)]

    def continued() -> list[list[int]]:
        requests = [Request(prompt, Stream.of(1, row)) for row, prompt in enumerate(prompts)]
        way = Sampling(temperature=0.8, top_p=0.95, max_new_tokens=32)
        return sample(model, requests, way, rows=16, tile=16, capacity=128, finished=lambda ids: False)

    yield Work(continued, 16 * 32, "tokens")


@contextlib.contextmanager
def scoring(inputs: Inputs, folder: Path) -> Iterator[Work]:
    """The shipped problems, each as two different programs, to verdicts in the sandbox."""
    from data_pipeline.problems import read_problems
    from evaluation.protocols.registry import find_protocol
    from evaluation.score import canonical, score
    from specs.schema.experiment import Limits

    protocol = find_protocol("completion-v1", "mbpp")
    asked = [
        (problem, dataclasses.replace(answer, completion=f"{answer.completion}\n# {copy}\n"))
        for copy in range(2)
        for problem, answer in canonical(read_problems(PROBLEMS, "mbpp"), protocol)
    ]
    yield Work(lambda: score(asked, protocol, Limits()), len(asked), "programs")


@dataclass(frozen=True)
class Case:
    """A workload that two revisions are compared in."""

    build: Build
    tolerance: float
    """How much slower is too much, as a share."""
    pure: bool = False
    """Whether its work is instructions of this process alone, so that counting them says as much as timing it."""


CASES = {
    "specs": Case(specs, 0.05, pure=True),
    "filter": Case(filtering, 0.05, pure=True),
    "dedup": Case(deduplicating, 0.05),
    "tokenize": Case(tokenizing, 0.05, pure=True),
    "pack": Case(packing, 0.05),
    "read": Case(reading, 0.05),
    "step": Case(stepping, 0.05),
    "sample": Case(sampling, 0.05),
    "score": Case(scoring, 0.05),
}
"""By name, in the order of the pipeline."""
