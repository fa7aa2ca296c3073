"""What a request yields depends on that request alone, and follows the distribution that was asked for."""

from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.decoder.transformer import Transformer
from model.nucleus import NotFiniteError, Stream, pick
from model.sampling import Request, Sampling, sample, tiles
from specs.schema.training import Architecture, Attention

SPEC = Architecture(
    d_model=32,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    d_ff=64,
    context_length=128,
    attention=Attention(pattern="interleaved", window=16, global_every=2),
    init_std=0.2,
)
VOCABULARY = 320
SETTING = Sampling(temperature=0.8, top_p=0.9, max_new_tokens=24)


@pytest.fixture(scope="module", params=[False, True], ids=["stock", "portable"])
def model(request: pytest.FixtureRequest) -> Transformer:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return Transformer(SPEC, VOCABULARY, portable=request.param).eval()


@pytest.fixture(params=[False, True], ids=["stock", "portable"])
def portable(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def prompt(number: int) -> list[int]:
    return [(number * 37 + place * 11) % VOCABULARY for place in range(3 + number % 17)]


def ask(
    model: Transformer, wanted: Sequence[int], rows: int = 4, how: Sampling = SETTING, tile: int = 4
) -> dict[int, list[int]]:
    """Answers by request; request n is sample n % 3 of prompt n // 3."""
    requests = [Request(prompt(n // 3), Stream.of(1, n // 3, n % 3)) for n in wanted]
    answers = sample(model, requests, how, rows=rows, tile=tile, capacity=64, finished=lambda ids: ids[-1] % 13 == 0)
    return dict(zip(wanted, answers, strict=True))


def test_a_sample_does_not_depend_on_its_neighbours_or_the_order(model: Transformer) -> None:
    everything = ask(model, range(18))
    assert ask(model, range(17, -1, -1)) == everything
    assert ask(model, range(5, 9)) == {n: everything[n] for n in range(5, 9)}
    assert ask(model, [11]) == {11: everything[11]}
    assert len({tuple(ids) for ids in everything.values()}) > 12, (
        "the samples differ, so the comparison means something"
    )


def test_the_batch_size_changes_nothing(model: Transformer) -> None:
    everything = ask(model, range(66), rows=16, tile=16)
    for rows in (1, 3, 64):
        some = range(66) if rows > 16 else range(6)
        assert ask(model, some, rows=rows, tile=16) == {n: everything[n] for n in some}, rows


def test_the_shape_of_a_pass_is_what_rounds() -> None:
    """Why the tile is fixed: the same row alone and among others gives other bits."""
    torch.manual_seed(0)
    wide = torch.nn.Linear(512, 512, bias=False)
    x = torch.randn(16, 512)
    assert not torch.equal(wide(x)[:1], wide(x[:1]))


def test_an_answer_is_handed_over_when_it_ends(model: Transformer) -> None:
    told: dict[int, list[int]] = {}
    requests = [Request(prompt(n), Stream.of(n)) for n in range(9)]
    answers = sample(
        model,
        requests,
        SETTING,
        rows=3,
        tile=4,
        capacity=64,
        finished=lambda ids: ids[-1] % 13 == 0,
        done=lambda index, ids: told.__setitem__(index, list(ids)),
    )
    assert told == dict(enumerate(answers))
    assert list(told) != sorted(told), "in the order in which they end"


@pytest.mark.parametrize("top_p", [0.95, 0.3])
def test_what_is_picked_for_a_row_does_not_depend_on_the_others(top_p: float, portable: bool) -> None:
    torch.manual_seed(3)
    logits = torch.randn(64, 5000) * 3
    together = pick(logits, [Stream.of(row) for row in range(64)], 0.8, top_p, portable=portable)
    assert together == [
        pick(logits[row : row + 1], [Stream.of(row)], 0.8, top_p, portable=portable)[0] for row in range(64)
    ]


def test_another_seed_gives_other_samples(model: Transformer) -> None:
    requests = [[Request(prompt(1), Stream.of(seed, 0))] for seed in (1, 2)]
    first, second = (
        sample(model, r, SETTING, rows=2, tile=2, capacity=64, finished=lambda ids: False) for r in requests
    )
    assert first != second


def test_it_stops_where_it_is_told_and_not_later(model: Transformer) -> None:
    answers = ask(model, range(18)).values()
    assert all(1 <= len(ids) <= 24 for ids in answers)
    assert all(token % 13 for ids in answers for token in ids[:-1])
    assert any(len(ids) < 24 for ids in answers)
    assert all(ids[-1] % 13 == 0 for ids in answers if len(ids) < 24)


def test_the_cache_changes_nothing(model: Transformer) -> None:
    """Greedy answers are those of full forward passes, but for ties within rounding."""
    for number, ids in ask(model, [0, 9, 30], how=Sampling(0, 1, 24)).items():
        context = prompt(number // 3)
        for token in ids:
            with torch.no_grad():
                logits = model(torch.tensor([context]))[0, -1]
            assert logits.max() - logits[token] < 1e-4
            context.append(token)


def test_a_prompt_that_does_not_fit_is_refused(model: Transformer) -> None:
    for ids in ([], [1] * 41):
        with pytest.raises(ValueError, match="does not fit in 1 to 40"):
            sample(
                model, [Request(ids, Stream.of(1))], SETTING, rows=1, tile=1, capacity=64, finished=lambda ids: False
            )


@pytest.mark.parametrize("top_p", [1.0, 0.75, 0.5, 0.1])
def test_picks_follow_the_nucleus(top_p: float, portable: bool) -> None:
    """Of probabilities .4 .3 .2 .1 the nucleus keeps the fewest that reach top_p, rescaled."""
    shares = [0.2, 0.4, 0.1, 0.3]
    kept = {1.0: [0, 1, 2, 3], 0.75: [0, 1, 3], 0.5: [1, 3], 0.1: [1]}[top_p]
    logits = torch.tensor([shares]).log().repeat(20, 1)
    streams = [Stream.of("row", row) for row in range(20)]
    counts = Counter(token for _ in range(500) for token in pick(logits, streams, 1.0, top_p, portable=portable))
    assert set(counts) == set(kept)
    for token in kept:
        # Standard error at most 0.005.
        assert counts[token] / 10_000 == pytest.approx(shares[token] / sum(shares[k] for k in kept), abs=0.025)


def test_of_equal_tokens_those_with_lower_ids_are_in_the_nucleus(portable: bool) -> None:
    logits = torch.zeros(50, 10)
    streams = [Stream.of(row) for row in range(50)]
    assert {token for _ in range(20) for token in pick(logits, streams, 1.0, 0.3, portable=portable)} == {0, 1, 2}


def test_temperature_sharpens_and_zero_takes_the_best(portable: bool) -> None:
    logits = torch.tensor([[0.0, 1.0, 0.5]]).repeat(50, 1)
    streams = [Stream.of(row) for row in range(50)]

    def best(temperature: float) -> int:
        return sum(
            token == 1 for _ in range(20) for token in pick(logits, streams, temperature, 1.0, portable=portable)
        )

    assert best(5.0) < best(0.5) < best(0.05) <= 1000
    assert pick(logits, [None] * 50, 0, 1.0, portable=portable) == [1] * 50


@given(st.integers(0, 2**32), st.text(max_size=20), st.integers(0, 1000))
def test_a_stream_is_a_function_of_its_names(seed: int, task: str, index: int) -> None:
    one, other = Stream.of(seed, task, index), Stream.of(seed, task, index)
    numbers = [one.uniform() for _ in range(5)]
    assert numbers == [other.uniform() for _ in range(5)]
    assert all(0 <= number < 1 for number in numbers)
    assert numbers[0] != Stream.of(seed, task, index + 1).uniform()


def test_streams_are_the_same_on_every_machine() -> None:
    stream = Stream.of(1, "HumanEval/0", 0)
    assert [stream.uniform() for _ in range(3)] == [0.5550573173215946, 0.9610903996450322, 0.5582515278529409]


@given(st.lists(st.integers(1, 104), max_size=60), st.integers(1, 9))
def test_tiles_hold_each_request_once_and_room_for_it(lengths: list[int], size: int) -> None:
    dealt = list(tiles(lengths, 24, 128, size))
    assert sorted(index for _, members in dealt for index in members) == list(range(len(lengths)))
    for capacity, members in dealt:
        assert len(members) <= size
        assert all(lengths[index] + 24 <= capacity <= 128 for index in members)
        # The capacity is a function of the request alone.
        assert all([capacity] == [c for c, _ in tiles([lengths[index]], 24, 128, 1)] for index in members)


def test_a_prompt_too_long_for_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves no room"):
        list(tiles([105], 24, 128, 4))


# Logits of three rows, one of them broken, and how: each kind of broken row is refused, wherever the bad value stands.
BROKEN = {
    "NaN": [float("nan"), 0.0, 1.0],
    "NaN at the end": [0.0, 1.0, float("nan")],
    "infinity": [0.0, float("inf"), 1.0],
    "all minus infinity": [float("-inf")] * 3,
    "all NaN": [float("nan")] * 3,
}


@pytest.mark.parametrize("temperature", [0, 0.8])
@pytest.mark.parametrize("name", BROKEN)
def test_logits_without_a_distribution_are_an_error_that_names_the_row(
    name: str, temperature: float, portable: bool
) -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], BROKEN[name], [0.0, 1.0, 2.0]])
    streams = [Stream.of(row) for row in range(3)]
    with pytest.raises(NotFiniteError) as caught:
        pick(logits, streams, temperature, 0.9, portable=portable)
    assert caught.value.row == 1
    # A row that nobody reads may hold anything.
    assert len(pick(logits, [streams[0], None, streams[2]], temperature, 0.9, portable=portable)) == 3


def test_some_logits_of_minus_infinity_are_tokens_that_never_come(portable: bool) -> None:
    logits = torch.tensor([[float("-inf"), 1.0, float("-inf")]]).repeat(20, 1)
    for temperature in (0, 0.8):
        assert pick(logits, [Stream.of(row) for row in range(20)], temperature, 0.95, portable=portable) == [1] * 20


def test_a_model_that_breaks_in_the_middle_is_named_by_request_and_position(model: Transformer) -> None:
    """Its logits become NaN after a few ids: the error says of which request, and at which position."""
    forward, calls = model.logits, 0

    def broken(hidden: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return forward(hidden) * (float("nan") if calls > 5 else 1)

    model.logits = broken  # type: ignore[method-assign]
    try:
        requests = [Request(prompt(4), Stream.of(4))]
        with pytest.raises(NotFiniteError) as caught:
            sample(model, requests, SETTING, rows=1, tile=1, capacity=64, finished=lambda ids: False)
    finally:
        del model.logits
    # The first token comes from the prompt, four more from a pass each.
    assert (caught.value.row, caught.value.position) == (0, len(prompt(4)) + 5)


class Counted(Stream):
    """Counts its draws."""

    def __init__(self, key: bytes) -> None:
        super().__init__(key)
        self.draws = 0

    def uniform(self) -> float:
        self.draws += 1
        return super().uniform()


@pytest.mark.parametrize("top_p", [1e-9, 1e-6, 1e-3, 0.05, 0.5])
def test_a_draw_takes_bounded_work_however_small_the_nucleus(top_p: float, portable: bool) -> None:
    """Of 4,000 tokens that are nearly equally likely a nucleus of a billionth holds one."""
    torch.manual_seed(5)
    logits = torch.randn(40, 4000) * 1e-3
    streams = [Counted.of(row) for row in range(40)]
    chosen = pick(logits, streams, 1.0, top_p, portable=portable)
    assert max(stream.draws for stream in streams) <= 18
    for row, token in enumerate(chosen):
        likely = logits[row].double().softmax(dim=-1)
        assert likely[likely > likely[token]].sum() < top_p + 1e-6
    if top_p < 1e-3:
        assert chosen == logits.argmax(dim=-1).tolist()


@pytest.mark.parametrize("top_p", [0.03, 0.1])
def test_a_nucleus_that_is_sorted_out_follows_the_same_distribution(top_p: float, portable: bool) -> None:
    """Three tokens share what 997 leave: most draws miss them, and what is drawn then has the shares of the three."""
    shares = torch.full((1000,), (1 - 0.1) / 997)
    shares[[500, 20, 700]] = torch.tensor([0.05, 0.03, 0.02])
    kept = {0.03: {500: 1.0}, 0.1: {500: 0.5, 20: 0.3, 700: 0.2}}[top_p]
    logits = shares.log().repeat(50, 1)
    streams = [Stream.of("row", row) for row in range(50)]
    counts = Counter(token for _ in range(100) for token in pick(logits, streams, 1.0, top_p, portable=portable))
    assert set(counts) == set(kept)
    for token, share in kept.items():
        assert counts[token] / 5000 == pytest.approx(share, abs=0.03)


def test_of_equal_tokens_a_nucleus_that_is_sorted_out_holds_those_with_lower_ids(portable: bool) -> None:
    logits = torch.zeros(50, 1000)
    streams = [Stream.of(row) for row in range(50)]
    assert {token for _ in range(20) for token in pick(logits, streams, 1.0, 0.0025, portable=portable)} == {0, 1, 2}
