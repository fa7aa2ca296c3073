import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specs.common.errors import UserError
from specs.common.git import commit_of, files, show
from specs.loading.settings import ROOT
from specs.pipeline.dvc_graph import expand, lock_of
from specs.review.compare import compare, one_sided
from specs.review.diff import changes
from specs.review.impact import Difference, difference
from specs.review.revisions import Side
from specs.schema.experiment import Experiment

PIPELINE = (ROOT / "dvc.yaml").read_text("utf-8")
COMPARABLE = {"all": {True}, "none": {False}, "some": {True, False}}


def side(experiment: Experiment) -> Side:
    return Side(
        experiment.name,
        experiment,
        lambda path: (ROOT / path).read_text("utf-8"),
        lambda path: None,
        repr(experiment),
    )


def review(old: Experiment, new: Experiment) -> Difference:
    return difference(side(old), side(new))


def test_the_table_holds_forty_edits_and_more(edits: list[dict[str, Any]]) -> None:
    assert len({each["path"] for each in edits}) >= 40


def test_every_edit_has_the_consequences_that_the_table_states(
    edits: list[dict[str, Any]], smoke: Experiment, edited: Callable[[str, Any], Experiment]
) -> None:
    order = list(dict.fromkeys(name.partition("@")[0] for name in expand(PIPELINE, lock_of(smoke))))
    for each in edits:
        found = review(smoke, edited(each["path"], each["value"]))
        kinds = {name.partition("@")[0] for name in found.stages.changed if name not in found.stages.checks}
        comparable = {score.comparable or False for score in found.scores}
        assert found.changes, each
        assert min(kinds, key=order.index, default="check") == each["from"], each
        assert (found.loading.resumes, found.loading.weights) == (each["resumes"], each["weights"]), each
        assert comparable == COMPARABLE[each["comparable"]], each
        assert not set(found.stages.changed) & set(found.stages.following), each


def test_a_change_says_its_field_its_values_and_why_it_matters(
    edits: list[dict[str, Any]], smoke: Experiment, edited: Callable[[str, Any], Experiment]
) -> None:
    for each in edits:
        for change in changes(smoke, edited(each["path"], each["value"])):
            assert change.why, change
            assert change.old != change.new
    (change,) = changes(smoke, edited("pretraining.optimizer.lr", 0.0007))
    assert (change.path, change.new) == ("pretraining.optimizer.lr", 0.0007)


def test_a_renamed_source_is_a_rename_and_its_other_fields_are_compared(smoke: Experiment) -> None:
    first = smoke.corpus.sources[0]
    sources = (first.model_copy(update={"name": "elsewhere", "limit": 5}), *smoke.corpus.sources[1:])
    new = smoke.model_copy(update={"corpus": smoke.corpus.model_copy(update={"sources": sources})})
    found = {change.path: change.kind for change in changes(smoke, new)}
    assert found[f"corpus.sources[{first.name}]"] == "renamed"
    assert set(found) == {f"corpus.sources[{first.name}]", "corpus.sources[elsewhere].limit"}


def test_another_order_of_sources_is_a_change_of_priority(smoke: Experiment) -> None:
    sources = smoke.corpus.sources[::-1]
    new = smoke.model_copy(update={"corpus": smoke.corpus.model_copy(update={"sources": sources})})
    (change,) = changes(smoke, new)
    assert change.kind == "reordered"


def test_an_added_source_is_not_taken_for_a_change_of_its_neighbours(smoke: Experiment) -> None:
    extra = smoke.corpus.sources[0].model_copy(update={"name": "extra", "sha256": "0" * 64, "include": ("x",)})
    sources = (extra, *smoke.corpus.sources)
    new = smoke.model_copy(update={"corpus": smoke.corpus.model_copy(update={"sources": sources})})
    assert [(change.path, change.kind) for change in changes(smoke, new)] == [("corpus.sources[extra]", "added")]


@given(data=st.data())
def test_no_difference_to_itself_and_the_opposite_the_other_way(
    data: st.DataObject, smoke: Experiment, edits: list[dict[str, Any]], edited: Callable[[str, Any], Experiment]
) -> None:
    pick = st.sampled_from(edits).map(lambda each: edited(each["path"], each["value"]))
    old, new = data.draw(pick), data.draw(pick)
    assert changes(old, old) == []
    forth, back = changes(old, new), changes(new, old)
    key = repr
    # A rename is found under the name of the side that it starts from.
    plain = [change for change in forth if change.kind != "renamed" and "elsewhere" not in change.path]
    other = [change.reversed() for change in back if change.kind != "renamed"]
    assert sorted(map(key, plain)) == sorted(map(key, other)) or any(c.kind == "renamed" for c in forth)
    renamed = {(c.old, c.new) for c in forth if c.kind == "renamed"}
    assert renamed == {(c.new, c.old) for c in back if c.kind == "renamed"}


@given(seed=st.integers(0, 2**32))
def test_antisymmetric_over_lists_of_sources(seed: int, smoke: Experiment) -> None:
    rng = random.Random(seed)

    def variant() -> Experiment:
        sources = []
        for source in smoke.corpus.sources:
            if rng.random() < 0.6:
                renamed = {"name": f"other-{source.name}"} if rng.random() < 0.3 else {}
                limited = {"limit": rng.randint(1, 3)} if rng.random() < 0.4 else {}
                sources.append(source.model_copy(update=renamed | limited))
        rng.shuffle(sources)
        chosen = tuple(sources) or smoke.corpus.sources
        return smoke.model_copy(update={"corpus": smoke.corpus.model_copy(update={"sources": chosen})})

    old, new = variant(), variant()
    forth, back = changes(old, new), changes(new, old)
    for kind, opposite in (("added", "removed"), ("removed", "added"), ("renamed", "renamed")):
        left = sorted(repr((c.old, c.new)) for c in forth if c.kind == kind)
        right = sorted(repr((c.new, c.old)) for c in back if c.kind == opposite)
        assert left == right
    left = sorted(repr((c.old, c.new)) for c in forth if c.kind == "changed")
    assert left == sorted(repr((c.new, c.old)) for c in back if c.kind == "changed")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit that holds the specs and the pipeline."""
    root = tmp_path / "repository"
    shutil.copytree(ROOT / "specs", root / "specs", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    (root / "dvc.yaml").write_text(PIPELINE, "utf-8")
    for module in ("review.revisions", "loading.yaml_reader", "common.git"):
        monkeypatch.setattr(f"specs.{module}.ROOT", root)
    monkeypatch.chdir(root)
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for arguments in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True)
    return root


def test_revisions_are_read_with_the_files_that_they_include(repository: Path) -> None:
    tokenizer = next((repository / "specs" / "tokenizers").glob("unigram-8k.yaml"))
    tokenizer.write_text(tokenizer.read_text("utf-8") + "\nmax_piece_length: 15\n", "utf-8")
    path = "specs/experiments/smoke.yaml"
    (found,) = compare([f"HEAD:{path}", path])
    assert [change.path for change in found.changes] == ["tokenizer.max_piece_length"]
    assert "tokenizer@unigram-8k" in found.stages.changed
    commit = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qam", "second"]
    subprocess.run(commit, cwd=repository, check=True, capture_output=True)
    (found,) = compare(["HEAD~1..HEAD"])
    assert [change.path for change in found.changes] == ["tokenizer.max_piece_length"]
    assert compare(["HEAD..HEAD"]) == []
    assert one_sided(["HEAD..HEAD"]) == []
    subprocess.run(["git", "rm", "-q", "specs/experiments/small.yaml"], cwd=repository, check=True)
    subprocess.run(commit, cwd=repository, check=True, capture_output=True)
    assert one_sided(["HEAD~1..HEAD"]) == ["specs/experiments/small.yaml is gone in HEAD"]
    assert one_sided(["HEAD..HEAD~1"]) == ["specs/experiments/small.yaml is new in HEAD~1"]


def test_files_of_a_commit_are_those_that_git_shows(repository: Path) -> None:
    odd = ["specs/empty.yaml", "specs/ä b.yaml", "specs/folder.yaml/in.yaml", "specs/open.yaml", "notes.txt"]
    for number, name in enumerate(odd):
        path = repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x: é\n" * number + "end" * (number % 2), "utf-8")
    (repository / "specs" / "link.yaml").symlink_to("open.yaml")
    for arguments in (["add", "."], ["-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "odd"]):
        subprocess.run(["git", *arguments], cwd=repository, check=True, capture_output=True)
    commit = commit_of("HEAD")
    for name in ["notes.txt", "dvc.yaml", *(name for name in files(commit, "specs") if (repository / name).is_file())]:
        shown = subprocess.run(["git", "show", f"HEAD:{name}"], cwd=repository, capture_output=True, check=True).stdout
        assert show(commit, name) == shown.decode()
    assert show(commit, "specs/absent.yaml") is None
    assert files(commit, "specs/experiments") == [
        f"specs/experiments/{name}.yaml" for name in ("code-34b", "small", "smoke")
    ]


def test_formatting_comments_and_key_order_are_no_difference(repository: Path) -> None:
    path = repository / "specs" / "experiments" / "smoke.yaml"
    text = path.read_text("utf-8").replace("# ", "#   ").replace("{lr: ", "{ lr:  ")
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("cluster:"))
    path.write_text("\n".join([lines[at], *lines[:at], *lines[at + 1 :]]) + "\n", "utf-8")
    (found,) = compare(["HEAD:specs/experiments/smoke.yaml", str(path)])
    assert found.changes == ()
    assert found.empty
    assert set(found.stages.changed) == set(found.stages.checks) == {"lock"}


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (["one"], "give two states"),
        (["absent..HEAD"], "git knows no revision 'absent'"),
        (["HEAD:absent.yaml", "specs/experiments/smoke.yaml"], "there is no file"),
        (["HEAD:", "x"], "give a file after the colon"),
        (["-x:y", "x"], "git knows no revision '-x'"),
    ],
)
def test_states_that_cannot_be_read_are_refused(repository: Path, states: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compare(states)
