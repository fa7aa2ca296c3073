"""Whether a run agrees with itself: all of it that follows from the rest is computed again and compared.

A run without a contradiction is what somebody wrote; that it was computed shows only its execution.
"""

import json
import struct
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from runner.training.digests import row_digests, tensor_digest
from runner.verification.recorded_run import RecordedRun
from specs.common.errors import UserError
from specs.common.files import canonical_json, digest_json, json_text, sha256_file

KEYS = {
    *("format", "stage", "declared_level", "spec", "spec_digests", "inputs"),
    *("tokenizer", "chain", "last", "tensors", "model"),
}
"""What a record holds; `code_changes` where a change of code was accepted."""
INPUTS = {"pretrain": {"token_store"}, "finetune": {"token_store", "weights"}}
"""What each stage reads."""
_SHOWN = 3


def inconsistencies(run: RecordedRun) -> Iterator[str]:
    """What in a run contradicts itself, a line each. None at all means that it is at least as it was written."""
    yield from _wrong_spec(run)
    last, changes = dict[str, Any](), list[dict[str, Any]]()
    try:
        for last in run.entries():
            changes += [{"step": last["step"]} | last["code_change"]] if "code_change" in last else []
        yield from _other_spelling(run)
    except UserError as error:
        yield str(error)
        return
    if run.record is not None:
        yield from _wrong_record(run, run.record, last, changes)
        yield from _wrong_weights(run, run.record)


def strays(run: RecordedRun) -> Iterator[str]:
    """Files in the folder of a finished run that no run writes, a line each."""
    known = {path.name for path in (run.files.record, run.files.steps, run.files.weights)}
    if run.record is not None:
        for name in sorted({path.name for path in run.folder.iterdir()} - known):
            yield f"{run.folder}: holds {name}, which no run writes"


def _wrong_spec(run: RecordedRun) -> Iterator[str]:
    if digest_json(run.spec | {"inputs": run.inputs}) != run.start:
        yield f"{run.folder}: its chain does not begin with the digest of its spec and inputs"
    if canonical_json(run.job().spec) != canonical_json(run.spec):
        yield f"{run.folder}: its spec is not written as the runner writes it: other fields, or other values"
    if set(run.inputs) != INPUTS[run.stage]:
        yield (
            f"{run.folder}: states the stage {run.stage}, which reads {_listed(INPUTS[run.stage])}, "
            f"and the inputs {_listed(run.inputs)}"
        )


def _other_spelling(run: RecordedRun) -> Iterator[str]:
    """Lines of the journal that hold more than they seem to: keys twice, numbers in another spelling."""
    with run.files.steps.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n") and json.dumps(json.loads(line)).encode() != line[:-1]:
                yield f"{run.files.steps}:{number}: not the bytes that the runner writes for these values"
                return


def _wrong_record(
    run: RecordedRun, record: dict[str, Any], last: dict[str, Any], changes: list[dict[str, Any]]
) -> Iterator[str]:
    path, steps = run.files.record, run.files.steps
    if path.read_bytes() != json_text(record).encode():
        yield f"{path}: not the bytes that the runner writes for these values"
    if odd := set(record) ^ (KEYS | ({"code_changes"} if changes else set())):
        yield f"{path}: {_listed(odd)} should {'be there' if odd - set(record) else 'not be there'}"
        return
    if not last:
        yield f"{steps} has no step"
        return
    if last["step"] != run.spec["steps"]:
        yield f"{steps} has {last['step']} steps instead of {run.spec['steps']}"
    stated = {
        "format": 1,
        "chain": {"start": run.start, "end": last["chain"]},
        "spec_digests": {name: digest_json(value) for name, value in run.spec.items()},
        "last": {key: last[key] for key in ("step", "loss", "held_out_loss") if key in last},
        "tensors": last.get("digests", {}).get("value"),
    } | ({"code_changes": changes} if changes else {})
    for key, value in stated.items():
        if canonical_json(record[key]) != canonical_json(value):
            yield f"{path}: its {key} is not what {steps.name} and its spec give"


def _wrong_weights(run: RecordedRun, record: dict[str, Any]) -> Iterator[str]:
    path = run.files.weights
    if not path.is_file():
        yield f"{path} is missing"
        return
    try:
        digests = {name: tensor_digest(tensor.shape, row_digests(tensor)) for name, tensor in run.weights()}
    except UserError as error:
        yield str(error)
        return
    stated = record.get("tensors")
    wrong = [name for name, digest in digests.items() if not isinstance(stated, dict) or stated.get(name) != digest]
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        yield f"{path}: has other values than {run.files.record.name} states, in {', '.join(wrong[:_SHOWN])}{more}"
    if sha256_file(path) != record.get("model"):
        yield f"{path}: has another sha256 than {run.files.record.name} states"
    if more := _beside_tensors(path):
        yield f"{path}: {more}"


def _beside_tensors(path: Path) -> str:
    """What a safetensors file holds beside tensors; nothing where it is as the runner writes it."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    if "__metadata__" in header:
        return "holds metadata, which the runner does not write"
    data = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    return "" if path.stat().st_size == 8 + length + data else "holds more bytes than its tensors"


def _listed(names: set[str] | dict[str, Any]) -> str:
    return ", ".join(islice(sorted(map(str, names)), 5)) or "none"
