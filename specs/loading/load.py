"""YAML files to validated sections, with every error placed at `file:line:column`."""

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from specs.common.errors import UserError
from specs.common.files import read_text
from specs.loading.messages import clause, one_of, shown
from specs.loading.yaml_reader import Document, Position, Read, read_document
from specs.schema.base import Section
from specs.schema.experiment import Experiment

S = TypeVar("S", bound=Section)

# What people type who come from other projects.
ALIASES = {
    "batch_size": "micro_batches",
    "cpu": "cpu_seconds",
    "block_size": "context_length",
    "dim": "d_model",
    "epoch": "epochs",
    "file": "filename",
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
    "lanes": "micro_batches",
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
    "sequences_per_lane": "micro_batch_size",
    "tie_word_embeddings": "tie_embeddings",
    "tokens_total": "tokens",
    "training": "pretraining",
    "vocab": "vocab_size",
    "vocabulary_size": "vocab_size",
    "warmup": "warmup_steps",
    "warmup_iters": "warmup_steps",
    "wd": "weight_decay",
}


_MERGE = "<<"
_NOWHERE = Position("?", 1, 1)


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
        raise UserError("\n".join(_lines(error.errors(), document, kind))) from error


def _lines(errors: list[ErrorDetails], document: Document, kind: type[Section]) -> list[str]:
    """One line for each mistake: one that shows as two errors, or in a file that is included twice, is told once."""
    faults = [_fault(details, document, kind) for details in errors]
    explained = {(fault.section, fault.meant) for fault in faults if fault.meant}
    wrong_files = {at for at in document.included if _is_another(at, faults)}
    lines: dict[tuple[Position, str], str] = {}
    for fault in faults:
        if fault.section in wrong_files:
            position, file = document.included[fault.section], document.values[fault.section].file
            missing = ", ".join(
                repr(other.missing) for other in faults if other.section == fault.section and other.missing
            )
            lines[position, file] = f"{position}: {file} holds no {fault.section[-1]}: it lacks {missing}"
        elif not (fault.missing and {(fault.section, fault.missing), (fault.section, _MERGE)} & explained):
            lines.setdefault((fault.position, fault.what), str(fault))
    return list(lines.values())


def _is_another(at: tuple[str | int, ...], faults: list["_Fault"]) -> bool:
    """Whether an included file holds another kind of section than the one that stands there."""
    own = [fault for fault in faults if fault.section == at]
    return any(fault.missing for fault in own) and sum(fault.unknown for fault in own) >= 2


@dataclass(frozen=True)
class _Fault:
    """One error, where it stands and in whose words."""

    position: Position
    path: str
    """Dotted path in the experiment; empty where the text names it already."""
    what: str
    section: tuple[str | int, ...]
    missing: str | None = None
    meant: str | None = None
    unknown: bool = False
    included: Position | None = None
    """Where another file includes the one in which the error stands."""

    def __str__(self) -> str:
        subject = f"{self.path} " if self.path else ""
        origin = f" (included at {self.included})" if self.included else ""
        return f"{self.position}: {subject}{self.what}{origin}"


def _fault(details: ErrorDetails, document: Document, kind: type[Section]) -> _Fault:
    known = tuple(_known_parts(details["loc"], document))
    position = document.values.get(known, _NOWHERE)
    included = _including(known, document)
    value, error = details["input"], details["type"]
    path = _dotted(known) or "the experiment"
    if error == "extra_forbidden":
        key, section = str(known[-1]), known[:-1]
        meant, hint = _suggestion(key, kind, details["loc"][:-1])
        what = f"unknown key {key!r} in {_dotted(section) or 'the experiment'}{hint}"
        return _Fault(document.keys.get(known, position), "", what, section, None, meant, True, included)
    if error == "missing":
        name = str(details["loc"][-1])
        return _Fault(position, path, f"needs {name!r}", known, missing=name, included=included)
    if error == "value_error":
        return _cross_field(
            details["msg"].removeprefix("Value error, "), known, document, _fields_at(kind, details["loc"])
        )
    if error in ("model_type", "model_attributes_type"):
        what = _no_section(value, str(known[-1]) if known else "")
    elif error == "union_tag_not_found":
        what = f"needs 'kind': {', '.join(_kinds_at(kind, details['loc']))}"
    elif error == "union_tag_invalid":
        position, path = document.values.get((*known, "kind"), position), f"{path}.kind"
        what = one_of(re.findall(r"'([\w-]+)'", details["ctx"]["expected_tags"]), details["ctx"]["tag"])
    else:
        what = clause(details, value)
    return _Fault(position, path, what, known, included=included)


def _cross_field(text: str, known: tuple[str | int, ...], document: Document, fields: list[str]) -> _Fault:
    """An error that a section raised: where its text begins with the path of a field, that field is what is told."""
    match = re.match(r"[a-z_][a-z0-9_]*(?:\.[a-z_][a-z0-9_]*|\[\d+\])*", text)
    parts = re.findall(r"[a-z_][a-z0-9_]*|\d+", match[0]) if match else []
    inner = tuple(int(part) if part.isdigit() else part for part in parts)
    if not inner or inner[0] not in fields:
        subject = f"{_dotted(known)}:" if known else ""
        return _Fault(document.values.get(known, _NOWHERE), subject, text, known, included=_including(known, document))
    at = next(known + inner[:n] for n in range(len(inner), -1, -1) if known + inner[:n] in document.values)
    text = f"{_dotted(known)}.{text}" if known else text
    return _Fault(document.values[at], "", text, known, included=_including(at, document))


def _including(known: tuple[str | int, ...], document: Document) -> Position | None:
    """Where the file that holds a value is included, if it is not the one that was asked for."""
    sites = [at for at in document.included if known[: len(at)] == at]
    return document.included[max(sites, key=len)] if sites else None


def _no_section(value: object, key: str) -> str:
    """That a section was expected, and how one is given."""
    if value is None:
        return "is empty: give its keys, or remove it"
    if isinstance(value, list) and len(value) == 1:
        return "must be one section, not a list: remove the brackets"
    if not isinstance(value, str):
        return f"must be a mapping of keys, not {shown(value)}"
    if value.endswith((".yaml", ".yml")):
        return f"must be a section: a file is named from this one's folder, with ./ or ../ in front: write ./{value}"
    folder = {"corpus": "corpora", "tokenizer": "tokenizers", "benchmark": "benchmarks"}.get(key)
    remedy = f": write ../{folder}/{value}.yaml" if folder and re.fullmatch(r"[\w-]+", value) else ""
    return f"must be a mapping of keys, or a file that holds them, not {shown(value)}{remedy}"


def _known_parts(location: tuple[str | int, ...], document: Document) -> Iterator[str | int]:
    """The parts of a location that exist in the file: pydantic adds union tags, and keys that are missing."""
    at: tuple[str | int, ...] = ()
    for part in location:
        if (*at, part) in document.values:
            at = (*at, part)
            yield part


def _suggestion(key: str, kind: type[Section], location: tuple[str | int, ...]) -> tuple[str | None, str]:
    """The key that was meant, if one is near, and what to say of it."""
    if key == _MERGE:
        return _MERGE, ": merge keys are not read; write the values out, or include a file (../name.yaml)"
    fields = _fields_at(kind, location)
    meant = ALIASES.get(key)
    if meant not in fields:
        close = difflib.get_close_matches(key, fields, n=1, cutoff=0.75)
        meant = close[0] if close else None
    if meant is not None:
        return meant, f"; did you mean {meant!r}?"
    return None, f"; known keys: {', '.join(fields)}" if fields else ""


def _kinds_at(kind: type[Section], location: tuple[str | int, ...]) -> list[str]:
    """Tags of the union at a location."""
    models: list[type[BaseModel]] = [kind]
    for part in location:
        models = [
            inner for model in models if part in model.model_fields for inner in _models_in(model, str(part))
        ] or models
    kinds = [model.model_fields["kind"] for model in models if "kind" in model.model_fields]
    return [str(tag) for field in kinds for tag in get_args(field.annotation)]


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
    models: list[type[BaseModel]] = []

    def visit(annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            models.append(annotation)
        for argument in getattr(annotation, "__args__", ()):
            visit(argument)

    visit(model.model_fields[name].annotation)
    return models


def _dotted(parts: Sequence[str | int]) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
