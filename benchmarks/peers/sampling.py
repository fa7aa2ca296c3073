"""Sampling beside `transformers` `generate`: the same weights, batch, prompts and length, in turns on one machine.

Weights are fresh, as nothing here depends on what they are. Their greedy ids are compared first. Processor time
decides, as the machine may be shared; nothing else runs in between.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from safetensors.torch import save_file

from benchmarks.measuring import roofline
from benchmarks.measuring.cost import cost
from benchmarks.peers import OURS, Found, in_turn, tell
from model.decoder.init import initial_values
from model.decoder.transformer import Transformer
from model.hugging_face import CONFIG, configuration, export_weights
from model.nucleus import Stream
from model.sampling import Request, Sampling, sample
from model.weights import load_for_sampling
from specs.common.files import write_json
from specs.loading.load import load_experiment
from specs.loading.settings import ROOT
from specs.schema.data import Tokenizer
from specs.schema.training import Architecture

PEER = "transformers generate"
SPECIALS = 16
"""Ids that are no text."""


def fresh_weights(architecture: Architecture, vocab_size: int, path: Path) -> None:
    """Write first values, as training would start from, to a file."""
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in Transformer(architecture, vocab_size).named_parameters()}
    values = {n: initial_values(architecture, 1, n, 0, shape.numel()).view(shape) for n, shape in shapes.items()}
    save_file(values, path)


@click.command(epilog="Example: python -m benchmarks.peers.sampling specs/experiments/smoke.yaml --batch 32")
@click.argument("spec", type=click.Path(path_type=Path), default=ROOT / "specs" / "experiments" / "smoke.yaml")
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True, help="Sequences sampled together.")
@click.option("--prompt", type=click.IntRange(1), default=128, show_default=True, help="Ids of each prompt.")
@click.option("--tokens", type=click.IntRange(1), default=64, show_default=True, help="Ids sampled after each.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Turns of each side.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Compute threads.")
def main(spec: Path, batch: int, prompt: int, tokens: int, rounds: int, threads: int) -> None:
    """Sample from the architecture of SPEC, `smoke` if none is given, with this project and with transformers."""
    from transformers import AutoModelForCausalLM

    experiment = load_experiment(spec)
    architecture, tokenizer = experiment.architecture, experiment.tokenizer
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = load_both(architecture, tokenizer, Path(folder), AutoModelForCausalLM)
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(SPECIALS, tokenizer.vocab_size, (batch, prompt), generator=generator)

    def we(temperature: float, count: int = tokens) -> list[list[int]]:
        requests = [Request(row, Stream.of(index)) for index, row in enumerate(prompts.tolist())]
        how = Sampling(temperature, 0.95, count)
        return sample(ours, requests, how, rows=batch, tile=batch, capacity=prompt + count, finished=lambda ids: False)

    def they(temperature: float, count: int = tokens) -> list[list[int]]:
        how: dict[str, Any] = {"do_sample": False}
        if temperature:
            how = {"do_sample": True, "temperature": temperature, "top_p": 0.95, "top_k": 0}
        mask = torch.ones_like(prompts)
        ids = theirs.generate(
            prompts, attention_mask=mask, max_new_tokens=count, eos_token_id=None, pad_token_id=1, **how
        )
        return ids[:, prompt:].tolist()  # type: ignore[no-any-return]

    same = sum(a == b for a, b in zip(we(0), they(0), strict=True))
    flops = batch * roofline.operations(architecture, tokenizer.vocab_size, prompt, tokens)

    def rate(work: Callable[[float], list[list[int]]], temperature: float) -> Callable[[], float]:
        return lambda: batch * tokens / cost(lambda: work(temperature)).cpu

    notes = {PEER: f"the same greedy ids for {same} of {batch} prompts"}
    shape = f"{batch} x {prompt} + {tokens}"
    for name, temperature in (("greedy", 0.0), ("temperature 0.8, top-p 0.95", 0.8)):
        timed = {OURS: rate(we, temperature), PEER: rate(they, temperature)}
        rates = in_turn(rounds, timed | {"limit": lambda: batch * tokens / roofline.multiplying(flops, bf16=False)})
        limit = ("fp32 matrix products", median(rates.pop("limit")))
        tell(Found(f"sampling, {name}, {shape} ids", "tokens", rates, limit, notes))


def load_both(architecture: Architecture, tokenizer: Tokenizer, folder: Path, auto: Any) -> tuple[Transformer, Any]:
    """The same weights, loaded here and by transformers."""
    fresh_weights(architecture, tokenizer.vocab_size, folder / "fresh.safetensors")
    ours = load_for_sampling(folder / "fresh.safetensors", architecture, tokenizer.vocab_size)
    exported = folder / "exported"
    exported.mkdir()
    export_weights(folder / "fresh.safetensors", architecture, exported, torch.float32)
    write_json(exported / CONFIG, configuration(architecture, tokenizer.vocab_size, torch.float32))
    return ours, auto.from_pretrained(exported).eval()


if __name__ == "__main__":
    main()
