"""YAML files to validated sections, with every error placed at `file:line:column`."""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from specs.common.errors import UserError
from specs.common.files import read_text
from specs.loading.yaml_reader import Document, Position, Read, read_document
from specs.schema.base import Section
from specs.schema.experiment import Experiment

S = TypeVar("S", bound=Section)

# What people type who come from other projects.
ALIASES = {
    "batch_size": "micro_batches",
    "block_size": "context_length",
    "dim": "d_model",
    "epoch": "epochs",
    "ffn_dim": "d_ff",
    "fim": "fill_in_the_middle",
    "fim_rate": "rate",
    "fim_spm_rate": "spm",
    "final_lr_fraction": "final_fraction",
    "grad_clip": "clip_norm",
    "gradient_clipping": "clip_norm",
    "hidden_dim": "d_ff",
    "hidden_size": "d_model",
    "intermediate_size": "d_ff",
    "learning_rate": "lr",
    "license": "licence",
    "max_grad_norm": "clip_norm",
    "max_learning_rate": "lr",
    "max_length": "max_new_tokens",
    "max_position_embeddings": "context_length",
    "max_seq_len": "context_length",
    "min_lr_ratio": "final_fraction",
    "n_embd": "d_model",
    "n_head": "n_heads",
    "n_layer": "n_layers",
    "num_attention_heads": "n_heads",
    "num_heads": "n_heads",
    "num_hidden_layers": "n_layers",
    "num_key_value_heads": "n_kv_heads",
    "num_layers": "n_layers",
    "num_samples": "samples",
    "rms_norm_eps": "norm_eps",
    "seq_len": "context_length",
    "sequence_length": "context_length",
    "sliding_window": "window",
    "tie_word_embeddings": "tie_embeddings",
    "tokens_total": "tokens",
    "vocab": "vocab_size",
    "vocabulary_size": "vocab_size",
    "warmup": "warmup_steps",
    "warmup_iters": "warmup_steps",
    "wd": "weight_decay",
}


def load_experiment(path: Path, read: Read = read_text) -> Experiment:
    """Load an experiment. `read` returns the text of a path, so that another revision can be loaded too.

    Raises UserError with one line for each error.
    """
    return load_section(path, Experiment, read)


def load_section(path: Path, kind: type[S], read: Read = read_text) -> S:
    """Load one section from a YAML file. Raises UserError with one line for each error."""
    document = read_document(path, read)
    try:
        return kind.model_validate(document.value)
    except ValidationError as error:
        lines = dict.fromkeys(_describe(details, document, kind) for details in error.errors())
        raise UserError("\n".join(lines)) from error


def _describe(details: ErrorDetails, document: Document, kind: type[Section]) -> str:
    """One line for one error of pydantic: place, what is wrong, remedy."""
    known = list(_known_parts(details["loc"], document))
    place = document.values.get(tuple(known), Position("?", 1, 1))
    dotted = _dotted(known)
    message, value = details["msg"].removeprefix("Value error, "), details["input"]
    match details["type"]:
        case "extra_forbidden":
            key = str(known[-1])
            place = document.keys.get(tuple(known), place)
            section = _dotted(known[:-1]) or "the top level"
            message = f"unknown key {key!r} in {section}{_suggestion(key, kind, details['loc'][:-1])}"
        case "missing":
            message = f"{dotted or 'the top level'} needs {details['loc'][-1]!r}"
        case "value_error":
            message = f"{dotted}: {message}" if dotted and not isinstance(value, dict) else message
        case "model_type" | "model_attributes_type":
            message = f"{dotted or 'the file'} must be a mapping of keys, not {_shown(value)}"
        case _:
            message = f"{dotted}: {message[:1].lower()}{message[1:]}, not {_shown(value)}"
    return f"{place}: {message}"


def _known_parts(location: tuple[str | int, ...], document: Document) -> Iterator[str | int]:
    """The parts of a location that exist in the file: pydantic adds union tags, and keys that are missing."""
    at: tuple[str | int, ...] = ()
    for part in location:
        if (*at, part) in document.values:
            at = (*at, part)
            yield part


def _suggestion(key: str, kind: type[Section], location: tuple[str | int, ...]) -> str:
    fields = _fields_at(kind, location)
    meant = ALIASES.get(key)
    if meant not in fields:
        close = difflib.get_close_matches(key, fields, n=2, cutoff=0.75)
        meant = close[0] if close else None
    if meant is not None:
        return f"; did you mean {meant!r}?"
    return f"; known keys: {', '.join(fields)}" if fields else ""


def _fields_at(kind: type[Section], location: tuple[str | int, ...]) -> list[str]:
    """Names of the fields that a section at this location may have."""
    models: list[type[BaseModel]] = [kind]
    for part in location:
        if isinstance(part, int):
            continue
        inner = [found for model in models if part in model.model_fields for found in _models_in(model, part)]
        tagged = [model for model in models if "kind" in model.model_fields and part in str(model.model_fields["kind"])]
        models = inner or tagged or models
    return sorted({name for model in models for name in model.model_fields})


def _models_in(model: type[BaseModel], name: str) -> list[type[BaseModel]]:
    found: list[type[BaseModel]] = []

    def visit(annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found.append(annotation)
        for argument in getattr(annotation, "__args__", ()):
            visit(argument)

    visit(model.model_fields[name].annotation)
    return found


def _dotted(parts: list[str | int]) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
