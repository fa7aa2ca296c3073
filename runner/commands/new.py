"""`twice new`: a complete small spec of one's own, with a comment for each choice, pinned and checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from data_pipeline.pin import parse_locator, pin
from specs.common.errors import UserError
from specs.common.files import write_bytes
from specs.estimates.devices import device as device_of
from specs.loading.load import load_experiment
from specs.loading.settings import ROOT
from specs.schema.experiment import Experiment

SPECS = ROOT / "specs"
BYTES_OF_A_PIECE = 400
"""Text that a tokenizer needs for each piece: 8 MB of Python fill some 29,000, and small texts repeat themselves."""
BYTES_OF_A_TOKEN = 3
LARGEST_VOCABULARY, SMALLEST_VOCABULARY = 8_192, 512


@dataclass(frozen=True)
class Choices:
    """What the command line says of a new experiment."""

    name: str
    base: str
    corpus: Path | None
    licence: str
    device: str
    devices: int


def create(choices: Choices) -> list[Path]:
    """Write the files of a new experiment and check them. Returns their paths, those of included files first.

    Raises UserError where a file is there already, or what it would say is not valid: then nothing is left behind.
    """
    experiment = SPECS / "experiments" / f"{choices.name}.yaml"
    files = {experiment: ""}
    corpus = SPECS / "corpora" / f"{choices.name}.yaml"
    if choices.corpus is not None:
        files = {corpus: "", experiment: ""}
    for path in files:
        if path.exists():
            raise UserError(f"{path.relative_to(ROOT)} is there already: choose another name, or edit it")
    base = load_experiment(SPECS / "experiments" / f"{choices.base}.yaml")
    values = _values(choices, base)
    try:
        for path in files:
            write_bytes(path, _render(path.parent.name, values).encode())
        load_experiment(experiment)
    except UserError:
        for path in files:
            path.unlink(missing_ok=True)
        raise
    return list(files)


def _values(choices: Choices, base: Experiment) -> dict[str, Any]:
    """What the templates are filled with."""
    offered = device_of(choices.device)
    per_node = min(choices.devices, 8)
    values: dict[str, Any] = {
        "name": choices.name,
        "base": base,
        "device": offered.name,
        "devices": choices.devices,
        "per_node": per_node,
        "compute": "bf16",
        "micro_batches": max(base.pretraining.micro_batches, choices.devices),
        "corpus": f"../corpora/{choices.name}.yaml" if choices.corpus else None,
        "benchmarks": [f"../benchmarks/{run.benchmark.name}.yaml" for run in base.evaluation.benchmarks],
        "sources": {
            "corpus": f"../corpora/{base.corpus.name}.yaml",
            "instructions": f"../corpora/{base.finetuning.corpus.name}.yaml",
        },
        "vocab_size": base.tokenizer.vocab_size,
        "tokens": base.pretraining.tokens,
        "held_out": True,
    }
    if choices.corpus is not None:
        values |= _pinned(choices.corpus, choices.licence, base.architecture.context_length)
    batch = values["micro_batches"] * base.pretraining.micro_batch_size * base.architecture.context_length
    values["warmup"] = max(1, values["tokens"] // batch // 20)
    return values


def _pinned(folder: Path, licence: str, context_length: int) -> dict[str, Any]:
    """What is known of one's own text: its digest and size, how many pieces and tokens it holds."""
    absolute = folder if folder.is_absolute() else Path.cwd() / folder
    if not absolute.is_relative_to(ROOT):
        raise UserError(
            f"{folder} lies outside the project: copy it below the project's root, so that a spec can name it"
        )
    if not absolute.exists():
        raise UserError(f"there is no {folder}")
    path = absolute.relative_to(ROOT).as_posix()
    pinned = pin(parse_locator(path), ROOT)
    size = pinned.size or 0
    pieces = min(LARGEST_VOCABULARY, max(SMALLEST_VOCABULARY, size // BYTES_OF_A_PIECE // 64 * 64))
    tokens = size // BYTES_OF_A_TOKEN
    if tokens < 16 * context_length:
        raise UserError(
            f"{folder} holds {size:,} bytes, too few for 16 rows of {context_length} tokens: bring more text"
        )
    return {
        "source": {"path": path, "kind": pinned.locator.kind, "sha256": pinned.sha256, "size": pinned.size},
        "licence": licence,
        "vocab_size": pieces,
        "sample_bytes": min(size, 8_000_000),
        "tokens": min(4 * tokens, 1_500_000),
        "held_out": tokens >= 64 * context_length,
    }


def _render(kind: str, values: dict[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("runner.commands", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    return environment.get_template(f"{kind}.yaml.j2").render(values)
