"""What a run leaves: weights, journal and record, files that depend on the spec and the inputs alone."""

import shutil
from pathlib import Path
from typing import Any

from data_pipeline.tokens.token_store import TokenStore
from runner.training.checkpoint_files import write_tensors
from runner.training.job import Job
from runner.training.journal import Journal, last_step
from runner.training.sharding import ShardedModel
from specs.common.files import digest_json, replacing, sha256_file, write_json
from specs.common.json_lines import parse_json
from specs.common.run_folder import RunFolder


def export(job: Job, model: ShardedModel, journal: Journal | None) -> None:
    """Write the finished run as the folder `finished` of the job's scratch folder. A collective; rank 0 writes."""
    weights = {name: tensor.cpu().contiguous() for name, tensor in model.whole() if journal}
    if journal is None:
        return
    with replacing(RunFolder(Path(job.scratch)).finished.path) as temporary:
        temporary.mkdir()
        folder = RunFolder(temporary)
        write_tensors(weights, folder.weights)
        folder.weights.chmod(0o644)  # safetensors leaves it to its owner alone
        shutil.copyfile(journal.path, folder.steps)
        last, changes = last_step(journal.path), _code_changes(journal.path)
        assert last is not None
        spec = job.spec
        record = {
            "format": 1,
            "stage": job.stage,
            "declared_level": job.level,
            "spec": spec,
            "spec_digests": {name: digest_json(value) for name, value in spec.items()},
            "inputs": job.inputs,
            "tokenizer": TokenStore.open(Path(job.store), verify=False).manifest.tokenizer_sha256,
            "chain": {"start": job.identity, "end": journal.chain},
            "last": {key: last[key] for key in ("step", "loss", "held_out_loss") if key in last},
            "tensors": last["digests"]["value"],
            "model": sha256_file(folder.weights),
        } | ({"code_changes": changes} if changes else {})
        write_json(folder.record, record)


def _code_changes(steps: Path) -> list[dict[str, Any]]:
    """Where in a journal other code took over, as it was accepted by name."""
    with steps.open("rb") as file:
        entries = [parse_json(line) for line in file if b'"code_change"' in line]
    return [{"step": entry["step"]} | entry["code_change"] for entry in entries]
