"""Sampling from the decoder: what one request yields depends on that request alone.

Every forward pass has one of two fixed shapes, a single prompt [1, capacity - max_new_tokens] or one token for each row
of a tile [tile, 1] against a cache of fixed capacity; so a request's numbers round alike, whatever its neighbours are
and however many. Its random numbers come from a stream of its own. Portable kernels round alike in any shape: there
nothing is padded.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.decoder.kv_cache import Cache
from model.decoder.transformer import Transformer
from model.nucleus import NotFiniteError, Stream, pick

Finished = Callable[[Sequence[int]], bool]
Done = Callable[[int, list[int]], None]


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
    same ids. Raises ValueError where a prompt does not fit, and NotFiniteError (`row`: the index of the request,
    `position`: that of the token that was to come) where the model gives no distribution.
    """
    longest = capacity - sampling.max_new_tokens
    for request in requests:
        if not 1 <= len(request.prompt) <= longest:
            raise ValueError(f"a prompt of {len(request.prompt)} ids does not fit in 1 to {longest}")
    prompts = _Prompts(model, capacity, longest)
    work = _Work(requests, sampling, finished, done, portable=not model.arithmetic.shapes_matter)
    rows = min(rows, len(requests))
    padded = tile if model.arithmetic.shapes_matter else 0
    groups = [_Group(prompts.cache(tile), min(tile, rows - start)) for start in range(0, rows, tile)]
    for group in groups:
        for row in range(len(group.running)):
            group.running[row] = work.begin(prompts, group.cache, row)
    while any(group.busy for group in groups):
        for group in groups:
            if not group.busy:
                continue
            last = [(0, 0) if index is None else work.last(index) for index in group.running]
            last += [(0, 0)] * (padded - len(last))
            tokens, positions = torch.tensor(last, device=prompts.device).unsqueeze(-1).unbind(1)  # [tile, 1] each
            hidden = model.hidden(tokens, positions=positions, cache=group.cache)  # [tile, 1, C]
            running = [*group.running, *[None] * (padded - len(group.running))]
            ended = work.step(model.logits(hidden[:, -1]), running)
            for row in ended:
                group.running[row] = work.begin(prompts, group.cache, row)
    return work.answers


class _Work:
    """Requests, their answers so far, and which of them wait."""

    def __init__(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        finished: Finished,
        done: Done | None,
        *,
        portable: bool,
    ) -> None:
        self._requests, self._sampling, self._finished, self._done = requests, sampling, finished, done
        self._portable = portable
        self.answers: list[list[int]] = [[] for _ in requests]
        self._waiting = iter(range(len(requests)))

    def begin(self, prompts: "_Prompts", cache: Cache, row: int) -> int | None:
        """Read the next prompt into a row and choose its first token; the index of its request, none if none waits."""
        for index in self._waiting:
            logits, read = prompts.read(self._requests[index].prompt)
            if not self.step(logits, [index]):
                cache.fill(row, read)
                return index
        return None

    def last(self, index: int) -> tuple[int, int]:
        """Id and position of the newest token of a request."""
        answer = self.answers[index]
        return answer[-1], len(self._requests[index].prompt) + len(answer) - 1

    def step(self, logits: Tensor, running: Sequence[int | None]) -> list[int]:
        """Choose the next token of each request under way, logits [B, V]; the rows whose requests have ended."""
        streams = [None if index is None else self._requests[index].stream for index in running]
        try:
            how = self._sampling
            chosen = pick(logits, streams, how.temperature, how.top_p, portable=self._portable)
        except NotFiniteError as error:
            index = running[error.row]
            assert index is not None
            position = len(self._requests[index].prompt) + len(self.answers[index])
            raise NotFiniteError(index, position) from error
        ended = []
        for row, index in enumerate(running):
            if index is not None:
                self.answers[index].append(chosen[row])
                if self._over(index):
                    ended.append(row)
        return ended

    def _over(self, index: int) -> bool:
        answer = self.answers[index]
        if len(answer) < self._sampling.max_new_tokens and not self._finished(answer):
            return False
        if self._done:
            self._done(index, answer)
        return True


class _Group:
    """The rows of one tile: their keys and values, and which request each is at."""

    def __init__(self, cache: Cache, rows: int) -> None:
        self.cache = cache
        self.running: list[int | None] = [None] * rows

    @property
    def busy(self) -> bool:
        return any(index is not None for index in self.running)


class _Prompts:
    """Reads prompts one at a time, padded to one length where shapes matter; keeps the last: samples of one problem
    follow each other."""

    def __init__(self, model: Transformer, capacity: int, longest: int) -> None:
        self._model, self._capacity = model, capacity
        self._padded = longest if model.arithmetic.shapes_matter else 0
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
            padded = [*prompt, *[0] * (self._padded - len(prompt))]
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
