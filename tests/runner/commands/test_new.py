import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from runner.cli import main
from runner.commands import new
from specs.loading.load import load_experiment
from specs.loading.settings import ROOT

WORDS = "Text that somebody brings, in whole sentences, as notes are. "


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project of its own, with the specs and a folder of text."""
    shutil.copytree(ROOT / "specs", tmp_path / "specs", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    (tmp_path / "notes" / "old").mkdir(parents=True)
    for number in range(40):
        (tmp_path / "notes" / f"{number}.md").write_text(f"# Note {number}\n\n" + WORDS * 50, "utf-8")
    (tmp_path / "dvc.yaml").touch()  # the mark of a checkout
    for module in (
        "specs.common.checkout.ROOT",
        "runner.commands.new.ROOT",
        "specs.loading.settings.ROOT",
        "specs.loading.yaml_reader.ROOT",
    ):
        monkeypatch.setattr(module, tmp_path)
    monkeypatch.setattr(new, "SPECS", tmp_path / "specs")
    monkeypatch.setattr("runner.cli.ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["new", *arguments])


def test_a_new_experiment_is_whole_and_says_what_to_type_next(project: Path) -> None:
    result = call("mine")
    assert result.exit_code == 0, result.output
    assert "next: twice check specs/experiments/mine.yaml" in result.output
    path = project / "specs" / "experiments" / "mine.yaml"
    mine, smoke = load_experiment(path), load_experiment(path.with_name("smoke.yaml"))
    assert (
        mine.name == "mine" and mine.corpus == smoke.corpus and mine.architecture.d_model == smoke.architecture.d_model
    )
    assert all(
        "#" in line for line in path.read_text("utf-8").splitlines() if line.startswith(("  d_", "  n_", "  tokens"))
    )


def test_own_text_is_pinned_and_everything_fits_its_size(project: Path) -> None:
    result = call("mine", "--corpus", "notes", "--licence", "MIT")
    assert result.exit_code == 0, result.output
    mine = load_experiment(project / "specs" / "experiments" / "mine.yaml")
    (source,) = mine.corpus.sources
    assert (source.licence, source.locator.kind, source.filename) == ("MIT", "folder", "notes.tar")
    assert mine.corpus.filter.licences == ("MIT",)
    assert mine.tokenizer.vocab_size == 512 and mine.tokenizer.vocab_size % 64 == 0
    size = source.size or 0
    assert mine.tokenizer.sample_bytes <= size and mine.pretraining.tokens <= 4 * size / new.BYTES_OF_A_TOKEN
    scored = {run.benchmark.name for run in mine.evaluation.benchmarks}
    assert scored == {benchmark.name for benchmark in mine.corpus.decontaminate.against}
    # Pinned: another text is another digest.
    (project / "notes" / "0.md").write_text("changed", "utf-8")
    assert call("other", "--corpus", "notes").exit_code == 0
    other = load_experiment(project / "specs" / "experiments" / "other.yaml")
    assert other.corpus.sources[0].sha256 != source.sha256


def test_devices_of_a_cluster_share_the_batch(project: Path) -> None:
    assert call("large", "--device", "A100-80GB", "--devices", "16").exit_code == 0
    large = load_experiment(project / "specs" / "experiments" / "large.yaml")
    assert (large.cluster.device, large.cluster.devices, large.cluster.devices_per_node) == ("A100-80GB", 16, 8)
    assert large.pretraining.micro_batches == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["smoke"], "is there already"),
        (["Not A Name"], "lower-case words"),
        (["mine", "--from", "absent"], "no file"),
        (["mine", "--corpus", "/etc"], "outside the project"),
        (["mine", "--corpus", "absent"], "there is no absent"),
        (["mine", "--corpus", "specs/policy.yaml"], "too few for 16 rows"),
        (["mine", "--corpus", "notes", "--licence", "My own"], "licence"),
        (["mine", "--device", "A1000"], "A1000"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(project: Path, arguments: list[str], message: str) -> None:
    before = sorted(project.rglob("*"))
    result = call(*arguments)
    assert result.exit_code == 2 and message in result.output and "Traceback" not in result.output, result.output
    assert sorted(project.rglob("*")) == before
