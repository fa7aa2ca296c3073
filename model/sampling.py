"""Sampling from the decoder: what one request yields depends on that request alone.

Every forward pass has one of two fixed shapes, a single prompt [1, capacity - max_new_tokens] or one token for each row
of a tile [tile, 1] against a cache of fixed capacity; so a request's numbers round alike, whatever its neighbours are
and however many. Its random numbers come from a stream of its own.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from model.decoder.kv_cache import Cache
from model.decoder.transformer import Transformer
from specs.common.errors import UserError
from specs.common.files import canonical_json
from specs.schema.training import Architecture

Finished = Callable[[Sequence[int]], bool]
Done = Callable[[int, list[int]], None]


class Stream:
    """Uniform numbers in [0, 1) from Philox, a counter-based generator whose raw words no version of numpy changes."""

    def __init__(self, key: bytes) -> None:
        self._words = np.random.Philox(key=int.from_bytes(key[:16], "little"))

    @classmethod
    def of(cls, *names: object) -> Self:
        """The stream of a name such as (seed, task, sample): values that canonical JSON can hold."""
        return cls(hashlib.sha256(canonical_json(list(names))).digest())

    def uniform(self) -> float:
        """The next number, with 53 random bits."""
        return float(self._words.random_raw() >> 11) * 2.0**-53


@dataclass(frozen=True)
class Request:
    """A prompt to continue and the random numbers to do it with."""

    prompt: Sequence[int]
    """Ids [n], n from 1 to capacity - max_new_tokens."""
    stream: Stream


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen, and how many there may be."""

    temperature: float
    """0 takes the most likely token."""
    top_p: float
    """Only the smallest set of most likely tokens whose probabilities reach this sum may be chosen."""
    max_new_tokens: int


def pick(logits: Tensor, streams: Sequence[Stream | None], temperature: float, top_p: float) -> list[int]:
    """One token id for each row of logits fp32 [B, V]; a row without a stream yields any id and draws nothing.

    Nucleus sampling (Holtzman et al., 2020) by rejection: draw from the whole distribution until the token lies in the
    nucleus, which the mass of the tokens before it decides (more likely ones; of equal ones, those with lower ids). The
    distribution is that of truncating and rescaling, without sorting the vocabulary; about 1 / top_p draws at most.
    """
    if temperature == 0 or top_p == 0:
        return [int(token) for token in logits.argmax(dim=-1).tolist()]
    likely = (logits.float() / temperature).softmax(dim=-1)  # [B, V]
    upto = likely.cumsum(dim=-1, dtype=torch.float64)  # [B, V]
    drawn = [0.0 if stream is None else stream.uniform() for stream in streams]
    chosen = _draw(likely, upto, drawn, top_p)
    for row, stream in enumerate(streams):
        # One row at a time from here: the shape of a sum, and so its rounding, then depends on no other row.
        while stream is not None and chosen[row] is None:
            chosen[row] = _draw(likely[row : row + 1], upto[row : row + 1], [stream.uniform()], top_p)[0]
    return [token or 0 for token in chosen]


def _draw(likely: Tensor, upto: Tensor, drawn: Sequence[float], top_p: float) -> list[int | None]:
    """The token that each number in [0, 1) falls on, or none where it lies outside the nucleus.

    likely: probabilities fp32 [B, V]; upto: their running sums fp64 [B, V]; drawn: B numbers.
    """
    ids = torch.arange(likely.shape[1], device=likely.device)
    total = upto[:, -1:]  # 1 but for rounding
    levels = torch.tensor(drawn, dtype=torch.float64, device=likely.device)[:, None] * total
    token = torch.searchsorted(upto, levels, right=True).clamp_(max=len(ids) - 1)
    mine = likely.gather(1, token)
    before = (likely > mine) | ((likely == mine) & (ids < token))
    mass = (likely * before).sum(dim=-1, keepdim=True)
    # Nothing is before the most likely token: it is always in the nucleus.
    inside = (mass < top_p * total) | (mass == 0)
    return [
        int(one) if accepted else None
        for one, accepted in zip(token[:, 0].tolist(), inside[:, 0].tolist(), strict=True)
    ]


@torch.inference_mode()
def sample(
    model: Transformer,
    requests: Sequence[Request],
    sampling: Sampling,
    *,
    rows: int,
    tile: int,
    capacity: int,
    finished: Finished,
    done: Done | None = None,
) -> list[list[int]]:
    """Continue each prompt: lists of 1 to max_new_tokens ids, in the order of the requests.

    `rows` requests are under way at one time, each in the row of one that ended; a row stays in computation, unused,
    when none waits. A forward pass computes `tile` rows, padded where there are fewer: `rows` changes no answer, `tile`
    may. `finished` is asked after each id, with all new ids of a request so far; `done` is told the index and the ids
    of a request as soon as it has ended. Requests whose streams start afresh, and the same capacity and tile, give the
    same ids. Raises ValueError where a prompt does not fit.
    """
    longest = capacity - sampling.max_new_tokens
    for request in requests:
        if not 1 <= len(request.prompt) <= longest:
            raise ValueError(f"a prompt of {len(request.prompt)} ids does not fit in 1 to {longest}")
    prompts = _Prompts(model, capacity, longest)
    answers: list[list[int]] = [[] for _ in requests]
    waiting = iter(range(len(requests)))

    def over(index: int) -> bool:
        if len(answers[index]) < sampling.max_new_tokens and not finished(answers[index]):
            return False
        if done:
            done(index, answers[index])
        return True

    def begin(group: _Group, row: int) -> None:
        for index in waiting:
            logits, read = prompts.read(requests[index].prompt)
            answers[index] += pick(logits, [requests[index].stream], sampling.temperature, sampling.top_p)
            if not over(index):
                group.cache.fill(row, read)
                group.running[row] = index
                return
        group.running[row] = None

    rows = min(rows, len(requests))
    groups = [_Group(prompts.cache(tile), min(tile, rows - start)) for start in range(0, rows, tile)]
    for group in groups:
        for row in range(len(group.running)):
            begin(group, row)
    while any(group.busy for group in groups):
        for group in groups:
            if not group.busy:
                continue
            last = [(0, 0) if index is None else _last(requests[index], answers[index]) for index in group.running]
            last += [(0, 0)] * (tile - len(last))
            tokens, positions = torch.tensor(last, device=prompts.device).unsqueeze(-1).unbind(1)  # [tile, 1] each
            hidden = model.hidden(tokens, positions=positions, cache=group.cache)  # [tile, 1, C]
            streams = [None if index is None else requests[index].stream for index in group.running]
            streams += [None] * (tile - len(streams))
            chosen = pick(model.logits(hidden[:, -1]), streams, sampling.temperature, sampling.top_p)
            for row, index in enumerate(group.running):
                if index is not None:
                    answers[index].append(chosen[row])
                    if over(index):
                        begin(group, row)
    return answers


class _Group:
    """The rows of one tile: their keys and values, and which request each is at."""

    def __init__(self, cache: Cache, rows: int) -> None:
        self.cache = cache
        self.running: list[int | None] = [None] * rows

    @property
    def busy(self) -> bool:
        return any(index is not None for index in self.running)


def _last(request: Request, answer: Sequence[int]) -> tuple[int, int]:
    """Id and position of the newest token."""
    return answer[-1], len(request.prompt) + len(answer) - 1


class _Prompts:
    """Reads prompts one at a time, padded to one length; keeps the last: samples of one problem follow each other."""

    def __init__(self, model: Transformer, capacity: int, longest: int) -> None:
        self._model, self._capacity, self._longest = model, capacity, longest
        self._parameter = next(model.parameters())
        self.device = self._parameter.device
        self._prompt: tuple[int, ...] = ()
        self._logits = torch.empty(0)
        self._cache = self.cache(1)

    def cache(self, rows: int) -> Cache:
        like = self._parameter
        return Cache(self._model.spec, rows, self._capacity, dtype=like.dtype, device=like.device)

    def read(self, prompt: Sequence[int]) -> tuple[Tensor, Cache]:
        """Logits [1, V] of the token after the prompt, and a cache of one row that holds it."""
        if tuple(prompt) != self._prompt:
            self._prompt = tuple(prompt)
            padded = [*prompt, *[0] * (self._longest - len(prompt))]
            hidden = self._model.hidden(torch.tensor([padded], device=self.device), cache=self._cache)
            self._logits = self._model.logits(hidden[:, len(prompt) - 1])
        return self._logits, self._cache


def tiles(
    lengths: Sequence[int], max_new_tokens: int, context_length: int, size: int
) -> Iterator[tuple[int, list[int]]]:
    """Deal requests, by the lengths of their prompts, to tiles: a capacity and up to `size` indices for each.

    A request's capacity is its own length and max_new_tokens, rounded up to a multiple of 64 (at most the context), so
    it does not depend on the other requests. Raises ValueError where a prompt and its continuation exceed the context.
    """
    buckets: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        if length + max_new_tokens > context_length:
            raise ValueError(f"a prompt of {length} ids leaves no room for {max_new_tokens} in {context_length}")
        capacity = min(-(-(length + max_new_tokens) // 64) * 64, context_length)
        buckets.setdefault(capacity, []).append(index)
    for capacity, members in sorted(buckets.items()):
        for start in range(0, len(members), size):
            yield capacity, members[start : start + size]


def load_for_sampling(
    path: Path, architecture: Architecture, vocab_size: int, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Transformer:
    """The decoder with the weights of a safetensors file, as a finished run leaves them.

    Raises UserError where the file is missing or damaged, or its tensors are not those of this architecture.
    """
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: no readable weights ({error}); run the training stage again") from error
    with torch.device("meta"):
        model = Transformer(architecture, vocab_size, device=device)
    wanted = {name: parameter.shape for name, parameter in model.named_parameters()}
    # A tied matrix is one parameter under two names; a file may hold it under either or both.
    held = {name: weights[name].shape for name in weights if name in wanted or not architecture.tie_embeddings}
    if held != wanted:
        odd = next(name for name in sorted({*held, *wanted}) if held.get(name) != wanted.get(name))
        raise UserError(
            f"{path}: {odd} is {_shape(held.get(odd))} in the file, {_shape(wanted.get(odd))} in the spec: "
            "the weights are of another architecture"
        )
    for name in wanted:
        module, _, last = name.rpartition(".")
        value = nn.Parameter(weights[name].to(device=device, dtype=dtype), requires_grad=False)
        setattr(model.get_submodule(module), last, value)
    if architecture.tie_embeddings:
        model.output.weight = model.embedding.weight
    return model.eval()


def _shape(shape: torch.Size | None) -> str:
    return "absent" if shape is None else str(tuple(shape))
