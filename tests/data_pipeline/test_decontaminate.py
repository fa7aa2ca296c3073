import ast
import builtins
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.decontaminate import Index, keep
from data_pipeline.documents.documents import Document, Message, document_id, render_conversation
from data_pipeline.problems import Problem, read_problems
from data_pipeline.text import code_structure
from data_pipeline.text.code_structure import LEAST, Patterns, tokens
from specs.loading.settings import ROOT
from specs.pipeline.stage import Ledger
from specs.schema.data import Decontaminate

PROBLEM = Problem(
    task_id="HumanEval/0",
    number=0,
    prompt='def has_close(numbers, threshold):\n    """Check if any two numbers of the list are closer to each other\n'
    '    than the given threshold.\n    """\n',
    solution="    for place, one in enumerate(numbers):\n        for other, two in enumerate(numbers):\n"
    "            if place != other and abs(one - two) < threshold:\n                return True\n    return False\n",
    tests="def check(candidate):\n    assert candidate([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 11, 12) == True\n"
    '    assert candidate(["alpha", "beta", "gamma", "delta", "epsilon"]) == "omega"\n',
    entry_point="has_close",
    setup="",
)
CLEAN = "def mean(values):\n    return sum(values) / len(values)\n" * 30


def make(text: str, path: str = "a.py", language: str = "python") -> Document:
    return Document(document_id(text), "s", path, "MIT", language, text)


def index(**values: int) -> Index:
    return Index([("humaneval", PROBLEM)], Decontaminate(**values))


@pytest.mark.parametrize(
    ("passage", "kind"),
    [
        (PROBLEM.prompt, "words"),
        (PROBLEM.solution, "words"),
        (PROBLEM.prompt + PROBLEM.solution, "words"),
        ("# CHECK if any two numbers, of the list:\n#  are closer\n# to each other than", "words"),
        ('xs = ["alpha", "beta", "gamma", "delta", "epsilon"]\nassert candidate(xs)', None),
        ('assert  candidate(["alpha","beta","gamma","delta","epsilon"])=="omega"', "passage"),
        ("assert candidate([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 11, 12) == True", None),
        ("numbers = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]", None),
        ("for place, one in enumerate(numbers):\n    print(place, one)", None),
    ],
)
@pytest.mark.parametrize("before", ["", CLEAN, "x = 'glued'"])
def test_what_is_shared_is_found_wherever_it_stands(passage: str, kind: str | None, before: str) -> None:
    hit = index().hit(before + "\n" + passage + "\n" + CLEAN)
    assert (hit and hit.kind) == kind
    if hit:
        assert hit.origin.task_id == "HumanEval/0" and hit.matched


@given(st.text(alphabet="xyz \n", max_size=90), st.text(alphabet="xyz \n", max_size=50))
def test_a_passage_is_found_at_every_offset(before: str, after: str) -> None:
    # Word runs of this length cannot match here: what finds it is the grid of cells alone.
    hit = index(ngram_words=10).hit(
        before + 'assert candidate(["alpha", "beta", "gamma", "delta", "epsilon"])==' + after
    )
    assert hit is None
    line = PROBLEM.tests.split("\n")[2]
    hit = Index([("h", PROBLEM)], Decontaminate(ngram_words=9, min_chars=35)).hit(before + line + after)
    assert hit is not None


def test_the_ledger_names_item_document_and_matched_text() -> None:
    ledger = Ledger()
    said = render_conversation([Message("user", "Write it."), Message("assistant", PROBLEM.solution)])
    documents = [make(CLEAN), make(PROBLEM.solution, "b.py"), make(said, "c.jsonl#1", "conversation")]
    assert list(keep(documents, index(), ledger)) == documents[:1]
    counts = ledger.as_json()
    assert counts["drops"] == {
        "holds words of humaneval": {
            "documents": 2,
            "sources": {"s": 2},
            "examples": [f"s/{path}: humaneval/HumanEval/0, solution" for path in ("b.py:1", "c.jsonl#1:3")],
        }
    }
    assert counts["facts"]["matches"][0] == {
        "document": "s/b.py",
        "line": 1,
        "item": "humaneval/HumanEval/0",
        "part": "solution",
        "words": "for place one in enumerate numbers for other two in",
    }


COUNTED = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
# Chen et al., 2021, MIT licence.
HUMANEVAL_19 = Problem(
    task_id="HumanEval/19",
    number=19,
    prompt="from typing import List\n\n\ndef sort_numbers(numbers: str) -> str:\n"
    "    \"\"\" Input is a space-delimited string of numberals from 'zero' to 'nine'.\n"
    "    Valid choices are 'zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight' and 'nine'.\n"
    "    Return the string with numbers sorted from smallest to largest\n"
    "    >>> sort_numbers('three one five')\n    'one three five'\n"
    '    """\n',
    solution="    value_map = {\n"
    + "".join(f"        '{word}': {value},\n" for value, word in enumerate(("zero", *COUNTED[:9])))
    + "    }\n    return ' '.join(sorted([x for x in numbers.split(' ') if x], key=lambda x: value_map[x]))\n",
    tests="def check(candidate):\n    assert candidate('') == ''\n    assert candidate('three') == 'three'\n",
    entry_point="sort_numbers",
    setup="",
)
HUMANEVAL_20 = Problem(
    task_id="HumanEval/20",
    number=20,
    prompt="from typing import List, Tuple\n\n\ndef find_closest_elements("
    "numbers: List[float]) -> Tuple[float, float]:\n"
    '    """ From a supplied list of numbers (of length at least two) select and return two that are the closest to '
    "each\n    other and return them in order (smaller number, larger number).\n"
    "    >>> find_closest_elements([1.0, 2.0, 3.0, 4.0, 5.0, 2.2])\n    (2.0, 2.2)\n"
    '    """\n',
    solution="    closest_pair = None\n    distance = None\n\n    for idx, elem in enumerate(numbers):\n"
    "        for idx2, elem2 in enumerate(numbers):\n            if idx != idx2:\n"
    "                if distance is None:\n                    distance = abs(elem - elem2)\n"
    "                    closest_pair = tuple(sorted([elem, elem2]))\n                else:\n"
    "                    new_distance = abs(elem - elem2)\n                    if new_distance < distance:\n"
    "                        distance = new_distance\n"
    "                        closest_pair = tuple(sorted([elem, elem2]))\n\n    return closest_pair\n",
    tests="def check(candidate):\n    assert candidate([1.0, 2.0, 3.9, 4.0, 5.0, 2.2]) == (3.9, 4.0)\n",
    entry_point="find_closest_elements",
    setup="",
)


def disguised(text: str) -> str:
    """The program with every name of its own changed, no docstring, other layout: what a plain search misses."""
    tree = ast.parse(text)
    kept = set(dir(builtins)) | {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    names: dict[str, str] = {}

    def new(name: str) -> str:
        return name if name in kept else names.setdefault(name, f"renamed_{len(names)}")

    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            node.id = new(node.id)
        elif isinstance(node, ast.arg):
            node.arg = new(node.arg)
        elif isinstance(node, ast.FunctionDef):
            node.name = new(node.name)
            if ast.get_docstring(node) and len(node.body) > 1:
                del node.body[0]
    return ast.unparse(tree).replace("    ", "  ")


def test_a_renamed_and_reindented_solution_is_caught_and_the_ledger_says_where() -> None:
    planted = CLEAN + "\n" + disguised(HUMANEVAL_20.prompt + HUMANEVAL_20.solution) + "\n\n" + CLEAN
    problems = [("humaneval", HUMANEVAL_19), ("humaneval", HUMANEVAL_20)]
    # The control: names gone, neither words nor passages say anything.
    assert Index(problems, Decontaminate(structure_tokens=0)).hit(planted) is None
    ledger = Ledger()
    assert not list(keep([make(planted)], Index(problems, Decontaminate()), ledger))
    [match] = ledger.as_json()["facts"]["matches"]
    assert (match["document"], match["item"], match["part"]) == ("s/a.py", "humaneval/HumanEval/20", "solution")
    assert planted.split("\n")[match["line"] - 1].startswith("def renamed_0(renamed_1")
    assert "renamed_1" in match["structure"]


def test_a_prompt_inside_prose_is_caught_and_the_ledger_says_where() -> None:
    said = " ".join(ast.get_docstring(ast.parse(HUMANEVAL_20.prompt + "    pass\n").body[1]).split())  # type: ignore
    prose = "Interview questions\n\nI was once asked this one.\n" + textwrap.fill(said.upper(), 57) + "\n\nNo idea!\n"
    ledger = Ledger()
    documents = [make(prose, "notes.md", "markdown"), make("Two numbers are close.\n" * 20, "b.md", "markdown")]
    assert list(keep(documents, Index([("humaneval", HUMANEVAL_20)], Decontaminate()), ledger)) == documents[1:]
    [match] = ledger.as_json()["facts"]["matches"]
    assert (match["document"], match["line"]) == ("s/notes.md", 4)
    assert (match["item"], match["part"]) == ("humaneval/HumanEval/20", "prompt")


def test_counting_and_tables_of_literals_are_no_evidence() -> None:
    both = Index([("humaneval", HUMANEVAL_19), ("humaneval", HUMANEVAL_20)], Decontaminate())
    emoji = "EMOJI = {\n" + "".join(f"    '{word}': {number},\n" for number, word in enumerate(COUNTED, 1)) + "}\n"
    codes = "CODES = {\n" + "".join(f"    'colour-{number}': {number},\n" for number in range(40)) + "}\n"
    assert both.hit(emoji) is None and both.hit(codes) is None
    assert both.hit(HUMANEVAL_19.prompt) is not None and both.hit(
        disguised("def f(numbers):\n" + HUMANEVAL_19.solution)
    )


def test_every_problem_of_ours_is_found_in_disguise_unless_it_is_too_short() -> None:
    problems = read_problems(ROOT / "evaluation" / "basics.jsonl", "mbpp")
    everything = Index([("basics", problem) for problem in problems], Decontaminate())
    found = {problem.task_id for problem in problems if everything.hit(disguised(problem.solution))}
    long_enough = {problem.task_id for problem in problems if len(tokens(problem.solution)) >= LEAST}
    assert found >= long_enough and len(long_enough) > 20


@given(st.text(alphabet="ab1 .\n\"'\\#()=:+"))
def test_any_text_has_tokens_and_none_is_lost(text: str) -> None:
    joined = "".join(tokens(text))
    assert all(character in text for character in joined)
    assert Patterns(["def f(a, b):\n    return [x + y for x, y in zip(a, b) if x] + [a, b]\n"], 8).find(text) is None


def test_names_must_correspond_one_to_one() -> None:
    pattern = "def f(a, b):\n    c = a - b\n    return [c * x for x in range(a, b) if x > c]\n"
    renamed = "def g(u, v):\n    w = u - v\n    return [w * y for y in range(u, v) if y > w]\n"
    swapped = "def g(u, v):\n    w = v - u\n    return [w * y for y in range(u, v) if y > w]\n"
    merged = "def g(u, v):\n    u = u - v\n    return [u * y for y in range(u, v) if y > u]\n"
    found = Patterns([pattern], 32).find("import os\n\n\n" + renamed)
    assert found is not None and (found.pattern, found.line) == (0, 4)
    assert all(Patterns([pattern], 32).find(text) is None for text in (swapped, merged, renamed.replace("> w", "> 1")))


def test_without_benchmarks_nothing_is_dropped() -> None:
    documents = [make(CLEAN), make("")]
    assert list(keep(documents, Index([], Decontaminate()), Ledger())) == documents


@given(st.lists(st.sampled_from((
    *("def", "f", "(", ")", ",", ",)", "]", "[", "{", "}", ":", '"""doc"""', "'''x'''", "# c\n", "\n", "return", "a1"),
    *("for", "in", ".x", "1", '"s"', "rb'y'", 'f"{z}"', "=", "==", "**", "é", '"""', "'", "\\", "lambda", 'xrb"t"'),
)), max_size=60).map(" ".join) | st.text(alphabet="ab1 .,\n\"'\\#()[]{}=:+rf", max_size=80))  # fmt: skip
def test_codes_are_those_of_the_tokens_that_are_kept(text: str) -> None:
    patterns = Patterns(["def f(a, b):\n    return [x + y for x, y in zip(a, b) if x] + [a, b, 'x', 1]\n"], 8)
    codes = patterns._codes
    expected = "".join(
        codes._of_keys.get(code_structure._key(token), code_structure._UNKNOWN) for token in tokens(text)
    )
    assert codes.of(code_structure._TOKEN.findall(text)) == expected
