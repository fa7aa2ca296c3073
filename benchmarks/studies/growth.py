"""Cost against size: each stage over a sixteenfold range, with the power of the size that its cost grows with.

A cost is the least of its rounds, in processor time: what disturbs only ever adds. The exponent is fitted through all
five sizes.
"""

import contextlib
import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import click

from benchmarks.ab.statistics import exponent
from benchmarks.measuring.cost import adopt_orphans, cost
from benchmarks.measuring.machine import facts
from benchmarks.workloads.inputs import SOURCE, Inputs, library, prepare, store_node
from benchmarks.workloads.workloads import MB, packed
from data_pipeline.documents.documents import Document, write_documents
from runner.training.determinism import environment_of_ranks
from specs.common.files import write_json
from specs.common.progress import Progress
from specs.common.tables import number, table
from specs.loading.load import load_experiment
from specs.loading.settings import ROOT

FACTORS = (1, 2, 4, 8, 16)
ALLOWED = 1.1

Sized = Callable[[], object]
Made = Callable[[Inputs, Path, int], contextlib.AbstractContextManager[tuple[float, Sized]]]


@dataclasses.dataclass(frozen=True)
class Growth:
    """How the cost of a stage grows with one size."""

    stage: str
    of: str
    """What is counted."""
    sizes: list[float]
    costs: list[float]
    """Least processor seconds at each size."""
    exponent: float


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
    from data_pipeline.dedup import Found, find
    from data_pipeline.documents.engine import Engine
    from specs.schema.data import Dedup

    documents = texts(factor)
    write_documents(folder, documents, [SOURCE])

    def found() -> Found:
        with tempfile.TemporaryDirectory() as scratch:
            return find(folder, Dedup(), Engine(), Path(scratch))

    return _size(documents), found


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
    from benchmarks.workloads.training_run import rigged
    from runner.training.loop import train_step

    smoke = load_experiment(ROOT / "specs" / "experiments" / "smoke.yaml")
    model = smoke.architecture.model_copy(update=architecture)
    phase = smoke.pretraining.model_copy(update=training)
    with rigged(model, phase, packed(inputs, folder, model.context_length, 2 * MB), folder) as run:
        micro_batches = run.batches.micro_batches(0, 0, 1)
        yield size, lambda: train_step(run, 0, micro_batches)


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


RANKED = ("step, tokens", "step, micro-batches", "step, length", "reduction")
"""What ranks do."""


def grown(name: str, inputs: Inputs, rounds: int) -> Growth:
    """Measure one stage at five sizes."""
    of, make = STAGES[name]
    sizes, costs = [], []
    for factor in FACTORS:
        with tempfile.TemporaryDirectory(prefix="twice-growth-") as folder:
            with make(inputs, Path(folder), factor) as (size, run):
                run()
                sizes.append(size)
                costs.append(min(cost(run).cpu for _ in range(rounds)))
    return Growth(name, of, sizes, costs, exponent(sizes, costs))


def grown_as_rank(name: str, rounds: int) -> Growth:
    """The same in a process that starts as ranks do: the allocator reads its settings once.

    Without them every large tensor is faulted in anew, so that what is folded in large pieces costs more.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [sys.executable, "-m", "benchmarks.studies.growth", "--stage", name, "--rounds", str(rounds)]
        environment = os.environ | environment_of_ranks(1)
        subprocess.run(
            [*command, "--json", str(out)], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=False
        )
        return Growth(**json.loads(out.read_bytes())["stages"][0])


def lines(found: list[Growth]) -> list[str]:
    """The growth of each stage as text."""
    rows = [["stage", "against", "from", "to", "seconds", "", "exponent"]]
    for each in found:
        ends = [number(round(each.sizes[0], 2)), number(round(each.sizes[-1], 2))]
        seconds = [f"{each.costs[0]:.3f}", f"{each.costs[-1]:.3f}"]
        above = f"above {ALLOWED}" if each.exponent > ALLOWED else ""
        rows.append([each.stage, each.of, *ends, *seconds, f"{each.exponent:.2f}", above])
    return table(rows, (2, 3, 4, 5, 6))


@click.command(epilog="Example: python -m benchmarks.studies.growth --stage dedup --stage pack")
@click.option("--stage", "stages", multiple=True, type=click.Choice(list(STAGES)), help="Measure these only.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Rounds at each size.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write what was measured to this file.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", help="Output format.")
def main(stages: tuple[str, ...], rounds: int, out: Path | None, form: str) -> None:
    """Measure how the cost of each stage grows. Exit code 1 if one grows with an exponent above 1.1."""
    adopt_orphans()
    inputs, found = prepare(), []
    names = stages or tuple(STAGES)
    with Progress("growth", len(names), "stages") as progress:
        for name in names:
            as_rank = name in RANKED and any(os.environ.get(k) != v for k, v in environment_of_ranks(1).items())
            found.append(grown_as_rank(name, rounds) if as_rank else grown(name, inputs, rounds))
            progress.advance(note=name)
    facts_of_run = {"date": datetime.now(UTC).date().isoformat(), "machine": facts()}
    plain = facts_of_run | {"stages": [dataclasses.asdict(each) for each in found]}
    if out is not None:
        write_json(out, plain)
    click.echo(json.dumps(plain, indent=2) if form == "json" else "\n".join(lines(found)))
    raise SystemExit(1 if any(each.exponent > ALLOWED for each in found) else 0)


if __name__ == "__main__":
    main()
