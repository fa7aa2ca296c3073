"""What `twice check` prints: derived numbers, the audit, assumptions, lints."""

from typing import Any

import click

from specs.common.tables import number, table
from specs.pipeline.identity import identities, identity
from specs.review.claims import Verdict, audit, derived, unexplained
from specs.review.lints import lint
from specs.schema.experiment import Experiment


def require_possible(experiment: Experiment) -> None:
    """Raise UserError where a corpus is certain to lose a whole source."""
    # Imported here: the table of languages and the licences of SPDX are no part of the start of other commands.
    from data_pipeline.sources import certain_losses

    for corpus in (experiment.corpus, experiment.finetuning.corpus):
        certain_losses.require_possible(corpus)


def report(experiment: Experiment) -> dict[str, Any]:
    """Everything that is known of a spec, as plain values."""
    return {
        "name": experiment.name,
        "identity": identity(experiment),
        "sections": identities(experiment),
        "derived": derived(experiment),
        "passes": _passes(experiment),
        "claims": [_plain(verdict) for verdict in audit(experiment)],
        "assumptions": experiment.assumptions,
        "unexplained": unexplained(experiment),
        "lints": [vars(each) for each in lint(experiment)],
    }


def lines(experiment: Experiment) -> list[str]:
    """The same for people."""
    text = [f"{experiment.name}  {identity(experiment)}", "", "What the spec implies"]
    numbers = [[name.replace("_", " "), number(value)] for name, value in derived(experiment).items()]
    text += table(numbers, right=(1,))
    for phase, passes in _passes(experiment).items():
        if often := [[name, f"{times:g}"] for name, times in passes.items() if times != 1]:
            head = f"Sources of {phase}, seen other than once in a pass over the store"
            text += ["", head, *table(often, right=(1,))]
    verdicts = audit(experiment)
    text += ["", "Numbers of the publication"]
    rows = [["", "claim", "published", "spec", "distance", "arithmetic"]]
    for verdict in verdicts:
        distance = "" if verdict.distance is None else f"{verdict.distance:+.3%} of {verdict.within:.1%}"
        cells = [verdict.name, number(verdict.claimed), number(verdict.implied), distance, verdict.how]
        rows.append([verdict.status, *cells])
    head, *body = table(rows, right=(2, 3, 4))
    text.append(click.style(head, dim=True))
    for line, verdict in zip(body, verdicts, strict=True):
        text.append(_coloured(line, verdict))
        if verdict.met is False:
            text += [f"          would meet it: {remedy}" for remedy in verdict.remedies]
            if not verdict.remedies:
                text.append("          no value of a single field would meet it")
    if experiment.assumptions:
        text += ["", "Assumptions: what the publication leaves open"]
        text += [f"  {path}: {why}" for path, why in experiment.assumptions.items()]
    if missing := unexplained(experiment):
        text += ["", "Neither claimed nor assumed", *(f"  {path}" for path in missing)]
    if remarks := lint(experiment):
        text += ["", "Unusual"]
        text += [f"  {remark.path}: {remark.message} [{remark.source}]" for remark in remarks]
    return text


def missed(experiment: Experiment) -> bool:
    """Whether a claim is missed."""
    return any(verdict.met is False for verdict in audit(experiment))


def _passes(experiment: Experiment) -> dict[str, dict[str, float]]:
    return {"pretraining": experiment.corpus.passes, "finetuning": experiment.finetuning.corpus.passes}


def _coloured(line: str, verdict: Verdict) -> str:
    colour = {"met": "green", "missed": "red", "unstated": "yellow"}[verdict.status]
    return line.replace(verdict.status, click.style(verdict.status, fg=colour, bold=verdict.met is False), 1)


def _plain(verdict: Verdict) -> dict[str, Any]:
    return {
        "name": verdict.name,
        "status": verdict.status,
        "claimed": verdict.claimed,
        "implied": verdict.implied,
        "distance": verdict.distance,
        "within": verdict.within,
        "met": verdict.met,
        "how": verdict.how,
        "remedies": [vars(remedy) for remedy in verdict.remedies],
    }
