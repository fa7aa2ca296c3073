import ast
import doctest
import textwrap

import pytest

from data_pipeline.sources.debugging_tasks import _outcomes, debugging_tasks
from data_pipeline.sources.docstring_pairs import Pair
from specs.loading.settings import ROOT
from specs.loading.yaml_reader import read_document

MODULE = '''
import math
import os
from itertools import accumulate as sums


def total(values):
    """Largest running total.

    >>> total([1, 2, -5, 3])
    3
    >>> total([4])
    4
    """
    # The first is a total too.
    return max(sums(values))


def between(value, low, high):
    """Whether a value lies strictly within bounds.

    >>> between(2, 1, 3), between(1, 1, 3), between(3, 1, 3)
    (True, False, False)
    """
    return low < value and value < high


def count_up(n):
    """
    >>> count_up(4)
    4
    """
    count = 0
    while count != n:
        count += 1
    return count


def wrong(n):
    """
    >>> wrong(1)
    2
    """
    return n + 2
'''


def holds(source: str) -> bool:
    """Whether the examples of a function of this file hold, as doctest in this process finds."""
    scope: dict[str, object] = {}
    exec("from itertools import accumulate as sums\n" + source, scope)
    name = ast.parse(source).body[0].name  # type: ignore[attr-defined]
    test = doctest.DocTestParser().get_doctest(scope[name].__doc__ or "", scope, name, None, None)
    return doctest.DocTestRunner(verbose=False).run(test, out=lambda text: None).failed == 0


def tasks(module: str, seed: str = "s") -> dict[int, Pair]:
    pairs = debugging_tasks(module, seed)
    assert pairs is not None
    return {pair.line: pair for pair in pairs}


def test_the_examples_hold_for_the_answer_and_break_with_the_defect() -> None:
    pairs = tasks(MODULE)
    made = {line: pair for line, pair in pairs.items() if pair.messages}
    names = [pair.messages[0].content.split("`")[1] for pair in made.values()]
    assert "between" in names and "count_up" in names
    for pair in made.values():
        request, answer = (message.content for message in pair.messages)
        broken = request.split("\n\n", 1)[1]
        assert answer in MODULE and ast.dump(ast.parse(broken)) != ast.dump(ast.parse(answer))
        changed = [new for old, new in zip(answer.split("\n"), broken.split("\n"), strict=True) if old != new]
        assert len(changed) == 1
        assert holds(answer)
        # A defect that never ends is not for this process: the trial found it.
        assert "count_up" in answer or not holds(broken)
    assert [pair.trouble for pair in pairs.values() if not pair.messages].count("examples do not hold alone") == 1


def test_the_defect_follows_from_the_seed() -> None:
    assert tasks(MODULE) == tasks(MODULE)
    requests = {
        tuple(pair.messages[0].content for pair in tasks(MODULE, str(n)).values() if pair.messages) for n in "1234"
    }
    assert len(requests) > 1


REACHING = [
    "x.__class__",
    "getattr(x, 'a')",
    "open('/etc/passwd')",
    "os.system('true')",
    "eval('x')",
    "'{0.__class__}'.format(x)",
    "f'{x}'",
    "(y for y in x).gi_frame",
    "__import__('os')",
    "type(x)",
    "print(x)",
    "math.__loader__",
    "[x for __builtins__ in [x]]",
]


@pytest.mark.parametrize("expression", REACHING)
def test_what_reaches_further_is_never_run(expression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    monkeypatch.setattr("data_pipeline.sources.debugging_tasks._outcomes", lambda programs: ran.extend(programs) or [])
    inside = f"import math, os\n\n\ndef f(x):\n    '''\n    >>> f(1)\n    1\n    '''\n    return {expression}\n"
    example = (
        f"import math, os\n\n\ndef f(x):\n    '''\n    >>> x = 1; {expression}\n    1\n    '''\n    return x + 1\n"
    )
    assert [pair.trouble for pair in tasks(inside).values()] == ["function reaches further"]
    assert [pair.trouble for pair in tasks(example).values()] == ["examples reach further"]
    assert not ran


def test_the_trial_stops_what_does_not_end_and_has_no_files() -> None:
    def function(body: str) -> str:
        return "def f(x):\n    '''\n    >>> f(1)\n    1\n    '''\n" + textwrap.indent(body, "    ") + "\n"

    assert _outcomes(
        [
            function("return x"),
            function("return x + 1"),
            function("while x:\n    x += 1"),
            function("return [0] * 10**10"),
            function("return open('/etc/passwd') and 1"),
            function("import os\nreturn 1"),
        ]
    ) == ["pass", "fail", "stopped", "fail", "fail", "fail"]


def test_modules_without_examples_cost_nothing_and_broken_ones_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_pipeline.sources.debugging_tasks._outcomes", None)
    assert tasks("def f(x):\n    '''Return it.'''\n    return x\n") == {}
    assert debugging_tasks("def f(", "s") is None


@pytest.mark.parametrize("name", ["instructions", "smoke-instructions"])
def test_a_model_is_tuned_on_functions_to_write_and_on_functions_to_mend(name: str) -> None:
    sources = read_document(ROOT / "specs" / "corpora" / f"{name}.yaml").value["sources"]
    assert {source["format"] for source in sources} >= {"docstring-pairs", "debugging-tasks", "conversations"}


def test_the_order_of_sets_is_the_same_in_every_trial() -> None:
    source = textwrap.dedent('''
        def first():
            """
            >>> first()
            'a'
            """
            return next(iter({"a", "b"}))
    ''')
    # With a seed of its own each of these processes would answer as a coin falls.
    assert len({tuple(_outcomes([source])) for _ in range(12)}) == 1
