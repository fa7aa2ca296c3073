"""What a project allows a change to do: budgets and rules in `specs/policy.yaml`, and waivers of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from specs.common.errors import UserError
from specs.loading.load import load_section
from specs.loading.settings import ROOT
from specs.review.claims import audit
from specs.review.impact import Difference
from specs.review.price import total
from specs.review.revisions import Side
from specs.schema.base import Items, Name, Section
from specs.schema.data import Corpus
from specs.schema.experiment import Experiment
from specs.schema.quantities import Bytes, Fraction, Real

POLICY = "specs/policy.yaml"
LEVELS = ("data", "restart", "topology", "portable")
Action = Literal["allow", "warn", "block"]


class Rule(Section):
    """What becomes of a change that a rule is about."""

    action: Action
    """Whether such a change passes, is remarked on, or is stopped."""
    owner: str
    """Who decides on exceptions."""


class Budget(Section):
    """What the stages that a change runs again may cost."""

    money: Annotated[Real, Field(ge=0)] | None = None
    """US dollars at the stated prices of devices."""
    device_hours: Annotated[Real, Field(ge=0)] | None = None
    """Hours of all devices together."""
    disk: Bytes | None = None
    """Bytes of the checkpoints that a run keeps."""
    action: Action = "block"
    """Whether a change beyond the budget is remarked on or stopped."""
    owner: str
    """Who decides on exceptions."""


class Waiver(Section):
    """An exception from a rule, for a reason and until a day."""

    rule: str
    """The rule, or `budget`."""
    experiment: Name | None = None
    """The experiment that it is about; none means every one."""
    reason: Annotated[str, Field(min_length=10)]
    """Why the change is right all the same."""
    until: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    """The last day on which it counts, as 2026-12-31."""


class Policy(Section):
    """Budgets, rules and waivers of a project."""

    budget: Budget | None = None
    """What one change may cost."""
    rules: Annotated[dict[str, Rule], Field(default_factory=dict)]
    """By name of the rule: what becomes of a change that it is about."""
    data_lost: Fraction = 0.05
    """Share of the stated bytes of sources from which `data-lost` applies."""
    waivers: Items[Waiver] = ()
    """Exceptions, each with a reason and an end."""

    @model_validator(mode="after")
    def _rules_exist(self) -> Self:
        for name in self.rules:
            if name not in RULES:
                raise ValueError(f"rules.{name} is no rule: there are {', '.join(RULES)}")
        for index, waiver in enumerate(self.waivers):
            if waiver.rule not in (*RULES, "budget"):
                raise ValueError(f"waivers[{index}].rule {waiver.rule!r} is no rule: there are {', '.join(RULES)}")
        return self


@dataclass(frozen=True)
class Judgement:
    """What a policy says of one point of a change."""

    rule: str
    action: Action
    message: str
    owner: str
    waiver: Waiver | None = None
    """The exception that turns a block into a remark."""

    @property
    def blocks(self) -> bool:
        """Whether the change is stopped by it."""
        return self.action == "block" and self.waiver is None


def load_policy(side: Side) -> Policy | None:
    """The policy of one state of the project; none where it has none. Raises UserError where it is not valid."""
    text = side.text(POLICY)
    return None if text is None else load_section(ROOT / POLICY, Policy, lambda file: text)


def judge(review: Difference, old: Side, new: Side, today: date) -> list[Judgement]:
    """What the policy says of a change; rules that allow are left out.

    Rules and budget are those of the old state, so that a change cannot loosen what judges it. Waivers are those that
    the new state adds: an exception stands in the commit that needs it. Raises UserError where there is no policy.
    """
    before, after = load_policy(old), load_policy(new)
    policy = before or after
    if policy is None:
        raise UserError(f"there is no {POLICY}; docs/review.md says what stands in it")
    waivers = [
        one for one in (after or policy).waivers if before is None or before is after or one not in before.waivers
    ]
    judgements = [
        Judgement(name, rule.action, message, rule.owner)
        for name, rule in policy.rules.items()
        if rule.action != "allow"
        for message in RULES[name](review, old.experiment, new.experiment, policy)
    ]
    if policy.budget is not None and policy.budget.action != "allow":
        budget = policy.budget
        judgements += [
            Judgement("budget", budget.action, text, budget.owner) for text in _over(review, new.experiment, budget)
        ]
    if before is not None and after is not None and _rules(before) != _rules(after):
        judgements.append(Judgement("policy", "warn", f"{POLICY} itself changes; the old one judges", "its owners"))
    return [_with_waiver(one, waivers, new.experiment.name, today) for one in judgements]


def _rules(policy: Policy) -> Policy:
    return policy.model_copy(update={"waivers": ()})


def _with_waiver(judgement: Judgement, waivers: Sequence[Waiver], experiment: str, today: date) -> Judgement:
    for waiver in waivers:
        meant = waiver.rule == judgement.rule and waiver.experiment in (None, experiment)
        if meant and date.fromisoformat(waiver.until) >= today:
            return Judgement(judgement.rule, judgement.action, judgement.message, judgement.owner, waiver)
    return judgement


def _over(review: Difference, experiment: Experiment, budget: Budget) -> Iterator[str]:
    cost = total(list(review.again))
    if budget.money is not None and (cost.money or 0) > budget.money:
        yield f"running again costs ${cost.money:,.0f}, the budget is ${budget.money:,.0f}"
    if budget.device_hours is not None and (cost.device_hours or 0) > budget.device_hours:
        yield f"running again takes {cost.device_hours:,.0f} device-hours, the budget is {budget.device_hours:,.0f}"
    sizes = {quantity.name: quantity.new for quantity in review.quantities}
    disk = (sizes.get("checkpoint") or 0) * experiment.pretraining.checkpoints.keep
    if budget.disk is not None and disk > budget.disk:
        yield f"kept checkpoints take {disk / 1e9:,.1f} GB, the budget is {budget.disk / 1e9:,.1f} GB"


Check = Callable[[Difference, Experiment, Experiment, Policy], Iterator[str]]


def _scores_stop_comparing(review: Difference, old: Experiment, new: Experiment, policy: Policy) -> Iterator[str]:
    for score in review.scores:
        if score.comparable is False:
            yield f"scores of {score.run} stop comparing: {'; '.join(score.reasons)}"


def _claim_missed(review: Difference, old: Experiment, new: Experiment, policy: Policy) -> Iterator[str]:
    before = {verdict.name for verdict in audit(old) if verdict.met is False}
    for verdict in audit(new):
        if verdict.met is False and verdict.name not in before:
            yield f"the claim {verdict.name} is missed now"


def _assumption_removed(review: Difference, old: Experiment, new: Experiment, policy: Policy) -> Iterator[str]:
    for path in old.assumptions:
        if path not in new.assumptions:
            yield f"the assumption of {path} is gone"


def _decontamination_weakened(review: Difference, old: Experiment, new: Experiment, policy: Policy) -> Iterator[str]:
    for path, left, right in _corpora(old, new):
        before, after = left.decontaminate, right.decontaminate
        kept = {benchmark.name for benchmark in after.against}
        for benchmark in before.against:
            if benchmark.name not in kept:
                yield f"{path}.decontaminate.against lacks {benchmark.name}"
        for field in ("ngram_words", "min_chars", "structure_tokens"):
            had, has = getattr(before, field), getattr(after, field)
            if has > had or (has == 0 and had > 0):
                yield f"{path}.decontaminate.{field}: {had} -> {has} lets more through"


def _licence_added(review: Difference, old: Experiment, new: Experiment, policy: Policy) -> Iterator[str]:
    for path, left, right in _corpora(old, new):
        if added := set(right.filter.licences) - set(left.filter.licences):
            yield f"{path}.filter.licences lets in {', '.join(sorted(added))}"


def _data_lost(review: Difference, old: Experiment, new: Experiment, policy: Policy) -> Iterator[str]:
    for path, left, right in _corpora(old, new):
        sizes = {source.sha256: source.size or 0 for source in left.sources}
        kept = {source.sha256 for source in right.sources}
        lost = sum(size for digest, size in sizes.items() if digest not in kept)
        if sum(sizes.values()) and lost / sum(sizes.values()) > policy.data_lost:
            yield f"{path}.sources: {lost / sum(sizes.values()):.1%} of the stated bytes are gone"


def _determinism_lowered(review: Difference, old: Experiment, new: Experiment, policy: Policy) -> Iterator[str]:
    before, after = old.reproducibility.level, new.reproducibility.level
    if LEVELS.index(after) < LEVELS.index(before):
        yield f"reproducibility.level: {before} -> {after} promises less"


RULES: dict[str, Check] = {
    "scores-stop-comparing": _scores_stop_comparing,
    "claim-missed": _claim_missed,
    "assumption-removed": _assumption_removed,
    "decontamination-weakened": _decontamination_weakened,
    "licence-added": _licence_added,
    "data-lost": _data_lost,
    "determinism-lowered": _determinism_lowered,
}
"""Rules by name: what each remarks on in a change."""


def _corpora(old: Experiment, new: Experiment) -> tuple[tuple[str, Corpus, Corpus], ...]:
    return (
        ("corpus", old.corpus, new.corpus),
        ("finetuning.corpus", old.finetuning.corpus, new.finetuning.corpus),
    )
