"""The report: one self-contained page with the spec, the data ledger, the loss curves and the scores.

The page holds nothing that varies by machine or time, so that a repeated experiment gives the same page.
"""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from data_pipeline.tokens.token_store import MANIFEST
from runner.reporting import figures
from specs.common.files import replacing, sha256_file, write_bytes
from specs.common.json_lines import read_lines
from specs.common.run_folder import RunFolder
from specs.estimates.counts import flops_per_sequence, parameters, tokens_per_step
from specs.pipeline import stage
from specs.pipeline.identity import identity
from specs.pipeline.lock import read_lock, render_lock
from specs.pipeline.nodes import RunNode

F = TypeVar("F", bound=Callable[..., Any])

DATA_STAGES = {
    "ingest": "ingested",
    "filter": "filtered",
    "dedup": "deduplicated",
    "decontaminate": "decontaminated",
    "augment": "documents",
}
PROGRAMS_SHOWN = 3


def read_records(path: Path) -> list[dict[str, Any]]:
    """Records of a JSON Lines file. Raises UserError naming the line that is not one."""
    return [record for _, record in read_lines(path, "force its stage to run again")]


def data_ledger(corpus: Path) -> dict[str, dict[str, Any]]:
    """Ledger of each data stage of a corpus folder, in order."""
    return {
        name: json.loads((corpus / folder / "ledger.json").read_text("utf-8")) for name, folder in DATA_STAGES.items()
    }


def data_funnel(ledgers: dict[str, dict[str, Any]]) -> str:
    """Figure of what is left after each stage."""
    return figures.funnel(
        [
            (name, int(ledger["documents_out"]), int(ledger["bytes_in"]), int(ledger["bytes_out"]))
            for name, ledger in ledgers.items()
        ]
    )


def evaluation_results(folder: Path) -> dict[str, Any]:
    """Scores of one evaluation, verdict counts, and a few programs to read: passing ones first."""
    scores = json.loads((folder / "scored" / "scores.json").read_text("utf-8"))
    completions = {
        (row["task_id"], row["sample"]): row["completion"]
        for row in read_records(folder / "completions" / "completions.jsonl")
    }
    counts: dict[str, int] = {}
    shown: dict[str, list[dict[str, Any]]] = {}
    for row in read_records(folder / "scored" / "results.jsonl"):
        verdict = row["class"]
        counts[verdict] = counts.get(verdict, 0) + 1
        if len(shown.setdefault(verdict, [])) < PROGRAMS_SHOWN:
            shown[verdict].append(row | {"completion": completions[row["task_id"], row["sample"]]})
    order = sorted(shown, key=lambda verdict: (verdict != "passed", -counts[verdict], verdict))
    return {"scores": scores, "counts": counts, "programs": {verdict: shown[verdict] for verdict in order}}


def loss_table(steps: list[dict[str, Any]]) -> bytes:
    """The loss curve as CSV, which `dvc plots` reads."""
    buffer = io.StringIO()
    fields = ["step", "loss", "held_out_loss", "lr", "norm"]
    writer = csv.DictWriter(buffer, fields, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(steps)
    return buffer.getvalue().encode()


def render(page: dict[str, Any]) -> str:
    """Fill the template beside this module."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["thousands"] = lambda number: f"{number:,}"
    return environment.get_template("report.html.j2").render(page)


def build_page(
    name: str, spec: RunNode, corpora: list[Path], tokenizer: Path, stores: list[Path], run: Path, evaluations: Path
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Everything that the page shows, and the steps of each phase.

    `corpora` and `stores`: folders for pretraining, then for finetuning.
    """
    phases = {"pretraining": run / "pretrained", "finetuning": run / "finetuned"}
    steps = {phase: read_records(RunFolder(folder).steps) for phase, folder in phases.items()}
    ledgers = {corpus.name: data_ledger(corpus) for corpus in corpora}
    results = {folder.name: evaluation_results(folder) for folder in sorted(evaluations.iterdir())}
    tokens = len(steps["pretraining"]) * tokens_per_step(spec.pretraining, spec.architecture)
    sequences = tokens // spec.architecture.context_length
    artifacts = [
        tokenizer / "tokenizer.model",
        *(store / MANIFEST for store in stores),
        *(file for folder in map(RunFolder, phases.values()) for file in (folder.weights, folder.steps)),
        *(evaluations / key / "completions" / "completions.jsonl" for key in results),
        *(evaluations / key / "scored" / "results.jsonl" for key in results),
    ]
    page = {
        "name": name,
        "identity": identity(spec),
        "parameters": parameters(spec.architecture, spec.vocab_size).total,
        "tokens": tokens,
        "flops": sequences * flops_per_sequence(spec.architecture, spec.vocab_size),
        "corpora": ledgers,
        "tokens_by_source": {
            corpus.name: json.loads((store / "ledger.json").read_text("utf-8"))["sources"]
            for corpus, store in zip(corpora, stores, strict=True)
        },
        "funnels": {key: data_funnel(value) for key, value in ledgers.items()},
        "tokenizer": json.loads((tokenizer / "ledger.json").read_text("utf-8"))["facts"],
        "stores": {store.name: json.loads((store / "ledger.json").read_text("utf-8"))["facts"] for store in stores},
        "curves": {phase: figures.loss_curve(rows, phase.capitalize()) for phase, rows in steps.items()},
        "steps": {phase: len(rows) for phase, rows in steps.items()},
        "last": {phase: rows[-1] for phase, rows in steps.items()},
        "results": results,
        "verdicts": figures.verdicts({key: result["counts"] for key, result in results.items()}),
        "digests": {
            f"{path.parent.parent.name}/{path.parent.name}/{path.name}": sha256_file(path) for path in artifacts
        },
        "spec": render_lock({"runs": {name: read_lock()["runs"][name]}}),
    }
    return page, steps


def _folder(name: str, text: str) -> Callable[[F], F]:
    return click.option(name, type=click.Path(path_type=Path, exists=True, file_okay=False), required=True, help=text)


@click.command(epilog="Example: `dvc repro -s report@smoke` runs it alone; dvc.yaml shows the full command.")
@click.argument("node")
@_folder("--corpus", "Folder of the pretraining corpus.")
@_folder("--finetuning-corpus", "Folder of the finetuning corpus.")
@_folder("--tokenizer", "Folder of the tokenizer.")
@_folder("--store", "Pretraining token store.")
@_folder("--finetuning-store", "Finetuning token store.")
@_folder("--run", "Folder that holds pretrained/ and finetuned/.")
@_folder("--evaluations", "Folder that holds one folder for each evaluation.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@stage.command
def main(
    node: str,
    corpus: Path,
    finetuning_corpus: Path,
    tokenizer: Path,
    store: Path,
    finetuning_store: Path,
    run: Path,
    evaluations: Path,
    out: Path,
) -> None:
    """Write the report of a run: report.html, and the loss curves for `dvc plots`."""
    spec = stage.node(node, RunNode)
    with stage.measuring("report", node), replacing(out) as temporary:
        page, steps = build_page(
            node.partition(".")[2],
            spec,
            [corpus, finetuning_corpus],
            tokenizer,
            [store, finetuning_store],
            run,
            evaluations,
        )
        temporary.mkdir()
        for phase, rows in steps.items():
            write_bytes(temporary / f"{phase}.csv", loss_table(rows))
        write_bytes(temporary / "report.html", render(page).encode())


if __name__ == "__main__":
    main()
