"""Commands on runs: launch, verify, compare, export weights, and look at results."""

import json
import sys
from pathlib import Path

import click

from runner.commands.options import FORMAT
from specs.common.errors import UserError


@click.command(
    epilog="Examples: twice launch pretrain@smoke; twice launch pretrain@code-34b --profile slurm.yaml --render"
)
@click.argument("stage")
@click.option(
    "--profile", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Cluster profile (docs/launch.md)."
)
@click.option("--ranks", type=click.IntRange(min=1), help="Ranks instead of cluster.devices; the same bits.")
@click.option("--accept-code-change", "accept", is_flag=True, help="Go on from state that other code left; recorded.")
@click.option("--render", is_flag=True, help="Print the script or manifest for the cluster, and run nothing.")
def launch(stage: str, profile: Path | None, ranks: int | None, accept: bool, render: bool) -> None:
    """Run the training stage STAGE of dvc.yaml, or attach to it: here, on several nodes, through SLURM or Kubernetes.

    The command, its paths included, is that of dvc.yaml, without DVC's bookkeeping. Exit code 75 once the run was asked
    to stop, or this process was asked to end while a cluster goes on with it.
    """
    import os
    import shlex

    from specs.common.checkout import require_inside
    from specs.loading.settings import ROOT
    from specs.pipeline.dvc_graph import expand
    from specs.pipeline.lock import check_lock

    require_inside()
    stages = expand((ROOT / "dvc.yaml").read_text("utf-8"), check_lock())
    known = [name for name in stages if name.partition("@")[0] in ("pretrain", "finetune")]
    if stage not in known:
        raise UserError(f"{stage} is not a training stage of the lock: choose {', '.join(known)}, or run `twice lock`")
    program, *command = shlex.split(stages[stage].command)
    command += ["--profile", str(profile.resolve())] if profile else []
    command += ["--ranks", str(ranks)] if ranks else []
    command += ["--accept-code-change"] if accept else []
    command += ["--render"] if render else []
    os.chdir(ROOT)
    os.execv(sys.executable, [program, *command])


@click.command(
    epilog="Examples: twice verify artifacts/runs/smoke/pretrained --ranks 2; "
    "twice verify artifacts/runs/smoke/finetuned --recorded; twice verify artifacts/runs/smoke/pretrained --steps 40:60"
)
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--steps", help="Execute only these again, such as 40:60, from the newest checkpoint before them.")
@click.option("--recorded", is_flag=True, help="Check digests and the chain alone; execute nothing.")
@click.option("--ranks", type=click.IntRange(min=1), default=1, show_default=True, help="Processes to execute it on.")
@click.option("--device", default="cpu", show_default=True, help="Kind of device, as in the cluster section of a spec.")
@click.option(
    "--inputs",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("artifacts"),
    show_default=True,
    help="Where the run's inputs are looked for, by digest.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    help="Relative difference of numbers, tensors and the held-out loss to accept, such as 0.01.",
)
@click.option("--dirty", is_flag=True, help="Execute where no commit names this checkout; the difference is recorded.")
@click.option("--attestation", type=click.Path(path_type=Path), help="Write what was shown as an in-toto statement.")
@FORMAT
def verify(
    run: Path,
    steps: str | None,
    recorded: bool,
    ranks: int,
    device: str,
    inputs: Path,
    tolerance: float | None,
    dirty: bool,
    attestation: Path | None,
    form: str,
) -> None:
    """Execute RUN again and compare; say how far it is shown: recorded, within tolerance, or bitwise.

    RUN is the folder of a finished run, or the scratch folder of one in progress. Exit code 1 if it is not verified.
    """
    from runner.launching.launch import StoppedError
    from runner.training.job import STOPPED, parse_steps
    from runner.verification import attestation as attesting
    from runner.verification import verify as verifying
    from runner.verification.recorded_run import read_run
    from specs.common.files import write_json
    from specs.common.tables import printable
    from specs.estimates.devices import device as known

    recorded_run = read_run(run)
    wanted = parse_steps(steps, recorded_run.spec["steps"], "--steps") if steps else None
    try:
        verdict = verifying.verify(
            recorded_run,
            steps=wanted,
            ranks=ranks,
            device=known(device).name,  # type: ignore[arg-type]
            inputs=inputs,
            tolerance=tolerance,
            execute=not recorded,
            dirty=dirty,
        )
    except StoppedError as stopped:
        click.echo(f"verify: {stopped}; nothing is shown, and nothing was kept", err=True)
        sys.exit(STOPPED)
    if form == "json":
        click.echo(json.dumps(verdict.as_json(), indent=2))
    else:
        click.echo("\n".join(map(printable, verifying.lines(verdict, recorded_run))))
    if attestation is not None and verdict.level is not None:
        write_json(attestation, attesting.attestation(recorded_run, verdict))
    sys.exit(0 if verdict.level else 1)


@click.command(epilog="Example: twice compare artifacts/runs/smoke/pretrained /tmp/again")
@click.argument("one", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("other", type=click.Path(path_type=Path, exists=True, file_okay=False))
@FORMAT
def compare(one: Path, other: Path, form: str) -> None:
    """Say where two runs part: first step, what in it, tensor and distance. Exit code 1 if they do.

    Each is the folder of a finished run, or the scratch folder of one in progress.
    """
    from runner.verification import compare as comparing
    from runner.verification.recorded_run import read_run
    from specs.common.tables import printable

    comparison = comparing.compare(read_run(one), read_run(other))
    if form == "json":
        click.echo(json.dumps(comparison.as_json(), indent=2))
    else:
        click.echo("\n".join(map(printable, comparing.lines(comparison, one, other))))
    sys.exit(0 if comparison.same else 1)


@click.command(epilog="Example: twice weights scratch/pretrain-0123456789abcdef /tmp/model.safetensors --step 40")
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--step", type=click.IntRange(min=1), help="After which step; the newest checkpoint where none is given.")
def weights(run: Path, out: Path, step: int | None) -> None:
    """Write the weights of a checkpoint of RUN as one safetensors file. (A finished run has its own.)"""
    from runner.verification.recorded_run import export_weights, read_run

    click.echo(f"{out}: the weights after step {export_weights(read_run(run), step, out)}")


@click.command(
    epilog="Examples: twice results artifacts --format json; twice results artifacts/evaluations/smoke --against "
    "../other/artifacts/evaluations/smoke"
)
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--against",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Compare with the scores below this folder instead, problem by problem.",
)
@FORMAT
def results(folder: Path, against: Path | None, form: str) -> None:
    """Print the scores below FOLDER, what each stage took on this machine, and where the reports lie."""
    from runner.commands.results import read_results, render_results

    if against is not None:
        from evaluation.scoring.paired import compare, render

        rows = compare(folder, against)
        if form == "json":
            click.echo(json.dumps(rows, indent=2))
        else:
            render(rows)
        return
    results = read_results(folder)
    if form == "json":
        click.echo(json.dumps(results, indent=2))
    else:
        render_results(results)
