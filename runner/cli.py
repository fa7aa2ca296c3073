"""The `twice` command. Exit codes: 0 fine, 1 the answer is no, 2 bad input."""

import json
import sys
from pathlib import Path

import click

from runner.commands import interop, runs
from runner.commands import lock as locking
from runner.commands.options import FORMAT, Group
from runner.commands.score import score
from specs.loading.settings import ROOT


@click.group(cls=Group, epilog="Example: twice check specs/experiments/smoke.yaml")
@click.version_option(package_name="twice", message="%(prog)s %(version)s")
def main() -> None:
    """Run an experiment twice, get the same thing twice."""


@main.command(epilog="Example: twice check specs/experiments/code-34b.yaml")
@click.argument("spec", type=click.Path(path_type=Path))
@FORMAT
def check(spec: Path, form: str) -> None:
    """Validate SPEC; print derived numbers, claims, assumptions and lints. Exit code 1 if a claim is missed."""
    from runner.commands import check as checking
    from specs.loading.load import load_experiment

    experiment = load_experiment(spec)
    checking.require_possible(experiment)
    if form == "json":
        click.echo(json.dumps(checking.report(experiment), indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(checking.lines(experiment)))
    sys.exit(1 if checking.missed(experiment) else 0)


@main.command(
    epilog="Examples: twice diff old.yaml new.yaml; twice diff main:specs/experiments/smoke.yaml "
    "specs/experiments/smoke.yaml; twice diff main..HEAD --format markdown"
)
@click.argument("states", nargs=-1, required=True)
@click.option(
    "--format", "form", type=click.Choice(["text", "markdown", "json"]), default="text", help="Output format."
)
@click.option("--exit-code", is_flag=True, help="Exit with 1 where something differs.")
@click.option("--git", is_flag=True, help="Take the seven arguments that git gives an external diff driver.")
@click.option("--policy", is_flag=True, help="Judge by specs/policy.yaml: exit with 1 where it blocks.")
def diff(states: tuple[str, ...], form: str, exit_code: bool, git: bool, policy: bool) -> None:
    """Compare two states of an experiment, and say what follows.

    STATES are two of FILE or REV:FILE, or one REV..REV for every experiment. Each changed field is shown with its
    values and why it matters; then stages that re-run, costs, whether scores compare and checkpoints load.
    """
    from runner.commands import diff as differing
    from specs.review.compare import compare, compare_for_git, one_sided

    if policy:
        sys.exit(differing.judged(states, form))
    differences = compare_for_git(states) if git else compare(states)
    notes = [] if git else one_sided(states)
    if form == "json":
        click.echo(json.dumps([differing.as_json(one) for one in differences], indent=2, ensure_ascii=False))
    else:
        render = differing.as_markdown if form == "markdown" else differing.as_text
        parts = ["\n".join(render(one)) for one in differences] + notes
        click.echo("\n\n".join(parts) or "no experiment differs")
    differs = bool(notes) or any(not one.empty for one in differences)
    sys.exit(1 if exit_code and differs else 0)


@main.command(epilog="Example: twice plan specs/experiments/code-34b.yaml --picture plan.html")
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--devices", type=int, help="Number of devices in place of the spec's.")
@click.option("--device", "kind", help="Kind of device in place of the spec's, such as H100-80GB.")
@click.option("--price", type=click.FloatRange(0), help="US dollars for a device-hour in place of the table's.")
@click.option("--energy-price", type=click.FloatRange(0), default=0.12, show_default=True, help="US dollars a kWh.")
@click.option("--simulate", is_flag=True, help="Trace the runner's own training step as well (imports torch).")
@click.option("--picture", type=click.Path(path_type=Path), help="Write memory against devices as .svg or .html.")
@FORMAT
def plan(
    spec: Path,
    devices: int | None,
    kind: str | None,
    price: float | None,
    energy_price: float,
    simulate: bool,
    picture: Path | None,
    form: str,
) -> None:
    """Say what pretraining of SPEC needs before it runs: memory, time, money. Exit code 1 if it does not fit."""
    from runner.planning import plan
    from specs.loading.load import load_experiment

    experiment = plan.placed(load_experiment(spec), devices, kind)
    done = plan.make(experiment, price, energy_price, simulate=simulate, plain=form == "json")
    if picture is not None:
        plan.draw(experiment, picture, price)
    click.echo(json.dumps(done.plain, indent=2, ensure_ascii=False) if form == "json" else "\n".join(done.lines))
    sys.exit(0 if done.fits else 1)


@main.command(epilog="Example: twice schema --check")
@click.option("--check", "only_check", is_flag=True, help="Verify instead of writing: exit code 2 if it is stale.")
def schema(only_check: bool) -> None:
    """Write specs/schema.json, from which editors complete and check experiment files."""
    from specs.common.checkout import require_inside
    from specs.loading.json_schema import check_schema, write_schema

    require_inside()
    if only_check:
        check_schema()
        click.echo("specs/schema.json is fresh")
    else:
        click.echo(f"specs/schema.json {'written' if write_schema() else 'unchanged'}")


@main.command(epilog="Example: twice published --check")
@click.option("--check", "only_check", is_flag=True, help="Exit code 1 if an artifact is another one.")
def published(only_check: bool) -> None:
    """Say whether the artifacts that lie here are those that this commit published in its dvc.lock."""
    from specs.common.checkout import require_inside
    from specs.review.published import artifacts, told

    require_inside()
    found = artifacts()
    click.echo("\n".join(told(found)))
    sys.exit(1 if only_check and not all(artifact.same for artifact in found) else 0)


@main.command(epilog="Examples: twice new mine --from smoke; twice new mine --corpus notes --licence MIT")
@click.argument("name")
@click.option("--from", "base", default="smoke", show_default=True, help="Experiment whose values to begin with.")
@click.option("--corpus", type=click.Path(path_type=Path), help="Folder or file of one's own text, below the project.")
@click.option("--licence", default="NOASSERTION", show_default=True, help="Licence of that text, as SPDX names it.")
@click.option("--device", default="cpu", show_default=True, help="Kind of device, such as A100-80GB.")
@click.option("--devices", type=click.IntRange(min=1), default=2, show_default=True, help="Number of devices.")
def new(name: str, base: str, corpus: Path | None, licence: str, device: str, devices: int) -> None:
    """Write a complete small experiment NAME, with a comment for each choice; pin and check what it names."""
    from runner.commands.new import Choices, create
    from specs.common.checkout import require_inside

    require_inside()
    for path in create(Choices(name, base, corpus, licence, device, devices)):
        click.echo(f"{path.relative_to(ROOT)}: written")
    click.echo(f"next: twice check specs/experiments/{name}.yaml, then twice lock {name} && dvc repro")


@main.command(epilog="Example: twice doctor")
@click.option(
    "--lock",
    "locked",
    type=click.Path(path_type=Path, dir_okay=False),
    default=ROOT / "requirements.lock",
    help="Pinned distributions to compare with; those of the checkout if not given.",
)
@FORMAT
def doctor(locked: Path, form: str) -> None:
    """Say where this machine is not the one of the lock, what that means for bits, and what is missing.

    Exit code 1 if artifacts may come out otherwise, or a stage cannot run.
    """
    from dataclasses import asdict

    from runner.commands import doctor as examining

    findings = examining.examine(locked)
    if form == "json":
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        click.echo("\n".join(examining.lines(findings, len(examining.read_lock(locked)))))
    sys.exit(1 if any(finding.serious for finding in findings) else 0)


main.add_command(locking.lock)
main.add_command(runs.launch)
main.add_command(runs.verify)
main.add_command(runs.compare)
main.add_command(runs.weights)
main.add_command(runs.results)
main.add_command(interop.exporting)
main.add_command(interop.importing)
main.add_command(interop.problems)
main.add_command(score)


if __name__ == "__main__":
    main()
