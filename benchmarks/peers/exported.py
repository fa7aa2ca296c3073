"""An exported run beside `transformers`: logits at every position of real prompts, and greedy continuations.

    python -m benchmarks.peers.exported artifacts/runs/smoke/finetuned --tokenizer artifacts/tokenizers/unigram-8k \\
        --problems artifacts/benchmarks/humaneval
"""

import json
import tempfile
from pathlib import Path

import click
import torch

from data_pipeline.problems import read_problems
from data_pipeline.tokens.tokenizer import Tokenizer
from model.decoder.transformer import Transformer
from model.nucleus import Stream
from model.sampling import Request, Sampling, sample
from model.weights import load_for_sampling
from runner.interop.hugging_face import export_model
from specs.common.run_folder import RunFolder
from specs.schema.training import Architecture


@click.command(epilog="Example: python -m benchmarks.peers.exported RUN --tokenizer TOKENIZER --problems FOLDER")
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--tokenizer", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of its tokenizer."
)
@click.option("--problems", type=click.Path(path_type=Path, exists=True), required=True, help="Folder with HumanEval.")
@click.option("--prompts", "count", default=100, show_default=True, help="How many prompts.")
@click.option("--new", default=64, show_default=True, help="Ids of a greedy continuation.")
@torch.no_grad()
def main(run: Path, tokenizer: Path, problems: Path, count: int, new: int) -> None:
    """Export RUN, load it with `transformers`, and compare both in fp32 on one thread."""
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    spec = json.loads(RunFolder(run).record.read_text("utf-8"))["spec"]
    architecture = Architecture.model_validate(spec["architecture"])
    ours: Transformer = load_for_sampling(RunFolder(run).weights, architecture, spec["vocab_size"])
    (file,) = (path for path in problems.iterdir() if path.suffix != ".json")
    encode = Tokenizer.load(tokenizer).encode
    longest = architecture.context_length - new
    prompts = [encode(problem.prompt)[:longest].tolist() for problem in read_problems(file, "humaneval")[:count]]
    with tempfile.TemporaryDirectory() as folder:
        export_model(run, tokenizer, Path(folder, "hf"), "fp32")
        theirs = AutoModelForCausalLM.from_pretrained(Path(folder, "hf"), attn_implementation="eager").eval()  # type: ignore[no-untyped-call]

    way = Sampling(temperature=0.0, top_p=1.0, max_new_tokens=new)
    equal = 0
    for ids in prompts:
        request = [Request(ids, Stream.of(0, 0))]
        (mine,) = sample(ours, request, way, rows=1, tile=1, capacity=len(ids) + new, finished=lambda made: False)
        other = theirs.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=new, min_new_tokens=new)
        equal += mine == other[0, len(ids) :].tolist()
    lengths = [len(ids) for ids in prompts]
    click.echo(f"{len(prompts)} prompts of {min(lengths)} to {max(lengths)} ids; greedy continuations equal: {equal}")
    pairs = ((ours(torch.tensor([ids])), theirs(torch.tensor([ids])).logits) for ids in prompts)
    apart = torch.tensor([float((mine - other).abs().max()) for mine, other in pairs])
    worst = int(apart.argmax())
    click.echo(
        f"logits at every position: at most {apart[worst]:.2e} apart (prompt {worst}, {lengths[worst]} ids), "
        f"median of prompts {apart.median():.2e}, prompts above 1e-5: {int((apart > 1e-5).sum())}"
    )


if __name__ == "__main__":
    main()
