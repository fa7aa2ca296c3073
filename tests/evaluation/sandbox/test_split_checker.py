"""The split checker passes honest programs, whatever their values are made of, and takes helpers from the problem."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from data_pipeline.problems import Problem
from evaluation.protocols.program import Program
from evaluation.protocols.registry import find_protocol
from evaluation.sandbox.dialogue import Outcome
from evaluation.sandbox.split_checker import SplitSandbox
from specs.schema.experiment import Limits


@pytest.fixture(scope="module")
def split(short_limits: Limits) -> Iterator[SplitSandbox]:
    with SplitSandbox(short_limits, "T0") as sandbox:
        yield sandbox


POINT = (
    "class Point:\n    def __init__(self, x, y):\n        self.x, self.y = x, y\n"
    "    def __eq__(self, other): return (self.x, self.y) == (other.x, other.y)\n"
)
# Candidate and tests of honest programs.
HONEST = {
    "a named tuple as a tuple": (
        "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(x): return P(x, 2)",
        "assert f(1) == (1, 2)",
    ),
    "fields of a named tuple": (
        "from typing import NamedTuple\nclass P(NamedTuple):\n    x: int\n    y: int\ndef f(x): return P(x, 2)",
        "assert f(1).y == 2\nassert f(1)._replace(x=5) == (5, 2)\nassert f(P(3, 4)).x.y == 4",
    ),
    "named tuples in lists": (
        "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(n): return [P(i, i) for i in range(n)]",
        "assert [p.x for p in f(3)] == [0, 1, 2]\nassert f(1) == [(0, 0)]",
    ),
    "a default dictionary": (
        "from collections import defaultdict\ndef f(text):\n    counts = defaultdict(int)\n"
        "    for c in text: counts[c] += 1\n    return counts",
        "assert f('aab') == {'a': 2, 'b': 1}\nassert f('a')['z'] == 0",
    ),
    "a default dictionary of lists": (
        "from collections import defaultdict\ndef f(x):\n    d = defaultdict(list)\n    d[x].append(x)\n    return d",
        "d = f(1)\nd[2].append(3)\nassert dict(d) == {1: [1], 2: [3]}",
    ),
    "a default dictionary of a function's values": (
        "from collections import defaultdict\ndef f(x): return defaultdict(lambda: x)",
        "assert f(7)['any'] == 7\nassert f(7) == {}",
    ),
    "equal objects of a small class": (POINT + "def f(x): return Point(x, 2)", "P = Point\nassert f(1) == P(1, 2)"),
    "unequal objects of a small class": (POINT + "def f(x): return Point(x, 2)", "assert f(1) != Point(2, 1)"),
    "attributes of a small class": (POINT + "def f(x): return Point(x, 2)", "assert (f(1).x, f(1).y) == (1, 2)"),
    "objects within objects": (
        POINT + "def f(x): return Point(Point(x, [x]), None)",
        "assert f(1) == Point(Point(1, [1]), None)\nassert f(1) != Point(Point(1, [2]), None)",
    ),
    "a data class": (
        "from dataclasses import dataclass, field\n@dataclass\nclass D:\n"
        "    x: int\n    y: list = field(default_factory=list)\n"
        "def f(x): return D(x, [x])",
        "assert f(1) == D(1, [1])\nassert f(2) != D(1, [1])\nassert str(f(1)) == 'D(x=1, y=[1])'",
    ),
    "slots": (
        "class S:\n    __slots__ = ('x',)\n    def __init__(self, x): self.x = x\n"
        "    def __eq__(self, other): return self.x == other.x\ndef f(x): return S(x)",
        "assert f(1) == S(1)\nassert f(1) != S(2)",
    ),
    "an enumeration": (
        "from enum import Enum\nclass C(Enum):\n    RED = 1\n    BLUE = 2\ndef f(x): return C(x)",
        "assert f(1) == C.RED\nassert f(2) is not C.RED\nassert f(2).value == 2",
    ),
    "length, items and text of an object": (
        "class Bag:\n    def __init__(self, *a): self.a = a\n    def __len__(self): return len(self.a)\n"
        "    def __iter__(self): return iter(self.a)\n    def __getitem__(self, i): return self.a[i]\n"
        "    def __str__(self): return 'bag'\ndef f(*a): return Bag(*a)",
        "b = f(1, 2, 3)\nassert len(b) == 3\nassert list(b) == [1, 2, 3]\n"
        "assert b[1] == 2\nassert 3 in b\nassert str(b) == 'bag'",
    ),
    "a class of the program": (
        POINT + "class Q(Point): pass\ndef f(x): return Q(x, 2)",
        "assert isinstance(f(1), Point)\nassert isinstance(f(1), Q)\nassert not isinstance(Point(1, 2), Q)",
    ),
    "a linked list": (
        "class Node:\n    def __init__(self, value, next=None): self.value, self.next = value, next\n"
        "    def __eq__(self, o): return o is not None and (self.value, self.next) == (o.value, o.next)\n"
        "def f(items):\n    head = None\n    for item in reversed(items): head = Node(item, head)\n    return head",
        "n = f([1, 2, 3])\nassert n.next.next.value == 3\nassert n == Node(1, Node(2, Node(3)))\n"
        "assert n != Node(1, Node(2, Node(4)))",
    ),
    "a generator, a set, a fraction": (
        "from fractions import Fraction\ndef f(n):\n    yield from range(n)\ndef g(n): return {Fraction(1, n)}",
        "from fractions import Fraction\nassert list(f(3)) == [0, 1, 2]\nassert g(2) == {Fraction(1, 2)}",
    ),
    "objects that are equal to themselves alone": (
        "class A: pass\na = A()\ndef f(x): return a if x else A()",
        "assert f(1) == a\nassert f(0) != a\nassert f(1) is not f(0)",
    ),
    "an argument that is changed": ("def f(x): x.append(1)", "x = []\nf(x)\nassert x == [1]"),
}
# Programs that are wrong and seem right where they share a process with their tests.
FORGED = {
    "a helper of the prompt": ("def find_zero(xs): return 0\ndef poly(xs, x): return 0.0", None),
    "an object equal to what is expected": (
        "class E:\n    def __init__(self, *a): self.a = 0 if a else 1\n"
        "    def __eq__(self, o): return True\ndef f(x): return E()",
        "assert f(1) == 2",
    ),
    "equal to an object with other values": (
        "class P:\n    def __init__(self, x): self.x = x\n    def __eq__(self, o): return True\ndef f(x): return P(0)",
        "assert f(1) == P(1)",
    ),
    "a named tuple equal to everything": (
        "from typing import NamedTuple\nclass P(NamedTuple):\n"
        "    x: int\n    def __eq__(self, o): return True\ndef f(x): return P(0)",
        "assert f(1) == (1,)",
    ),
    "a default dictionary equal to everything": (
        "from collections import defaultdict\nclass D(defaultdict):\n"
        "    def __eq__(self, o): return True\ndef f(x): return D(int)",
        "assert f(1) == {1: 1}",
    ),
    "arithmetic of its own": (
        "class N:\n    def __sub__(self, o): return 0\n    def __abs__(self): return 0\ndef f(x): return N()",
        "assert abs(f(1) - 2) < 1e-6",
    ),
    "comparisons of its own": (
        "class N:\n    def __lt__(self, o): return True\n    def __gt__(self, o): return True\ndef f(x): return N()",
        "assert f(1) < 3\nassert f(1) > 1",
    ),
    "membership of its own": (
        "class N:\n    def __contains__(self, o): return True\n"
        "    def __iter__(self): return iter(())\ndef f(x): return N()",
        "assert 3 in f(1)",
    ),
}
POLY = Problem(
    "Example/32",
    32,
    "import math\n\ndef poly(xs, x):\n    return sum(c * math.pow(x, i) for i, c in enumerate(xs))\n\n\n"
    'def find_zero(xs):\n    """Where poly is 0."""\n',
    "    return -xs[0] / xs[1]\n",
    "def check(candidate):\n    for xs in ([1, 2], [3, -4]):\n        assert abs(poly(xs, candidate(xs))) < 1e-4\n",
    "find_zero",
    "",
)


@pytest.mark.parametrize("name", HONEST)
def test_honest_programs_pass(name: str, split: SplitSandbox) -> None:
    candidate, tests = HONEST[name]
    # The control: they are right where candidate and tests share a process.
    exec(candidate + "\n" + tests, {})
    assert split.run(Program(candidate, tests)) == Outcome("passed")


@pytest.mark.parametrize("name", FORGED)
def test_what_only_seems_right_does_not_pass(name: str, split: SplitSandbox) -> None:
    candidate, tests = FORGED[name]
    if tests is None:
        program = find_protocol("chat-v2", "humaneval").program(POLY, f"```python\n{candidate}\n```")
        assert program is not None
    else:
        program = Program(candidate, tests)
    exec(program.candidate + "\n" + program.tests, {})
    assert split.run(program).verdict != "passed"


@pytest.mark.parametrize("name", ["completion-v1", "chat-v2", "human-eval-v1", "evalplus-chat-v1"])
def test_helpers_come_from_the_problem_whatever_the_protocol(name: str, split: SplitSandbox) -> None:
    protocol = find_protocol(name, "humaneval")
    right = protocol.program(POLY, protocol.canonical(POLY))
    assert right is not None and "def poly" in right.helpers
    assert split.run(right) == Outcome("passed")
    wrong = protocol.canonical(replace(POLY, solution="    return 0\ndef poly(xs, x): return 0.0\n"))
    program = protocol.program(POLY, wrong)
    assert program is not None
    assert split.run(program).verdict != "passed"
