"""The stages that a change is predicted to re-run are those that DVC itself would run."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from specs.loading.settings import ROOT
from specs.pipeline.dvc_graph import Rerun, Stage, expand, lock_of, reruns
from specs.pipeline.lock import render_lock
from specs.schema.experiment import Experiment

BIN = Path(sys.executable).parent
PIPELINE = (ROOT / "dvc.yaml").read_text("utf-8")
MAKE = """
import pathlib, sys
for name in sys.argv[1:]:
    if name == "#":
        break
    path = pathlib.Path(name)
    for leaf in [path] if path.suffix else [path / "ledger.json", path / "part"]:
        leaf.parent.mkdir(parents=True, exist_ok=True)
        leaf.write_text(name)
"""


def stages_of(experiment: Experiment) -> dict[str, Stage]:
    return expand(PIPELINE, lock_of(experiment))


def predict(old: Experiment, new: Experiment, *touched: str) -> Rerun:
    return reruns(stages_of(old), stages_of(new), lambda path: path in touched)


def lock_text(experiment: Experiment) -> str:
    return render_lock(dict(lock_of(experiment)))


def overlaps(left: str, right: str) -> bool:
    return left == right or left.startswith(f"{right}/") or right.startswith(f"{left}/")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, smoke: Experiment) -> Path:
    """A copy of the pipeline, once run through, whose stages only write their own names into their outputs.

    Commands are replaced; parameters, dependencies and outputs stay, and those decide what DVC re-runs.
    """
    folder = tmp_path_factory.mktemp("pipeline") / "project"
    stages = stages_of(smoke).values()
    made = [output for stage in stages for output in stage.outputs]
    for path in {path for stage in stages for path in stage.dependencies} - {"specs"}:
        if not any(overlaps(path, output) for output in made):
            # A folder of the code holds a module here.
            file = folder / path if Path(path).suffix else folder / path / "module.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("code\n", "utf-8")
    (folder / "specs").mkdir(exist_ok=True)
    (folder / "specs" / "lock.yaml").write_text(lock_text(smoke), "utf-8")
    (folder / "make.py").write_text(MAKE, "utf-8")
    definition = YAML(typ="safe", pure=True).load(PIPELINE)
    for body in definition["stages"].values():
        inner = body.get("do", body)
        entries = [entry for kind in ("outs", "metrics", "plots") for entry in inner.get(kind, ())]
        outputs = [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]
        # What the real command varies by stays, as words that the shell passes over.
        inner["cmd"] = f"python3 make.py {' '.join(outputs)} '#' {' '.join(inner['cmd'].split())}"
    dumper = YAML()
    dumper.width = 10_000
    with (folder / "dvc.yaml").open("w", encoding="utf-8") as file:
        dumper.dump(definition, file)
    (folder / ".dvcignore").write_text("jobs.json\n", "utf-8")
    for arguments in (["init", "--no-scm", "-q"], ["config", "core.analytics", "false"], ["repro", "-q"]):
        subprocess.run([BIN / "dvc", *arguments], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def dry(folder: Path) -> Callable[[list[dict[str, Any]]], list[set[str]]]:
    """Stages that DVC would run after each of several edits of files."""

    def run(edits: list[dict[str, Any]]) -> list[set[str]]:
        (folder / "jobs.json").write_text(json.dumps({"folder": str(folder), "edits": edits}), "utf-8")
        script = Path(__file__).with_name("dry_runs.py")
        done = subprocess.run(
            [sys.executable, script, folder / "jobs.json"], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return [set(stages) for stages in json.loads(done.stdout)]

    return run


def edit(files: dict[str, str], make: list[str] | None = None, downstream: bool = False) -> dict[str, Any]:
    return {"files": files, "make": make or [], "downstream": downstream}


def absent(new: Experiment, old: Experiment) -> list[str]:
    """Outputs that only the new pipeline has: without them DVC cannot say more than that they are missing."""
    before = {path for stage in stages_of(old).values() for path in stage.outputs}
    missing = [p for stage in stages_of(new).values() for p in stage.outputs if not any(overlaps(p, o) for o in before)]
    return [leaf for p in missing for leaf in ([p] if Path(p).suffix else [f"{p}/ledger.json", f"{p}/part"])]


def test_dvc_would_run_what_is_predicted(
    dry: Callable[[list[dict[str, Any]]], list[set[str]]],
    smoke: Experiment,
    edits: list[dict[str, Any]],
    edited: Callable[[str, Any], Experiment],
) -> None:
    # DVC takes a second for each: a sample of kinds here, all of them with TWICE_THOROUGH=1.
    chosen = edits if "TWICE_THOROUGH" in os.environ else [*edits[::8], edits[-1]]
    new = [edited(each["path"], each["value"]) for each in chosen]
    jobs = [edit({"specs/lock.yaml": lock_text(each)}, absent(each, smoke)) for each in new]
    found = dry([edit({}), *jobs])
    assert found[0] == set(), "the copy is not up to date"
    for each, experiment, job, ran in zip(chosen, new, jobs, found[1:], strict=True):
        changes_lock = lock_text(experiment) != lock_text(smoke)
        predicted = predict(smoke, experiment, *(["specs"] if changes_lock else []))
        # What stands in for outputs of new stages may lie in a folder that an old stage reads.
        stages = stages_of(experiment)
        stirred = {
            n for n in predicted.following for d in stages[n].dependencies if any(overlaps(d, m) for m in job["make"])
        }
        assert ran - stirred == set(predicted.changed), each


def test_what_follows_is_what_dvc_calls_downstream(
    dry: Callable[[list[dict[str, Any]]], list[set[str]]],
    folder: Path,
    smoke: Experiment,
    edited: Callable[[str, Any], Experiment],
) -> None:
    # Without the check of the lock: every stage depends on its stamp, whose bytes never change.
    definition = YAML(typ="safe", pure=True).load((folder / "dvc.yaml").read_text("utf-8"))
    del definition["stages"]["lock"]
    (folder / "without.yaml").write_text("", "utf-8")
    with (folder / "without.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(definition, file)
    pipeline = (folder / "without.yaml").read_text("utf-8")
    (folder / "without.yaml").unlink()
    paths = {"corpus.filter.min_bytes": 35, "tokenizer.vocab_size": 4096, "finetuning.epochs": 9}
    new = [edited(path, value) for path, value in paths.items()]
    found = dry([edit({"dvc.yaml": pipeline, "specs/lock.yaml": lock_text(each)}, [], True) for each in new])
    for experiment, ran in zip(new, found, strict=True):
        predicted = predict(smoke, experiment)
        assert predicted.following
        assert ran == set(predicted.changed) | set(predicted.following)


def test_changed_code_runs_the_stages_that_are_made_of_it(
    dry: Callable[[list[dict[str, Any]]], list[set[str]]], smoke: Experiment
) -> None:
    files = ["data_pipeline/dedup.py", "model/decoder/module.py", "evaluation/scoring/module.py"]
    for file, ran in zip(files, dry([edit({file: "other\n"}) for file in files]), strict=True):
        predicted = predict(smoke, smoke, file, str(Path(file).parent))
        assert predicted.changed
        assert ran == set(predicted.changed)


def test_a_pipeline_that_nobody_has_seen_is_read_as_data(smoke: Experiment, edited: Callable[..., Experiment]) -> None:
    text = """
stages:
  one:
    foreach: ${runs}
    do:
      cmd: a ${item.corpus}
      outs: ["made/${key}"]
      params:
        - specs/lock.yaml: ["runs.${key}.vocab_size"]
  two: {cmd: b, deps: [made/smoke/part], outs: [last]}
  three: {cmd: c, deps: [elsewhere], outs: [other]}
"""
    new = edited("tokenizer.vocab_size", 4096)
    found = reruns(expand(text, lock_of(smoke)), expand(text, lock_of(new)))
    assert found.changed == {"one@smoke": "values of runs.smoke.vocab_size"}
    assert found.following == {"two": "one@smoke"}
    assert found.reused == ("three",)
