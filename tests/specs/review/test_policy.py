import shutil
import subprocess
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from specs.common.errors import UserError
from specs.loading.load import load_experiment, load_section
from specs.loading.settings import ROOT
from specs.pipeline import reviewed
from specs.review.impact import difference
from specs.review.policy import POLICY, RULES, Judgement, Policy, judge
from specs.review.revisions import Side
from specs.schema.experiment import Experiment

EVERY_RULE = "rules:\n" + "".join(f"  {name}: {{action: block, owner: someone}}\n" for name in RULES)
TODAY = date(2026, 6, 1)


def side(experiment: Experiment, policy: str | None) -> Side:
    def text(path: str) -> str | None:
        return policy if path == POLICY else (ROOT / path).read_text("utf-8")

    return Side(experiment.name, experiment, text, lambda path: None, repr(experiment))


def judged(old: Experiment, new: Experiment, policy: str, after: str | None = None) -> list[Judgement]:
    left, right = side(old, policy), side(new, policy if after is None else after)
    return judge(difference(left, right), left, right, TODAY)


def changed(experiment: Experiment, path: str, value: Any) -> Experiment:
    """Another value at a dotted path, validated again."""
    plain = at = experiment.model_dump(mode="json")
    *parents, last = path.split(".")
    for part in parents:
        at = at[int(part)] if part.isdigit() else at[part]
    at[last] = value
    return Experiment.model_validate(plain)


@pytest.fixture(scope="module")
def code_34b() -> Experiment:
    return load_experiment(ROOT / "specs" / "experiments" / "code-34b.yaml")


def assumptions_without_one(experiment: Experiment) -> dict[str, str]:
    return dict(list(experiment.assumptions.items())[1:])


def against(experiment: Experiment) -> list[Any]:
    return [benchmark.model_dump(mode="json") for benchmark in experiment.corpus.decontaminate.against]


# A change that each rule blocks, and one of the same field that it lets pass.
CHANGES: dict[str, tuple[tuple[str, Any], tuple[str, Any]]] = {
    "scores-stop-comparing": (("evaluation.benchmarks.0.temperature", 0.3), ("evaluation.batch_size", 64)),
    "claim-missed": (("architecture.d_ff", 20_480), ("architecture.init_std", 0.01)),
    "assumption-removed": (("assumptions", assumptions_without_one), ("description", "other words")),
    "decontamination-weakened": (
        ("corpus.decontaminate.ngram_words", 12),
        ("corpus.decontaminate.ngram_words", 8),
    ),
    "licence-added": (
        ("corpus.filter.licences", lambda e: [*e.corpus.filter.licences, "GPL-3.0-only"]),
        ("corpus.filter.licences", lambda e: list(e.corpus.filter.licences)[1:]),
    ),
    "data-lost": (("corpus.sources", None), ("corpus.sources.0.epochs", 2.0)),
    "determinism-lowered": (("reproducibility.level", "restart"), ("reproducibility.level", "topology")),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_stops_the_change_that_it_is_about_and_no_other(
    rule: str, smoke: Experiment, code_34b: Experiment
) -> None:
    experiment = smoke if rule == "data-lost" else code_34b
    assert CHANGES.keys() == RULES.keys()
    for (path, value), stopped in zip(CHANGES[rule], (True, False), strict=True):
        if rule == "data-lost" and stopped:
            value = [source.model_dump(mode="json") for source in smoke.corpus.sources][4:]
        new = changed(experiment, path, value(experiment) if callable(value) else value)
        blocks = {one.rule for one in judged(experiment, new, EVERY_RULE) if one.blocks}
        assert (rule in blocks) == stopped, (path, blocks)


@pytest.mark.parametrize(
    ("field", "value"), [("structure_tokens", 0), ("structure_tokens", 64), ("min_chars", 80), ("against", [])]
)
def test_every_way_to_clean_less_is_weaker(smoke: Experiment, field: str, value: Any) -> None:
    cleaner = smoke.corpus.decontaminate.model_copy(update={field: tuple(value) if field == "against" else value})
    new = smoke.model_copy(update={"corpus": smoke.corpus.model_copy(update={"decontaminate": cleaner})})
    assert "decontamination-weakened" in {one.rule for one in judged(smoke, new, EVERY_RULE)}


def test_a_budget_is_held_against_what_running_again_costs(code_34b: Experiment) -> None:
    new = changed(code_34b, "pretraining.optimizer.lr", 2.1e-5)
    for budget, stopped in (("money: 1_000_000", True), ("money: 2_000_000", False), ("device_hours: 100", True)):
        text = f"budget: {{{budget}, owner: someone}}\n"
        assert bool([one for one in judged(code_34b, new, text) if one.blocks]) == stopped, budget


def test_an_action_decides_whether_a_rule_stops(code_34b: Experiment) -> None:
    new = changed(code_34b, "reproducibility.level", "restart")
    for action, expected in (("allow", []), ("warn", [False]), ("block", [True])):
        text = f"rules:\n  determinism-lowered: {{action: {action}, owner: someone}}\n"
        assert [one.blocks for one in judged(code_34b, new, text)] == expected


WAIVER = "waivers:\n  - {rule: determinism-lowered, reason: one GPU of its kind, until: %s}\n"


def test_a_waiver_counts_in_the_change_that_brings_it_until_its_last_day(code_34b: Experiment) -> None:
    new = changed(code_34b, "reproducibility.level", "restart")
    for until, stopped in (("2026-06-01", False), ("2026-05-31", True)):
        (judgement,) = [
            one for one in judged(code_34b, new, EVERY_RULE, EVERY_RULE + WAIVER % until) if one.rule != "policy"
        ]
        assert judgement.blocks == stopped and bool(judgement.waiver) != stopped
    # An old waiver is no licence for the next change.
    old = EVERY_RULE + WAIVER % "2026-12-31"
    assert [one.blocks for one in judged(code_34b, new, old)] == [True]


def test_a_change_cannot_loosen_what_judges_it(code_34b: Experiment) -> None:
    new = changed(code_34b, "reproducibility.level", "restart")
    loose = EVERY_RULE.replace("block", "allow")
    found = judged(code_34b, new, EVERY_RULE, loose)
    assert [(one.rule, one.blocks) for one in found] == [("determinism-lowered", True), ("policy", False)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules: {no-such-rule: {action: block, owner: me}}", "no-such-rule is no rule"),
        ("rules: {claim-missed: {action: stop, owner: me}}", "must be allow, warn or block"),
        ("waivers: [{rule: claim-missed, reason: because it is so, until: soon}]", "until"),
        ("waivers: [{rule: claim-missed, reason: why, until: 2026-01-01}]", "reason"),
    ],
)
def test_a_policy_that_says_nothing_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "policy.yaml").write_text(text, "utf-8")
    with pytest.raises(UserError, match=message):
        load_section(tmp_path / "policy.yaml", Policy)


def test_the_projects_own_policy_is_valid_and_names_every_rule() -> None:
    assert load_section(ROOT / POLICY, Policy).rules.keys() == RULES.keys()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """A repository of the parts that a result depends on; the function runs git in it."""
    for name in reviewed.PARTS:
        if (ROOT / name).is_dir():
            (tmp_path / name).mkdir()
            (tmp_path / name / "file.py").write_text(name, "utf-8")
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    monkeypatch.setattr("specs.common.git.ROOT", tmp_path)
    return git


def test_a_run_is_bound_to_what_was_reviewed(
    repository: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reviewed.require_reviewed()  # nothing is bound
    first = repository("rev-parse", "HEAD")
    monkeypatch.setenv(reviewed.VARIABLE, reviewed.reviewed_digest(first))
    reviewed.require_reviewed()
    (tmp_path / "notes.txt").write_text("beside", "utf-8")
    repository("add", ".")
    repository("commit", "-qm", "notes")
    reviewed.require_reviewed()
    (tmp_path / "model" / "file.py").write_text("other", "utf-8")
    with pytest.raises(UserError, match=r"differs: M model/file\.py"):
        reviewed.require_reviewed()
    repository("commit", "-qam", "another model")
    with pytest.raises(UserError, match="check out what was reviewed"):
        reviewed.require_reviewed()
