"""The whole pipeline under DVC: what re-runs, what a kill leaves, what a forced run gives."""

from typing import Any

import pytest

MODEL = ["pretrain@tiny", "finetune@tiny", "complete@tiny-basics", "score@tiny-basics", "report@tiny"]
TOKENS = ["tokenizer@tiny", "pack@tiny-code-tiny-64", "pack@tiny-instructions-tiny-64-answers"]
SPEC = "specs/experiments/tiny.yaml"

pytestmark = pytest.mark.slow


def test_a_second_run_runs_nothing(built: Any) -> None:
    assert built.stages_run("--dry") == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("{lr: 1e-3}", "{lr: 2e-3}", MODEL),
        ("max_new_tokens: 8, k: [1]", "max_new_tokens: 8, k: [1, 2]", MODEL[3:]),
        ("devices: 2, devices_per_node: 2", "devices: 1, devices_per_node: 1", MODEL[4:]),
    ],
    ids=["lr", "k", "devices"],
)
def test_a_change_runs_what_depends_on_it(project: Any, old: str, new: str, expected: list[str]) -> None:
    project.edit(SPEC, old, new)
    project.lock()
    assert project.stages_run() == ["lock", *expected]
    assert project.stages_run("--dry") == []


@pytest.mark.parametrize(
    ("file", "old", "new", "first"),
    [
        (SPEC, "vocab_size: 640", "vocab_size: 704", TOKENS[0]),
        ("specs/schema/training.py", "Field(lt=1)] = 0.95", "Field(lt=1)] = 0.96", MODEL[0]),
    ],
    ids=["vocab_size", "a default in code"],
)
def test_no_stage_before_the_change_would_run(project: Any, file: str, old: str, new: str, first: str) -> None:
    project.edit(file, old, new)
    project.lock()
    # DVC cannot know all that follows before the first of them has run.
    would_run = project.stages_run("--dry")
    assert would_run[:2] == ["lock", first]
    assert set(would_run) <= {"lock", *TOKENS, *MODEL}


@pytest.mark.parametrize("unlock", ["edit the spec", "edit a default"])
def test_a_stale_lock_stops_every_stage_and_loses_nothing(project: Any, unlock: str) -> None:
    before = project.digests()
    if unlock == "edit the spec":
        project.edit(SPEC, "{lr: 1e-3}", "{lr: 2e-3}")
    else:
        project.edit("specs/schema/training.py", "Field(lt=1)] = 0.95", "Field(lt=1)] = 0.96")
    code, output = project.run("dvc", "repro")
    assert code != 0
    assert "error: specs/lock.yaml is stale: runs.tiny" in output
    assert "run `twice lock`" in output
    assert "Traceback" not in output
    assert [line for line in output.splitlines() if line.startswith("Running stage")] == ["Running stage 'lock':"]
    before.pop("lock.fresh")
    assert project.digests() == before
    code, output = project.run(
        "python", "-m", "data_pipeline.filter", "corpora.tiny-code", "--documents", "artifacts", "--out", "out"
    )
    assert code == 2
    assert output.startswith("error: specs/lock.yaml is stale")


def test_forcing_everything_gives_the_same_bytes(project: Any) -> None:
    before = project.digests()
    assert any(name.endswith("model.safetensors") for name in before)
    project.repro("--force")
    assert project.digests() == before


@pytest.mark.parametrize(
    ("stage", "module"),
    [
        ("fetch@tiny-code", "data_pipeline.fetch"),
        ("ingest@tiny-code", "data_pipeline.ingest"),
        ("filter@tiny-code", "data_pipeline.filter"),
        ("dedup@tiny-code", "data_pipeline.dedup"),
        ("decontaminate@tiny-code", "data_pipeline.decontaminate"),
        ("augment@tiny-code", "data_pipeline.augment"),
        ("tokenizer@tiny", "data_pipeline.train_tokenizer"),
        ("pack@tiny-code-tiny-64", "data_pipeline.pack"),
        ("pretrain@tiny", "runner.pretrain"),
        ("finetune@tiny", "runner.finetune"),
        ("complete@tiny-basics", "evaluation.complete"),
        ("score@tiny-basics", "evaluation.score"),
        ("report@tiny", "runner.report"),
    ],
)
def test_a_killed_stage_ends_with_the_same_bytes(project: Any, stage: str, module: str) -> None:
    before = project.digests()
    project.kill_during(stage, module)
    project.repro()
    assert project.digests() == before
    assert project.processes(module) == []


def test_a_training_run_killed_after_a_checkpoint_goes_on_from_it(project: Any) -> None:
    before = project.digests()

    def saved() -> bool:
        return any((project.root / "scratch").glob("pretrain-*/checkpoints/step-*/*"))

    project.kill_during("pretrain@tiny", "runner.pretrain", ready=saved)
    project.repro()
    assert project.digests() == before


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (SPEC, "d_model: 16", "d_modle: 16", "did you mean 'd_model'?"),
        (SPEC, "d_model: 16", "d_model: wide", "architecture.d_model: not a number: 'wide'"),
        (SPEC, "d_model: 16", "d_model: 16\n  d_model: 18", "duplicate key 'd_model'"),
        (SPEC, "n_heads: 2", "n_heads: 3", "d_model 16 is not divisible by n_heads 3"),
    ],
)
def test_a_bad_spec_is_one_line_and_loses_nothing(project: Any, file: str, old: str, new: str, message: str) -> None:
    before = project.digests()
    project.edit(file, old, new)
    for command in (["twice", "check", SPEC], ["twice", "lock"]):
        code, output = project.run(*command)
        assert code == 2
        assert any(message in line and f"{SPEC}:" in line for line in output.splitlines())
        assert "Traceback" not in output
    code, output = project.run("dvc", "repro")
    assert code != 0
    assert message in output
    before.pop("lock.fresh")
    assert project.digests() == before


def rename(project: Any, old: str, new: str) -> None:
    folder = project.root / "specs" / "experiments"
    text = (folder / f"{old}.yaml").read_text("utf-8").replace(f"name: {old}\n", f"name: {new}\n", 1)
    (folder / f"{new}.yaml").write_text(text, "utf-8")
    (folder / f"{old}.yaml").unlink()


def test_a_renamed_experiment_runs_nothing_again_but_its_report(project: Any) -> None:
    before = project.digests()
    rename(project, "tiny", "small")
    code, output = project.run("twice", "lock")
    assert code == 2 and "'tiny' is gone, and 'small' is the same: run `twice lock small`" in output
    code, output = project.run("twice", "lock", "small")
    assert code == 0 and "keeps the results of 4 stages under new names: pretrain@tiny is now pretrain@small" in output
    assert project.stages_run() == ["lock", "report@small"]
    assert project.stages_run("--dry") == []
    after = project.digests()
    moved = {name.replace("runs/tiny", "runs/small"): digest for name, digest in before.items() if "runs/tiny" in name}
    assert moved and moved.items() <= after.items()


@pytest.mark.thorough
def test_experiments_that_come_and_go_lose_nothing(project: Any) -> None:
    """Lock one, run, lock another, run, check out, collect garbage as documented, lock the first: nothing runs."""
    before = project.digests()
    text = (project.root / SPEC).read_text("utf-8").replace("name: tiny\n", "name: other\n", 1)
    text = text.replace("{lr: 1e-3}", "{lr: 2e-3}", 1)
    (project.root / "specs" / "experiments" / "other.yaml").write_text(text, "utf-8")
    code, output = project.run("twice", "lock", "other")
    assert code == 0 and "finished outputs of what is not locked are kept" in output
    assert project.stages_run() == ["lock", *(name.replace("@tiny", "@other") for name in MODEL)]
    for command in (("checkout",), ("gc", "--workspace", "--force")):
        code, output = project.run("dvc", *command)
        assert code == 0, output
    code, output = project.run("twice", "lock", "--add", "tiny", "--remove", "other")
    assert code == 0, output
    assert project.stages_run() == ["lock"]
    assert before.items() <= project.digests().items()
    assert project.run("dvc", "status", "--json") == (0, "{}\n")
