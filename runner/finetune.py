"""Stage `finetune`: instruction tuning of a pretrained model; only what the store marks is learnt."""

from pathlib import Path
from typing import Any

import click

from data_pipeline.tokens.shuffle import Order
from data_pipeline.tokens.token_store import TokenStore
from runner.launching.phase import Where, run_phase, where_options
from specs.common.errors import UserError
from specs.common.run_folder import RunFolder
from specs.estimates.counts import epoch_steps
from specs.pipeline import stage
from specs.pipeline.nodes import RunNode


@click.command(
    epilog="Example: python -m runner.finetune runs.smoke --store artifacts/token_stores/smoke-answers "
    "--from artifacts/pretrained --out artifacts/finetuned"
)
@click.argument("node")
@click.option("--store", type=click.Path(path_type=Path, exists=True), required=True, help="Token store to learn.")
@click.option("--from", "start", type=click.Path(path_type=Path, exists=True), required=True, help="Pretrained run.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the finished run.")
@where_options
@stage.command
def main(node: str, store: Path, start: Path, out: Path, **where: Any) -> None:
    """Finetune the pretrained model of NODE, or go on where an earlier run was interrupted."""
    run = stage.node(node, RunNode)
    weights = RunFolder(start).weights
    if not weights.is_file():
        raise UserError(f"{weights} is missing: give the folder of a finished pretraining run")
    training = run.finetuning
    held_out = training.held_out.sequences if training.held_out else 0
    slots = Order(TokenStore.open(store, verify=False).shares, training.seed, held_out).slots
    steps = epoch_steps(training, training.epochs, slots)
    with stage.measuring("finetune", node):
        run_phase("finetune", node, run, training, steps, store=store, initial=weights, out=out, where=Where(**where))


if __name__ == "__main__":
    main()
