"""Sampling from the decoder: what one request yields depends on that request alone.

Every forward pass has one of two fixed shapes, a single prompt [1, capacity - max_new_tokens] or one token for each row
of a tile [tile, 1] against a cache of fixed capacity; so a request's numbers round alike, whatever its neighbours are
and however many. Its random numbers come from a stream of its own. Portable kernels round alike in any shape: there
nothing is padded.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from model.decoder.kv_cache import Cache
from model.decoder.transformer import Transformer
from specs.common.files import canonical_json

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


_REJECTIONS = 16
"""Draws outside the nucleus after which it is sorted out: at a top_p of 0.5 one token in 65,536 comes to that."""


class NotFiniteError(ValueError):
    """The model's logits hold no distribution: they are NaN or infinite."""

    def __init__(self, row: int, position: int = 0) -> None:
        super().__init__(f"the logits of row {row} at position {position} are not finite")
        self.row, self.position = row, position


def pick(
    logits: Tensor, streams: Sequence[Stream | None], temperature: float, top_p: float, *, portable: bool = False
) -> list[int]:
    """One token id for each row of logits fp32 [B, V]; a row without a stream yields any id and draws nothing.

    Nucleus sampling (Holtzman et al., 2020) by rejection: draw from the whole distribution until the token lies in the
    nucleus, which the mass of the tokens before it decides (more likely ones; of equal ones, those with lower ids). The
    distribution is that of truncating and rescaling, without sorting the vocabulary. Where the nucleus is so small that
    `_REJECTIONS` draws miss it, it is sorted out and drawn from: the same distribution.
    `portable` does the same with kernels whose bits depend on no processor.
    Raises NotFiniteError where a row with a stream has no distribution.
    """
    if portable:
        return _pick_portable(logits, streams, temperature, top_p)
    if temperature == 0 or top_p == 0:
        best = logits.argmax(dim=-1, keepdim=True)
        # The greatest of all is not finite where one is NaN or infinite, or all are minus infinity.
        _require_finite(logits.gather(1, best)[:, 0], streams)
        return [int(token) for token in best[:, 0].tolist()]
    likely = (logits.float() / temperature).softmax(dim=-1)  # [B, V]
    upto = likely.cumsum(dim=-1, dtype=torch.float64)  # [B, V]
    _require_finite(upto[:, -1], streams)
    drawn = [0.0 if stream is None else stream.uniform() for stream in streams]
    chosen = _draw(likely, upto, drawn, top_p)
    for row, stream in enumerate(streams):
        if stream is not None and chosen[row] is None:
            # One row at a time from here: the shape of a sum, and so its rounding, then depends on no other row.
            chosen[row] = _redraw(likely[row : row + 1], upto[row : row + 1], stream, top_p)
    return [token or 0 for token in chosen]


def _pick_portable(logits: Tensor, streams: Sequence[Stream | None], temperature: float, top_p: float) -> list[int]:
    def drawn(rows: Tensor, wanted: Sequence[Stream | None]) -> list[int]:
        uniform = [0.0 if stream is None or greedy else stream.uniform() for stream in wanted]
        numbers = torch.tensor(uniform, dtype=torch.float64)
        return [int(token) for token in torch.ops.twice.draw(rows.contiguous(), numbers, temperature, top_p).tolist()]

    greedy = temperature == 0 or top_p == 0
    chosen = drawn(logits, streams)
    for row, stream in enumerate(streams):
        if stream is not None and chosen[row] == -2:
            raise NotFiniteError(row)
        for _ in range(_REJECTIONS):
            if stream is None or chosen[row] >= 0:
                break
            chosen[row] = drawn(logits[row : row + 1], [stream])[0]
        if stream is not None and chosen[row] < 0:
            # So small a nucleus that the likeliest token is most of it, or all.
            chosen[row] = _sorted_out(logits[row : row + 1], stream, temperature, top_p)
    return [max(token, 0) for token in chosen]


def _sorted_out(logits: Tensor, stream: Stream, temperature: float, top_p: float) -> int:
    """A token of the nucleus of one row, from its tokens in order: sums in fp64, one after the other."""
    shares = torch.ops.twice.likelihoods(logits.contiguous(), temperature)[0].numpy().astype(np.float64)
    ids = np.argsort(-shares, kind="stable")
    after = np.cumsum(shares[ids])
    size = max(1, int((after - shares[ids] < top_p * after[-1]).sum()))
    level = stream.uniform() * after[size - 1]
    return int(ids[min(int(np.searchsorted(after[:size], level, side="right")), size - 1)])


def _require_finite(values: Tensor, streams: Sequence[Stream | None]) -> None:
    """Raise NotFiniteError for the first row with a stream whose value [B] is not finite."""
    for row, (finite, stream) in enumerate(zip(values.isfinite().tolist(), streams, strict=True)):
        if stream is not None and not finite:
            raise NotFiniteError(row)


def _redraw(likely: Tensor, upto: Tensor, stream: Stream, top_p: float) -> int:
    """A token of the nucleus, after one draw that missed it. likely, upto: [1, V]."""
    for _ in range(_REJECTIONS):
        token = _draw(likely, upto, [stream.uniform()], top_p)[0]
        if token is not None:
            return token
    # Stable: of equal tokens those with lower ids come first, as in `_draw`.
    shares, ids = likely[0].double().sort(descending=True, stable=True)
    after = shares.cumsum(dim=-1)
    size = max(1, int(((after - shares) < top_p * after[-1]).sum()))
    level = torch.tensor(stream.uniform(), dtype=torch.float64, device=likely.device) * after[size - 1]
    return int(ids[torch.searchsorted(after[:size], level, right=True).clamp_(max=size - 1)])


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
