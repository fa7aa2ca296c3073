"""Complete: a trained model's answers to every problem of a benchmark. Resumes where it was killed."""

import os
import signal
import sys
import time
from collections.abc import Container, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import FrameType

import click
import torch

from data_pipeline.problems import Problem, content_sha256
from data_pipeline.tokens.tokenizer import Tokenizer
from evaluation.completions.completions import FILE, Completion, load_problems, load_shots, write_completions
from evaluation.completions.distributed import Ranks, join
from evaluation.completions.generator import Answerer, Sample, Setting, Tile, encode_prompts, require_match
from evaluation.completions.journal import Key, read_journal
from evaluation.completions.process_pool import spread
from evaluation.protocols.protocol import Protocol
from evaluation.protocols.registry import find_protocol
from model.sampling import tiles
from specs.common.errors import UserError
from specs.common.files import digest_json, replacing, sha256_file, write_json
from specs.common.progress import Progress
from specs.common.run_folder import RunFolder
from specs.pipeline import code, stage
from specs.pipeline.nodes import EvaluationNode, RunNode

STOPPED = 75
"""Exit code after Ctrl-C or a request to end: run the same command to go on."""

_ROUNDS = 4
"""Samples of a tile, in multiples of its rows: a row whose sample has ended takes the next one."""


def plan(prompts: Sequence[tuple[int, ...]], problems: Sequence[Problem], node: EvaluationNode) -> list[Tile]:
    """Deal all samples to tiles. Samples of one problem stay together, so that its prompt is read once or twice."""
    request = node.request
    samples = [
        Sample(problem.task_id, sample, prompt)
        for problem, prompt in zip(problems, prompts, strict=True)
        for sample in range(request.samples)
    ]
    lengths = [len(sample.prompt) for sample in samples]
    dealt = tiles(lengths, request.max_new_tokens, node.context_length, _ROUNDS * node.batch_size)
    return [Tile(capacity, tuple(samples[index] for index in members)) for capacity, members in dealt]


def unfinished(work: Sequence[Tile], finished: Container[Key]) -> list[Tile]:
    """The tiles without the samples that are finished, most work first: the last to end then keeps nobody waiting."""
    left = [
        Tile(tile.capacity, samples)
        for tile in work
        if (samples := tuple(s for s in tile.samples if (s.task_id, s.sample) not in finished))
    ]
    return sorted(left, key=lambda tile: -tile.capacity * len(tile.samples))


def complete(work: Sequence[Tile], setting: Setting, journal: Path, workers: int, ranks: Ranks) -> list[Completion]:
    """Completions of all tiles, in their order; those in the folder `journal` are taken from it.

    Neither `workers`, `ranks` nor what the journal holds change a completion. Every rank calls this, and sees the same
    folder; the first one gets the completions, the others none. Raises UserError where the model or the tokenizer
    cannot be loaded.
    """
    left = ranks.from_first(lambda: unfinished(work, read_journal(journal)))
    mine = left[ranks.rank :: ranks.count]
    label = "complete" if ranks.count == 1 else f"complete, rank {ranks.rank} of {ranks.count}"
    total, missing = (sum(len(tile.samples) for tile in some) for some in (work if ranks.count == 1 else mine, mine))
    if mine:
        with Progress(label, total=total, unit="completions") as progress:
            progress.resume(total - missing)
            clock = _Rate()
            for _, completions in spread(partial(Answerer, setting, journal), enumerate(mine), min(workers, len(mine))):
                progress.advance(len(completions), clock.note(sum(c.tokens for c in completions)))
    ranks.wait()
    if not ranks.first:
        return []
    finished = read_journal(journal)
    return [finished[sample.task_id, sample.sample] for tile in work for sample in tile.samples]


class _Rate:
    """Tokens per second since it was made."""

    def __init__(self) -> None:
        self._start, self._tokens = time.monotonic(), 0

    def note(self, tokens: int) -> str:
        self._tokens += tokens
        return f"{self._tokens / max(time.monotonic() - self._start, 1e-9):,.0f} tokens/s"


def describe(
    problems: Sequence[Problem],
    shots: Sequence[Problem],
    prompts: Sequence[tuple[int, ...]],
    shortened: Sequence[str],
    protocol: Protocol,
    completions: Sequence[Completion],
    setting: Setting,
    tokenizer: Tokenizer,
) -> stage.Ledger:
    """What was asked and how, by digest, and how the answers ended."""
    ledger, name = stage.Ledger(), setting.request.benchmark.name
    for problem in problems:
        ledger.take(name, len(problem.prompt.encode()))
    for completion in completions:
        ledger.keep(name, len(completion.completion.encode()))
    stops: dict[str, int] = {}
    for completion in completions:
        stops[completion.stop] = stops.get(completion.stop, 0) + 1
    ledger.state("protocol", {"name": protocol.name, "schema": protocol.schema, "stops": list(protocol.stops)})
    ledger.state("problems_sha256", content_sha256(problems))
    ledger.state("prompts_sha256", digest_json([protocol.ask(problem, shots) for problem in problems]))
    ledger.state("few_shot", [shot.task_id for shot in shots])
    ledger.state("prompt_ids_sha256", digest_json([list(prompt) for prompt in prompts]))
    ledger.state("prompts_shortened", list(shortened))
    ledger.state("tokenizer_sha256", tokenizer.sha256)
    ledger.state("ended_by", dict(sorted(stops.items())))
    ledger.state("tokens", sum(completion.tokens for completion in completions))
    ledger.state("precision", setting.precision)
    return ledger


@click.command(
    epilog="Example: python -m evaluation.complete evaluations.smoke-humaneval --run finetuned --tokenizer tokenizer "
    "--benchmark benchmark --out completions"
)
@click.argument("node")
@click.option("--run", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of a trained run.")
@click.option("--tokenizer", type=click.Path(path_type=Path, exists=True), required=True, help="Its tokenizer.")
@click.option("--benchmark", type=click.Path(path_type=Path, exists=True), required=True, help="Fetched benchmark.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the completions.")
@click.option("--workers", type=click.IntRange(1), help="Processes; default: cores divided by the spec's threads.")
@stage.command
def main(node: str, run: Path, tokenizer: Path, benchmark: Path, out: Path, workers: int | None) -> None:
    """Ask a trained model every problem of a benchmark, several times each."""
    evaluation = stage.node(node, EvaluationNode)
    trained = stage.node(f"runs.{evaluation.run}", RunNode)
    request = evaluation.request
    protocol = find_protocol(request.protocol, request.benchmark.problem_schema)
    device = device_for(trained)
    encoder = Tokenizer.load(tokenizer)
    require_match(run, encoder, trained.vocab_size)
    if not RunFolder(run).weights.is_file():
        raise UserError(f"{RunFolder(run).weights}: there are no weights; run the finetune stage")
    problems = load_problems(request.benchmark, benchmark)
    room = evaluation.context_length - request.max_new_tokens
    shots = load_shots(request.benchmark, benchmark, protocol.few_shot)
    prompts, shortened = encode_prompts(problems, protocol, encoder, room, shots)
    section = {
        "node": evaluation.model_dump(mode="json", exclude={"batch_size"}),
        "architecture": trained.architecture.model_dump(mode="json"),
    }
    inputs = {
        "weights": sha256_file(RunFolder(run).weights),
        "tokenizer": encoder.sha256,
        "prompts": digest_json(prompts),
    }
    ranks = join()
    setting = Setting(
        run,
        tokenizer,
        trained.architecture,
        trained.vocab_size,
        request,
        evaluation.batch_size,
        evaluation.tile,
        evaluation.threads,
        f"cuda:{ranks.local}" if device == "cuda" else device,
        trained.finetuning.precision.compute if device == "cuda" else "fp32",
        evaluation.portable,
    )
    cores = len(os.sched_getaffinity(0)) // (evaluation.threads * ranks.on_machine)
    count = workers or (1 if device == "cuda" else max(1, cores))
    work = plan(prompts, problems, evaluation)
    with ExitStack() as stack:
        if ranks.first:
            facts = stack.enter_context(stage.measuring("complete", node))
            own = stack.enter_context(stage.scratch("complete", section, inputs))
        folder = Path(ranks.from_first(lambda: str(own)))
        code.require(ranks.from_first(code.current))
        try:
            stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, _interrupt))
            answered = complete(work, setting, folder, count, ranks)
        except KeyboardInterrupt:
            if ranks.first:
                _tell_what_is_kept(folder, work)
            sys.exit(STOPPED)
        if not ranks.first:
            return
        order = {problem.task_id: number for number, problem in enumerate(problems)}
        answered.sort(key=lambda completion: (order[completion.task_id], completion.sample))
        with replacing(out) as temporary:
            temporary.mkdir()
            write_completions(temporary / FILE, answered)
            ledger = describe(problems, shots, prompts, shortened, protocol, answered, setting, encoder)
            write_json(temporary / "ledger.json", ledger.as_json())
        facts["tokens"] = sum(completion.tokens for completion in answered)


def _tell_what_is_kept(journal: Path, work: Sequence[Tile]) -> None:
    kept, total = len(read_journal(journal)), sum(len(tile.samples) for tile in work)
    print(f"complete: stopped; {kept} of {total} completions are kept, run the same command to go on", file=sys.stderr)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def device_for(run: RunNode) -> str:
    """Where a run's model is sampled: on the kind of device that it was meant to be trained on.

    Raises UserError where that is a GPU and there is none.
    """
    if run.cluster.device == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        raise UserError(f"the run is meant for {run.cluster.device}, but this machine offers no CUDA device")
    return "cuda"


if __name__ == "__main__":
    main()
