import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from specs.common.errors import UserError
from specs.loading.settings import ROOT
from specs.pipeline import lock as locking
from specs.pipeline.nodes import KINDS, RunNode, TokenizerNode
from specs.schema.data import Corpus


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    """A copy of the specs that the lock then reads; returns a function that replaces text in one of its files."""
    specs = tmp_path / "specs"
    shutil.copytree(ROOT / "specs", specs, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    monkeypatch.setattr(locking, "LOCK", specs / "lock.yaml")
    monkeypatch.setattr(locking, "EXPERIMENTS", specs / "experiments")
    locking.write_lock(locking.build_lock(["smoke"]))

    def replace(file: str, old: str, new: str) -> None:
        path = specs / file
        assert old in path.read_text("utf-8")
        path.write_text(path.read_text("utf-8").replace(old, new), "utf-8")

    return replace


def test_the_committed_lock_is_fresh_and_holds_smoke_alone() -> None:
    assert locking.check_lock()["experiments"] == ["smoke"]


def test_the_lock_writes_defaults_out() -> None:
    run = locking.check_lock()["runs"]["smoke"]
    assert run["pretraining"]["optimizer"]["beta2"] == 0.95


def test_every_node_reads_back_as_the_section_it_was() -> None:
    lock = locking.build_lock(["smoke", "code-34b"])
    for kind, section in KINDS.items():
        assert lock[kind]
        for node in lock[kind].values():
            assert section.model_validate(node).model_dump(mode="json") == node


def test_a_stale_lock_names_the_first_difference(edit: Callable[[str, str, str], None]) -> None:
    edit("experiments/smoke.yaml", "{lr: 6e-3}", "{lr: 4e-3}")
    with pytest.raises(UserError, match=r"runs\.smoke\.pretraining\.optimizer\.lr is 0\.004 in the specs, 0\.006"):
        locking.read_node("runs.smoke", RunNode)
    assert locking.write_lock(locking.build_lock(["smoke"]))
    assert locking.read_node("runs.smoke", RunNode).pretraining.optimizer.lr == 0.004


def test_comments_and_formatting_are_no_change(edit: Callable[[str, str, str], None]) -> None:
    edit("experiments/smoke.yaml", "{lr: 6e-3}", "  # peak\n    lr: 0.006")
    locking.check_lock()
    assert not locking.write_lock(locking.build_lock(["smoke"]))


def test_a_changed_default_in_code_is_seen(
    edit: Callable[[str, str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locking, "resolve", lambda experiment: _with_other_default(experiment))
    with pytest.raises(UserError, match="stale"):
        locking.check_lock()


def _with_other_default(experiment: object) -> object:
    from specs.pipeline.nodes import resolve
    from specs.schema.experiment import Experiment

    assert isinstance(experiment, Experiment)
    optimizer = experiment.pretraining.optimizer.model_copy(update={"eps": 1e-7})
    pretraining = experiment.pretraining.model_copy(update={"optimizer": optimizer})
    return resolve(experiment.model_copy(update={"pretraining": pretraining}))


def test_two_contents_under_one_name_are_refused(edit: Callable[[str, str, str], None]) -> None:
    folder = locking.EXPERIMENTS
    other = (folder / "smoke.yaml").read_text("utf-8").replace("name: smoke", "name: other")
    tokenizer = (folder.parent / "tokenizers" / "unigram-8k.yaml").read_text("utf-8")
    (folder.parent / "tokenizers" / "other.yaml").write_text(
        tokenizer + "\ncharacter_coverage: 99%\n", encoding="utf-8"
    )
    (folder / "other.yaml").write_text(other.replace("tokenizers/unigram-8k", "tokenizers/other"), "utf-8")
    with pytest.raises(UserError, match=r"'other' and 'smoke' .*tokenizers\.unigram-8k\.tokenizer\.character_coverage"):
        locking.build_lock(["smoke", "other"])


def test_weights_change_the_store_and_not_the_corpus(edit: Callable[[str, str, str], None]) -> None:
    before = locking.build_lock(["smoke"])
    first = next(iter(before["corpora"]["smoke-code"]["sources"]))["name"]
    edit("corpora/smoke-code.yaml", f"- name: {first}\n", f"- name: {first}\n    weight: 3\n")
    after = locking.build_lock(["smoke"])
    assert [kind for kind in KINDS if before[kind] != after[kind]] == ["token_stores"]


@pytest.mark.parametrize(
    ("address", "kind", "message"),
    [
        ("corpora.absent", Corpus, "the lock holds no 'corpora.absent'; in corpora there are: smoke-code"),
        ("runs.smoke", TokenizerNode, "give tokenizers.NAME"),
        ("smoke", Corpus, "give corpora.NAME"),
    ],
)
def test_a_wrong_address_is_refused(address: str, kind: type[Corpus], message: str) -> None:
    with pytest.raises(UserError, match=message):
        locking.read_node(address, kind)


def test_a_damaged_lock_is_refused(edit: Callable[[str, str, str], None]) -> None:
    for text in ("", "- 1", "experiments: smoke", "a: ["):
        locking.LOCK.write_text(text, "utf-8")
        with pytest.raises(UserError, match="twice lock"):
            locking.check_lock()
    locking.LOCK.unlink()
    with pytest.raises(UserError, match="twice lock"):
        locking.check_lock()


def test_an_unknown_experiment_is_refused() -> None:
    with pytest.raises(UserError, match=r"there are: .*smoke"):
        locking.build_lock(["absent"])
