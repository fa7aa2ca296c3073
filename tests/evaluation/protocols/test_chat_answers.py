"""A right answer in chat is scored as right, however it is laid out; what is no answer is none."""

import ast
import random
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.problems import Problem
from evaluation.completions.completions import Completion
from evaluation.protocols.chat_answers import fenced, program_in
from evaluation.protocols.registry import find_protocol
from evaluation.score import score
from specs.schema.experiment import Limits


def indented(text: str, by: str) -> str:
    return "".join(by + line if line.strip() else line for line in text.splitlines(keepends=True))


def quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.split("\n"))


STUB = "def f(x):\n    '''Do.'''"
WRONG = "```python\ndef f(*a): return 0\n```"
# Each form of an answer that gives `code`, which defines `f`, and nothing else that counts.
FORMS: dict[str, Callable[[str], str]] = {
    "bare": lambda code: code,
    "fenced": lambda code: f"```python\n{code}\n```",
    "another block first, with an unknown info string": lambda code: f"```c#\nint f;\n```\n```python\n{code}\n```",
    "shell first": lambda code: f"Run this:\n```sh\npip install x\n```\nThen:\n```py\n{code}\n```\n",
    "attributes": lambda code: f'Sure!\n\n```python title="a.py" {{.numberLines startFrom="1"}}\n{code}\n```\n',
    "curly info string": lambda code: f"``` {{python}}\n{code}\n```",
    "an info string of another language": lambda code: f"```javascript\n{code}\n```",
    "tildes": lambda code: f"~~~\n{code}\n~~~\n",
    "tildes with a language": lambda code: f"Here.\n\n~~~~ Python3\n{code}\n~~~~~\nDone.",
    "a fence in a list": lambda code: f"1. First:\n\n   ```python\n{indented(code, '   ')}\n   ```\n2. Done.\n",
    "a fence in a nested list": lambda code: f"- a\n  - b\n\n    ```python\n{indented(code, '    ')}\n    ```\n",
    "a fence in a quotation": lambda code: f"> ```python\n{quoted(code)}\n> ```\n",
    "a fence after a paragraph, indented": lambda code: f"So:\n    ```python\n{indented(code, '    ')}\n    ```\nYes.",
    "an indented block": lambda code: f"The code:\n\n{indented(code, '    ')}\n\nThat is all.",
    "a stray closing fence": lambda code: f"{code}\n```\nThis is the function that you wanted.",
    "a stray opening fence": lambda code: f"```\n```python\n{code}\n```\n",
    "a second closing fence": lambda code: f"```python\n{code}\n```\n```\nIt works.",
    "left open": lambda code: f"```python\n{code}\n",
    "CRLF": lambda code: f"Sure.\n```python\n{code}\n```\nDone.\n".replace("\n", "\r\n"),
    "old Mac": lambda code: f"Sure.\n```python\n{code}\n```\n".replace("\n", "\r"),
    "after prose, without a fence": lambda code: f"Here is the function:\n\n{code}\nIt does what was wanted.",
    "after prose that ends in a colon, without a blank line": lambda code: f"Here you are:\n{code}",
    "after two paragraphs": lambda code: f"I think.\n\nFor example, this is it.\n\n{code}\n\nNote: it's fast.",
    "a wrong one first": lambda code: f"```python\ndef f(*a): return None\n```\nBetter:\n```python\n{code}\n```",
    "a broken one last": lambda code: f"```python\n{code}\n```\nOr:\n```python\ndef f(:\n```",
    "an example of its use last": lambda code: f"```python\n{code}\n```\nUse it:\n```python\nprint(f)\n```",
    "the prompt restated last": lambda code: (
        f"```python\n{code}\n```\nYou gave:\n```python\ndef f(x):\n    '''Do.'''\n```"
    ),
    "in a longer fence": lambda code: f"`````markdown\n```python\n{code}\n```\n`````",
    "after a tag": lambda code: f"<details>\n<summary>Code</summary>\n```python\n{code}\n```\n</details>",
    "after a thought": lambda code: f"<think>\nPerhaps `f`?\n{WRONG}\n</think>\n\n```python\n{code}\n```",
    "after a thought without a beginning": lambda code: f"Maybe def f(*a): return 0\n</think>\n{code}",
    "after a thought in capitals": lambda code: f"<THINK>\ndef f(*a): return 0\n</THINK>\nSo:\n\n{code}",
}
CODES = {
    "plain": "def f(x):\n    return x + 1\n",
    "imports and a helper": (
        "import math\nfrom typing import List\n\n\ndef g(x):\n    return math.floor(x)\n\n\n"
        "def f(x):\n    return g(x) + 1\n"
    ),
    "a block in its docstring": 'def f(x):\n    """Adds one.\n\n    ```\n    f(1)\n    ```\n    """\n    return x + 1',
    "tildes in its docstring": 'def f(x):\n    """\n    ~~~\n    f(1)\n    ~~~\n    """\n    return x + 1\n',
    "assigned": "f = lambda x: x + 1\n",
    "annotated": "from collections.abc import Callable\nf: Callable[[int], int] = lambda x: x + 1\n",
    "another's function": "from operator import index\nfrom operator import add as f_\nf = lambda x: f_(index(x), 1)\n",
    "decorated": "from functools import cache\n\n@cache\ndef f(x):\n    return x + 1\n",
}


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("form", FORMS)
def test_the_program_comes_out_of_every_form(form: str, code: str) -> None:
    program = program_in(FORMS[form](CODES[code]), "f")
    assert program is not None
    namespace: dict[str, object] = {}
    exec(program, namespace)
    assert namespace["f"](1) == 2  # type: ignore[operator]


def test_a_block_in_an_unindented_docstring_is_text() -> None:
    """Two spaces: to CommonMark that fence ends the block."""
    code = 'def f(x):\n  """Adds one.\n\n  ```\n  f(1)\n  ```\n  """\n  return x + 1\n'
    for text in (f"```python\n{code}```\nDone.", code, f"So:\n\n{code}"):
        assert ast.dump(ast.parse(program_in(text, "f") or "")) == ast.dump(ast.parse(code))


NONE = {
    "prose": "I cannot do that.",
    "nothing": "",
    "a block without the function": "```python\nprint(1)\n```",
    "another function": "```python\ndef g(x):\n    return x\n```",
    "broken": "```python\ndef f(x:\n```",
    "a thought alone": "<think>\n```python\ndef f(x): return x\n```\n</think>\nI do not know.",
    "a thought without an end": "<think>\n```python\ndef f(x): return x\n```\n",
    "a method": "```python\nclass A:\n    def f(self, x): return x\n```",
    "the name in prose": "Call f(x) to add one to x.",
    "a null byte": "```python\ndef f(x): return x\0\n```",
}


@pytest.mark.parametrize("name", NONE)
def test_what_holds_no_program_gives_none(name: str) -> None:
    assert program_in(NONE[name], "f") is None


def test_a_definition_that_restates_the_prompt_counts_where_there_is_no_other() -> None:
    assert program_in("```python\ndef f(x):\n    '''Add.'''\n```", "f") == "def f(x):\n    '''Add.'''\n"


def test_without_a_name_any_function_will_do() -> None:
    assert program_in("```python\nx = 1\n```\n```python\ndef g(): pass\nh = 1\n```", None) == "def g(): pass\nh = 1\n"


SOURCES = st.text(alphabet='`~"# \n\tdefx():=1', max_size=80)


@given(SOURCES)
def test_a_fenced_program_comes_back_as_it_was(noise: str) -> None:
    code = f"def f(x):\n    return {noise!r}\n\n'''\n{noise.replace(chr(39), '')}'''"
    try:
        tree = ast.dump(ast.parse(code))
    except SyntaxError:
        return
    assert ast.dump(ast.parse(program_in(fenced(code), "f") or "")) == tree


@given(
    st.lists(
        st.sampled_from(
            [
                "```",
                "~~~",
                "```python",
                "    ",
                "> ",
                "- ",
                "def f(x):",
                "  return x",
                "<think>",
                "</think>",
                '"""',
                "\r\n",
                "\n",
                "\t",
                "1. ",
                "x",
                "(",
                "\0",
                "\ud800",
            ]
        ),
        max_size=40,
    )
)
def test_no_text_breaks_the_search(pieces: list[str]) -> None:
    for separator in ("", "\n"):
        program = program_in(separator.join(pieces), "f")
        assert program is None or "f" in program


@pytest.mark.parametrize(
    "text",
    [
        "```\n" * 5000,
        "def f(x):\n" * 3000,
        "x = (\n" * 3000,
        "a = 1\nprose here\n" * 3000,
        '```python\n"""\n' * 3000,
        "<think>" * 20_000,
        "</think>" * 20_000,
        "> " * 5000,
        "(" * 100_000,
        "x" * 1_000_000,
        "- " * 3000 + "```python\ndef f(x): return x\n```",
    ],
    ids=lambda text: repr(text[:16]),
)
def test_no_text_takes_long(text: str) -> None:
    start = time.process_time()
    program_in(text, "f")
    # A hundred times what most take: it says that nothing grows without bound, not how fast a machine is.
    assert time.process_time() - start < 60


CHAT_V1_LOSES = {
    "another block first, with an unknown info string",
    "attributes",
    "tildes",
    "a fence in a list",
    "a stray closing fence",
}


@pytest.mark.parametrize("form", sorted({*CHAT_V1_LOSES, "after prose, without a fence", "CRLF", "after a thought"}))
def test_canonical_solutions_of_humaneval_in_each_form_pass(form: str, humaneval: list[Problem]) -> None:
    protocol, earlier = find_protocol("chat-v2", "humaneval"), find_protocol("chat-v1", "humaneval")
    problems = humaneval[:20]
    answers = [(p, Completion(p.task_id, 0, FORMS[form](p.prompt + p.solution), "end", 0)) for p in problems]
    outcomes = score(answers, protocol, Limits()).outcomes
    assert [outcome.verdict for outcome in outcomes] == ["passed"] * 20
    if form in CHAT_V1_LOSES:
        # What this protocol is for; the earlier one never changes under its name.
        assert {earlier.program(problem, answer.completion) for problem, answer in answers} == {None}


def test_answers_in_forms_drawn_at_random_pass(basics: list[Problem]) -> None:
    protocol = find_protocol("chat-v2", "mbpp")
    numbers = random.Random(7)
    answers = [
        (problem, Completion(problem.task_id, sample, FORMS[numbers.choice(list(FORMS))](problem.solution), "end", 0))
        for problem in basics
        for sample in range(4)
    ]
    outcomes = score(answers, protocol, Limits()).outcomes
    assert {outcome.verdict for outcome in outcomes} == {"passed"}
