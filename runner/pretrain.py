"""Stage `pretrain`: next-token prediction over a token store, from fresh weights."""

from pathlib import Path
from typing import Any

import click

from runner.launching.phase import Where, run_phase, where_options
from specs.estimates.counts import pretraining_steps
from specs.pipeline import stage
from specs.pipeline.nodes import RunNode


@click.command(
    epilog="Example: python -m runner.pretrain runs.smoke --store artifacts/stores/smoke --out artifacts/pretrained"
)
@click.argument("node")
@click.option("--store", type=click.Path(path_type=Path, exists=True), required=True, help="Token store to learn.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the finished run.")
@where_options
@stage.command
def main(node: str, store: Path, out: Path, **where: Any) -> None:
    """Pretrain the model of NODE, or go on where an earlier run was interrupted."""
    run = stage.node(node, RunNode)
    steps = pretraining_steps(run.pretraining, run.architecture)
    with stage.measuring("pretrain", node):
        run_phase(
            "pretrain", node, run, run.pretraining, steps, store=store, initial=None, out=out, where=Where(**where)
        )


if __name__ == "__main__":
    main()
