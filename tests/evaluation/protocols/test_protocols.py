"""Every protocol asks, cuts and assembles as its version says; the benchmark's own answers come through whole."""

import ast
from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.problems import Problem
from evaluation.protocols.evalplus_sanitize import sanitise
from evaluation.protocols.extraction import extract
from evaluation.protocols.harnesses import HARNESSES
from evaluation.protocols.own import OWN
from evaluation.protocols.protocol import Protocol, entry_point, first_test, full_suite, isolated_suite
from evaluation.protocols.registry import PROTOCOLS, find_protocol
from specs.common.errors import UserError
from specs.common.files import digest_json

HUMANEVAL = Problem(
    task_id="Example/0",
    number=0,
    prompt='from math import pi\n\ndef helper():\n    return 1\n\ndef area(r):\n    """Area of a circle."""\n',
    solution="    return pi * r * r * helper()\n",
    tests="def check(candidate):\n    assert candidate(0) == 0\n",
    entry_point="area",
    setup="",
)
MBPP = Problem(
    "7", 7, "Write a function to add.", "def add(a, b):\n    return a + b\n", "assert add(1, 2) == 3", None, ""
)
PROBLEMS = {"humaneval": HUMANEVAL, "mbpp": MBPP}


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: f"{protocol.name}-{protocol.schema}")
def test_the_canonical_answer_gives_the_canonical_program(protocol: object) -> None:
    problem = PROBLEMS[protocol.schema]  # type: ignore[attr-defined]
    program = protocol.program(problem, protocol.canonical(problem))  # type: ignore[attr-defined]
    assert program is not None
    namespace: dict[str, object] = {}
    exec(program.candidate + program.tests, namespace)


# What the answers below give under each protocol, by digest: a change needs a new version, as scores are compared by
# the name.
VERSIONS = {
    ("completion-v1", "humaneval"): "bc1ee46cb558851ac4876a792b9660b7dde0fc86b1b15ed06e57d03977f201a9",
    ("completion-v1", "mbpp"): "82605cb43acd0e88b7941451c8ad9415615f47edf6f35edec29a71c05e58a723",
    ("chat-v1", "humaneval"): "36325d6e17be889c5a1215ae07071e32f4875a5b6f0152483496b527a5ab273e",
    ("chat-v1", "mbpp"): "16af53c020876aa9f24a8a5b29413d55c031bfb1c9703f5c510bb412af62d251",
    ("chat-v2", "humaneval"): "6396826009b202fdae6079a4e27ba625a49505f2adca49efc0d775e696e98402",
    ("chat-v2", "mbpp"): "74d02e526beac4f85eaecf4f40841bded21e2e4efde432f7df3584a3a6da382f",
}


def answers_for(problem: Problem) -> list[str]:
    """Answers that protocols tell apart: what is fenced how, which block counts, what is cut."""
    right = problem.prompt + problem.solution if problem.entry_point else problem.solution
    other = f"def {entry_point(problem)}(*a): return None"
    fence = "```"
    return [
        right,
        f"{fence}python\n{right}\n{fence}",
        f"Sure:\n~~~\n{right}\n~~~",
        f"{fence}c#\nint x;\n{fence}\n{fence}python\n{right}\n{fence}",
        f"{fence}py\n{other}\n{fence}\n{fence}py\n{right}\n{fence}",
        f"{right}\n{fence}\nDone.",
        f"So:\n\n{right}\nDone.",
        f"<think>\n{other}\n</think>\n{right}",
        f"{fence}\n{right}".replace("\n", "\r\n"),
        "I do not know.",
        "",
    ]


def rendered(protocol: Protocol) -> list[object]:
    problem = PROBLEMS[protocol.schema]
    programs = [protocol.program(problem, answer) for answer in answers_for(problem)]
    return [
        [protocol.name, protocol.schema, list(protocol.stops), protocol.prompt(problem), protocol.canonical(problem)],
        [program and [program.candidate, program.tests] for program in programs],
    ]


@pytest.mark.parametrize("protocol", OWN, ids=lambda protocol: f"{protocol.name}-{protocol.schema}")
def test_versions_do_not_change_under_their_names(protocol: Protocol) -> None:
    assert digest_json(rendered(protocol)) == VERSIONS[protocol.name, protocol.schema]


def test_the_first_versions_are_those_that_were_published() -> None:
    first = [one for one in OWN if one.name in ("completion-v1", "chat-v1")]
    said = [rendered(one)[0] for one in first]
    assert digest_json(said) == "c846d9555eab4b2df96082ede478721de984a5733a996d0afbf3e23c3ff1db02"


def test_the_protocols_of_harnesses_do_not_change_either() -> None:
    """Their tests alone did: where a prompt holds helpers, evalplus's protocols take them from the problem."""
    rendered = []
    for protocol in HARNESSES:
        problem = PROBLEMS[protocol.schema]
        answers = (protocol.canonical(problem), "\n\treturn\nx = 1", "def f(:")
        programs = [protocol.program(problem, answer) for answer in answers]
        rendered.append(
            [
                protocol.name,
                protocol.schema,
                list(protocol.stops),
                protocol.ask(problem, [problem] * len(protocol.few_shot)),
                protocol.prefill,
            ]
            + [program and [program.candidate, suite(protocol, problem)] for program in programs]
        )
    assert digest_json(rendered) == "1ebff2c592846875729e12ba7b521c1c087c53aa45dcfcc4bfe0ff5c27792866"


def suite(protocol: Protocol, problem: Problem) -> str:
    tests = protocol.suite or full_suite
    return full_suite(problem) if tests is isolated_suite else tests(problem)


def test_tests_that_need_a_helper_of_the_prompt_get_it_from_the_problem() -> None:
    """HumanEval/38, /50 and /32: evalplus's sanitiser drops a helper that only the tests call."""
    problem = replace(HUMANEVAL, tests="def check(candidate):\n    assert candidate(helper()) > 3\n")
    protocol = find_protocol("evalplus-base-v1", "humaneval")
    answer = "    return pi * r\n\ndef helper():\n    return 'not the helper'\n"
    program = protocol.program(problem, answer)
    assert program is not None and "def helper" not in program.candidate
    namespace: dict[str, object] = {}
    exec(program.candidate + program.tests, namespace)
    # Its own helper of that name stays the candidate's.
    chat = find_protocol("evalplus-chat-v1", "humaneval")
    keeps = chat.program(problem, "def area(r):\n    return 3 * helper(r)\n\ndef helper(x):\n    return 2 * x\n")
    assert keeps is not None and "return 2 * x" in keeps.candidate
    exec(keeps.candidate + keeps.tests, namespace)
    wrong = protocol.program(problem, "    return 0\n")
    assert wrong is not None
    with pytest.raises(AssertionError):
        exec(wrong.candidate + wrong.tests, {})


# What the harnesses themselves render, from their code at the commits that `conventions` names.
RENDERED = {
    ("human-eval-v1", "humaneval"): HUMANEVAL.prompt,
    ("lm-eval-v1", "humaneval"): HUMANEVAL.prompt,
    ("bigcode-v1", "humaneval"): HUMANEVAL.prompt.strip(),
    ("evalplus-base-v1", "humaneval"): f"{HUMANEVAL.prompt.strip()}\n",
    ("bigcode-v1", "mbpp"): '"""\nWrite a function to add.\nassert add(1, 2) == 3\n"""\n',
    ("evalplus-base-v1", "mbpp"): '"""\nWrite a function to add.\nassert add(1, 2) == 3\n"""\n',
    ("lm-eval-v1", "mbpp"): "You are an expert Python programmer, and here is your task: Write a function to add. Your "
    "code should pass these tests:\n\nassert add(1, 2) == 3\n[BEGIN]\n",
    (
        "evalplus-chat-v1",
        "mbpp",
    ): "Please provide a self-contained Python script that solves the following problem in a "
    'markdown code block:\n```\n"""\nWrite a function to add.\nassert add(1, 2) == 3\n"""\n```\n',
}


@pytest.mark.parametrize("key", RENDERED, ids="-".join)
def test_prompts_are_those_of_the_harness(key: tuple[str, Literal["humaneval", "mbpp"]]) -> None:
    assert find_protocol(*key).ask(PROBLEMS[key[1]]) == RENDERED[key]


def test_few_shot_examples_come_first() -> None:
    protocol = find_protocol("lm-eval-v1", "mbpp")
    assert protocol.few_shot == (2, 3, 4)
    shown = protocol.ask(MBPP, [MBPP, MBPP])
    assert shown.count("[DONE]\n\nYou are") == 2
    assert shown.endswith("[BEGIN]\n")


def test_mbpp_plus_prompts_are_taken_as_they_are() -> None:
    plus = replace(MBPP, prompt='"""\nAdd.\nassert add(1, 1) == 2\n"""\n')
    assert find_protocol("evalplus-base-v1", "mbpp").ask(plus) == plus.prompt


TEXTS = {
    "prose around it": ("Sure!\n```python\ndef f(x):\n    return x\n```\nDone.", "def f(x):\n    return x"),
    "helpers that are needed, in their order": (
        "import os\nK = 2\ndef g(x):\n    return K * x\ndef unused(x):\n    return 1\ndef f(x):\n    return g(x)\n"
        "print(f(1))",
        "import os\nK = 2\ndef g(x):\n    return K * x\ndef f(x):\n    return g(x)",
    ),
    "the first of two definitions": ("def f(x):\n    return 1\ndef f(x):\n    return 2", "def f(x):\n    return 1"),
    "no function without return": ("def f(x):\n    pass\nx = 1", "def f(x):\n    pass\nx = 1"),
    "no decorated one": ("@d\ndef g(x):\n    return 1\ndef f(x):\n    return g", "def f(x):\n    return g"),
    "a cut one": ("def f(x):\n    return x\n\ndef broken(", "def f(x):\n    return x"),
    "colours": ("\x1b[1mdef f(x):\n    return x\x1b[0m", "def f(x):\n    return x"),
    "nothing": ("I cannot.", "I cannot."),
}


@pytest.mark.parametrize("name", TEXTS)
def test_evalplus_keeps_what_the_function_needs(name: str) -> None:
    text, kept = TEXTS[name]
    assert sanitise(text, "f") == kept


def test_an_unknown_protocol_is_an_error() -> None:
    with pytest.raises(UserError, match="completion-v1, evalplus-base-v1, evalplus-chat-v1 or lm-eval-v1"):
        find_protocol("completion-v9", "mbpp")


def test_completion_joins_prompt_and_answer() -> None:
    protocol = find_protocol("completion-v1", "humaneval")
    assert protocol.prompt(HUMANEVAL) == HUMANEVAL.prompt.strip()
    program = protocol.program(HUMANEVAL, "\n    return 5")
    assert program is not None
    assert program.candidate == HUMANEVAL.prompt.strip() + "\n    return 5\n"
    assert program.tests.endswith("check(area)\n")


def test_mbpp_is_asked_with_its_first_test() -> None:
    many = Problem("8", 8, "Say so.", "", "assert f(1)\nassert f(2)", None, "")
    assert first_test(many) == "assert f(1)"
    assert find_protocol("completion-v1", "mbpp").prompt(many) == '"""\nSay so.\nassert f(1)\n"""'


def test_set_up_comes_after_the_candidate_and_before_the_tests() -> None:
    problem = Problem("9", 9, "", "", "assert root", None, "root = Node()")
    assert full_suite(problem) == "root = Node()\nassert root\n"


@given(st.text(alphabet='ab\n#@cdefl s`"', max_size=60))
def test_a_cut_is_the_longest_prefix_without_a_stop(text: str) -> None:
    protocol = find_protocol("completion-v1", "humaneval")
    kept, stop = protocol.cut(text)
    assert text.startswith(kept)
    assert not any(s in kept for s in protocol.stops)
    assert (stop is None) == (kept == text)
    if stop is not None:
        assert text[len(kept) :].startswith(stop)


CODE = "def area(r):\n    return r"
ANSWERS = {
    "fenced": (f"Sure:\n```python\n{CODE}\n```\nDone.", True),
    "fence of no language": (f"```\n{CODE}\n```", True),
    "second block": (f"```sh\npip install x\n```\n```py\n{CODE}\n```", True),
    "block without the function first": (f"```python\nprint(1)\n```\n```python\n{CODE}\n```", True),
    "left open": (f"```python\n{CODE}\n", True),
    "bare": (CODE, True),
    "assigned": ("```python\narea = lambda r: r\n```", True),
    "prose": ("I cannot do that.", False),
    "another function": ("```python\ndef volume(r):\n    return r\n```", False),
    "broken": ("```python\ndef area(r:\n```", False),
    "empty": ("", False),
    "null byte": ("def area(r):\0", False),
    "deep": ("(" * 10_000, False),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_extraction_finds_the_function_or_says_that_there_is_none(name: str) -> None:
    answer, found = ANSWERS[name]
    code = extract(answer, "area")
    assert (code is not None) == found
    if code is not None:
        ast.parse(code)
        assert "area" in code
    assert (find_protocol("chat-v1", "humaneval").program(HUMANEVAL, answer) is None) != found


def test_a_chat_answer_may_leave_out_what_the_prompt_gave() -> None:
    program = find_protocol("chat-v1", "humaneval").program(
        HUMANEVAL, "```python\ndef area(r):\n    return pi * helper()\n```"
    )
    assert program is not None
    assert program.candidate.startswith("from math import pi\n\ndef helper():")


def test_the_function_under_test_is_found(basics: list[Problem]) -> None:
    assert entry_point(HUMANEVAL) == "area"
    assert entry_point(MBPP) == "add"
    assert all(entry_point(problem) in problem.prompt for problem in basics if entry_point(problem))  # type: ignore[operator]
    assert None not in map(entry_point, basics)
    assert entry_point(Problem("1", 1, "", "def (", "assert f()", None, "")) is None


def test_of_two_stops_that_begin_together_the_longer_one_is_told() -> None:
    protocol = find_protocol("completion-v1", "humaneval")
    for stops in (("\n#", "\n##"), ("\n##", "\n#")):
        assert replace(protocol, stops=stops).cut("x\n## y") == ("x", "\n##")
        assert replace(protocol, stops=stops).cut("x\n# y\n## z") == ("x", "\n#"), "but the first one counts"
