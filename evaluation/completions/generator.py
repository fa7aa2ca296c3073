"""Prompts in, text out: what one process needs to complete tiles of samples."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from data_pipeline.documents.documents import Message
from data_pipeline.packing.chat_template import render_prompt
from data_pipeline.problems import Problem
from data_pipeline.tokens.tokenizer import Special, Tokenizer
from evaluation.completions.completions import Completion
from evaluation.completions.journal import Journal
from evaluation.protocols.protocol import Protocol
from evaluation.protocols.registry import find_protocol
from model.nucleus import NotFiniteError, Stream
from model.portable import threads
from model.sampling import Request, Sampling, sample
from model.weights import load_for_sampling
from specs.common.errors import UserError
from specs.common.run_folder import RunFolder
from specs.schema.experiment import BenchmarkRun
from specs.schema.training import Architecture


@dataclass(frozen=True)
class Sample:
    """One completion to be made."""

    task_id: str
    sample: int
    prompt: tuple[int, ...]


@dataclass(frozen=True)
class Tile:
    """Samples that are completed together, in memory of one capacity (ids of prompt and completion)."""

    capacity: int
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Setting:
    """All that a completion depends on besides its prompt; plain values, so that a process can be given it."""

    run: Path
    tokenizer: Path
    architecture: Architecture
    vocab_size: int
    request: BenchmarkRun
    rows: int
    """Samples under way at one time: changes no completion."""
    tile: int
    """Rows of one forward pass: may change completions."""
    threads: int
    device: str
    precision: str
    """Of weights and arithmetic; logits are taken to fp32."""
    portable: bool = False
    """Whether the kernels have the same bits on any processor."""


class Answerer:
    """A loaded model that completes tiles. Pins this process to the setting's number of threads.

    Each completion is noted in the folder `journal` as soon as it is finished.
    """

    def __init__(self, setting: Setting, journal: Path) -> None:
        if setting.device.startswith("cuda"):
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
        torch.set_num_threads(setting.threads)
        if setting.portable:
            threads.use(setting.threads)
        self._setting = setting
        self._journal = Journal(journal)
        self._tokenizer = Tokenizer.load(setting.tokenizer)
        self._protocol = find_protocol(setting.request.protocol, setting.request.benchmark.problem_schema)
        self._model = load_for_sampling(
            RunFolder(setting.run).weights,
            setting.architecture,
            setting.vocab_size,
            device=setting.device,
            dtype=torch.bfloat16 if setting.precision == "bf16" else torch.float32,
            portable=setting.portable,
        )
        # Each id adds a byte or more, so a stop string that an id completes lies within so many last ids.
        self._window = max((len(stop.encode()) for stop in self._protocol.stops), default=0)

    def __call__(self, tile: Tile) -> list[Completion]:
        """Completions of a tile's samples, in their order."""
        request = self._setting.request
        requests = [Request(s.prompt, Stream.of(request.seed, s.task_id, s.sample)) for s in tile.samples]
        completions: dict[int, Completion] = {}

        def note(index: int, ids: Sequence[int]) -> None:
            completions[index] = self._completion(tile.samples[index], ids)
            self._journal.note(completions[index])

        try:
            self._continue(requests, tile.capacity, note)
        except NotFiniteError as error:
            told = tile.samples[error.row]
            raise UserError(
                f"{self._setting.run}: {told.task_id} sample {told.sample}: the model's logits at position "
                f"{error.position} are not finite: its weights are broken or its arithmetic overflows; look at the "
                "losses of the run, and train again from a checkpoint before it diverged"
            ) from error
        self._journal.flush()
        return [completions[index] for index in range(len(tile.samples))]

    def _continue(self, requests: Sequence[Request], capacity: int, note: Callable[[int, list[int]], None]) -> None:
        request = self._setting.request
        sample(
            self._model,
            requests,
            Sampling(request.temperature, request.top_p, request.max_new_tokens),
            rows=self._setting.rows,
            tile=self._setting.tile,
            capacity=capacity,
            finished=self._finished,
            done=note,
        )

    def _finished(self, ids: Sequence[int]) -> bool:
        if ids[-1] < len(Special):
            return True
        if not self._window:
            return False
        tail = self._tokenizer.decode(ids[-self._window :])
        return any(stop in tail for stop in self._protocol.stops)

    def _completion(self, sample: Sample, ids: Sequence[int]) -> Completion:
        ended = ids[-1] < len(Special)
        text, stop = self._protocol.cut(self._tokenizer.decode(ids[:-1] if ended else ids))
        return Completion(sample.task_id, sample.sample, text, stop or ("end" if ended else "length"), len(ids))


def encode_prompts(
    problems: Sequence[Problem], protocol: Protocol, tokenizer: Tokenizer, room: int, shots: Sequence[Problem] = ()
) -> tuple[list[tuple[int, ...]], list[str]]:
    """Ids of each problem's prompt, at most `room`, and the names of the problems whose prompts had to be cut.

    `shots`: problems whose solutions are shown first. Of a longer prompt the last ids stay, after the role of the turn
    where there is one. Raises UserError where a prompt is empty.
    """
    prompts, shortened = [], []
    for problem in problems:
        text = protocol.ask(problem, shots)
        encoded = render_prompt([Message("user", text)], tokenizer) if protocol.chat else tokenizer.encode(text)
        ids = [int(token) for token in (*encoded, *tokenizer.encode(protocol.prefill))]
        if not ids:
            raise UserError(f"{problem.task_id}: its prompt is empty; leave the problem out of the benchmark")
        if len(ids) > room:
            shortened.append(problem.task_id)
            kept = ids[: 1 if protocol.chat else 0]
            ids = [*kept, *ids[len(ids) - room + len(kept) :]]
        prompts.append(tuple(ids))
    return prompts, shortened


def require_match(run: Path, tokenizer: Tokenizer, vocab_size: int) -> None:
    """Raise UserError where the tokenizer is not the one that a run was trained with, as its record states.

    A folder without a record, as `twice import model` writes, is held to the size of the vocabulary alone.
    """
    remedy = "give the tokenizer that the run was trained with"
    if tokenizer.vocab_size != vocab_size:
        raise UserError(f"{run}: the tokenizer has {tokenizer.vocab_size} pieces, the model {vocab_size}: {remedy}")
    try:
        record = json.loads(RunFolder(run).record.read_bytes())
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise UserError(f"{RunFolder(run).record}: cannot be read ({error}); run the training stage again") from error
    stated = record.get("tokenizer") if isinstance(record, dict) else None
    if stated and stated != tokenizer.sha256:
        raise UserError(
            f"{run}: was trained with the tokenizer {stated[:16]}..., this one is {tokenizer.sha256[:16]}...: {remedy}"
        )
