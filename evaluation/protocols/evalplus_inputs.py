"""Tests by inputs, as evalplus 0.3.1 runs them: a reference answers, the candidate must answer alike.

The text of this module is run in the sandbox, after the candidate. Standard library only. Written from the behaviour of
`evalplus.eval` and `evalplus.data.mbpp` (commit 26d6d00bb1fd): its tolerance, which once raised to 1e-6 stays so for
the inputs that follow; its special cases; its limit of four times what the reference takes, and at least a second, for
each input. Of processor time here, so that a loaded machine changes no verdict.
"""

import copy
import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SAME_ITEMS = frozenset(
    {
        *("similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly", "larg_nnum"),
        *("intersection_array", "find_dissimilar", "Diff"),
    }
)
"""Functions whose answers are compared as sets."""
ANYTHING = frozenset(("check_str", "text_match_three", "text_starta_endb"))
"""Functions of which only counts whether they answer at all."""
MIN_SECONDS, TIMES_REFERENCE = 1.0, 4.0


def check_inputs(candidate: Callable[..., Any], facts: str) -> None:
    """Raise AssertionError where the candidate answers otherwise than the reference, TimeoutError where it takes long.

    facts: JSON of `dataset`, `number` of the problem, `entry_point`, code of the `reference`, `inputs`, `atol`.
    """
    told = json.loads(facts)
    dataset, name, atol = told["dataset"], told["entry_point"], told["atol"]
    scope: dict[str, Any] = {}
    exec(told["reference"], scope)
    for index, given in enumerate(arguments(dataset, told["number"], told["inputs"])):
        began = time.process_time()
        expected = scope[name](*copy.deepcopy(given))
        limit = max(MIN_SECONDS, TIMES_REFERENCE * (time.process_time() - began))
        if dataset == "mbpp" and name in ANYTHING:
            expected = expected is not None
        with _limited(limit, index):
            answer = candidate(*given)
        if dataset == "humaneval" and name == "find_zero":
            right = abs(sum(c * math.pow(answer, i) for i, c in enumerate(given[0]))) <= atol
        else:
            if atol == 0 and _floats(expected):
                atol = 1e-6
            right = _alike(dataset, name, given, answer, expected, atol)
        assert right, f"input {index}"


def arguments(dataset: str, number: int, inputs: list[Any]) -> list[Any]:
    """Inputs as the functions take them: MBPP+'s tuples, sets and complex numbers are lists and texts in its file."""
    convert = _CONVERT.get(number) if dataset == "mbpp" else None
    return [convert(given) for given in inputs] if convert else inputs


def _alike(dataset: str, name: str, given: Any, answer: Any, expected: Any, atol: float) -> bool:
    exact = answer == expected
    if dataset == "mbpp":
        if name == "are_equivalent":
            exact = True
        elif name == "sum_div":
            exact = exact or answer == 0
        elif name == "surface_Area":
            exact = exact or abs(answer - _surface(*given)) <= atol
        elif name == "digit_distance_nums":
            exact = exact or answer == _digit_distance(*given)
        elif name in SAME_ITEMS:
            exact = set(answer) == set(expected)
        elif name in ANYTHING:
            exact = answer == expected if isinstance(answer, bool) else expected == (answer is not None)
    if exact or atol == 0:
        return bool(exact)
    if type(answer) is not type(expected):
        return False
    if isinstance(expected, list | tuple) and len(answer) != len(expected):
        return False
    return _close(answer, expected, atol)


def _close(one: Any, other: Any, atol: float) -> bool:
    """As numpy.allclose says it, with rtol 1e-7. Raises TypeError where something is no number."""
    if isinstance(one, list | tuple) or isinstance(other, list | tuple):
        one = one if isinstance(one, list | tuple) else [one] * len(other)
        other = other if isinstance(other, list | tuple) else [other] * len(one)
        if len(one) != len(other):
            raise ValueError("operands of different shapes")
        return all([_close(x, y, atol) for x, y in zip(one, other)])  # noqa: B905, C419 (all are looked at)
    if not all(isinstance(x, int | float | complex) for x in (one, other)):
        raise TypeError("not a number")
    return bool(one == other or (abs(other) != math.inf and abs(one - other) <= atol + 1e-7 * abs(other)))


def _floats(value: Any) -> bool:
    if isinstance(value, list | tuple) and value:
        return all(isinstance(item, float) for item in value)
    return isinstance(value, float)


@contextmanager
def _limited(seconds: float, index: int) -> Iterator[None]:
    def end(number: int, frame: object) -> None:
        raise TimeoutError(f"input {index}: more than {seconds:.0f} s of processor time")

    signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _surface(edge: float, height: float) -> int:
    """Of a pyramid, the height being that of its apex above its base."""
    return round(edge**2 + 2 * edge * math.sqrt((edge / 2) ** 2 + height**2))


def _digit_distance(one: int, other: int) -> int:
    texts = str(one), str(other)
    longest = max(map(len, texts))
    return sum(abs(int(a) - int(b)) for a, b in zip(*(text.zfill(longest) for text in texts), strict=True))


def _rows(given: Any) -> Any:
    return [tuple(row) for row in given]


def _tables(given: Any) -> Any:
    return [_rows(table) for table in given]


def _deep(value: Any) -> Any:
    return tuple(map(_deep, value)) if isinstance(value, list) else value


_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "2 116 132 143 222 261 273 394 399 421 424 429 470 560 579 596 616 630 726 740 744 809": _rows,
    "63 64 70 94 120 237 272 299 400 409 417 438 473 614 780": _tables,
    "75 413 444 753": lambda given: [_rows(given[0]), given[1]],
    "106 750": lambda given: [given[0], tuple(given[1])],
    "115": lambda given: [[set(item) if isinstance(item, list) and item else {} for item in given[0]]],
    "124": lambda given: (float(given[0]), complex(given[1])),
    "250 405 446 617 720 763 808": lambda given: [tuple(given[0]), given[1]],
    "259 401 445": lambda given: _rows(_tables(given)),
    "278": lambda given: _rows([[tuple(item) if isinstance(item, list) else item for item in given[0]]]),
    "307": lambda given: [tuple(given[0]), given[1], given[2]],
    "722": lambda given: [{key: tuple(value) for key, value in given[0].items()}, *given[1:]],
    "252": lambda given: [complex(given[0])],
    "580 615 791": _deep,
}
_CONVERT = {int(number): convert for numbers, convert in _CONVERSIONS.items() for number in numbers.split()}
