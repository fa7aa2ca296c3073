"""The protocols of public harnesses, each as its code says: prompt, stops, few-shot examples, assembly, extraction.

| harness | read at commit |
|---|---|
| human-eval | 6d43fb980f9f |
| bigcode-evaluation-harness | 8fc5bae6479c |
| lm-evaluation-harness | 4e7e0d47f33b |
| evalplus | 26d6d00bb1fd |

What a benchmark states as set-up code of its tests is run in every protocol; bigcode-evaluation-harness and
lm-evaluation-harness leave it out, and so fail problem 367 of MBPP's test split whatever the answer. evalplus runs
inputs, not `check`, so its sanitiser drops helpers of the prompt that only `check` uses (HumanEval/38 and /50): the
tests get them from the problem.
"""

from collections.abc import Callable

from data_pipeline.problems import Problem
from evaluation.protocols.evalplus_sanitize import sanitise
from evaluation.protocols.extraction import parse
from evaluation.protocols.protocol import Protocol, entry_point, first_test, isolated_suite, suite_code

_CODEX_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""Chen et al. (2021), section 3.1."""

_EVALPLUS_STOPS = ("<|endoftext|>", "<|endofmask|>", "</s>", "\nif __name__", "\ndef main(", "\nprint(")


def _raw(problem: Problem) -> str:
    return problem.prompt


def _stripped(problem: Problem) -> str:
    return problem.prompt.strip()


def _incoder(problem: Problem) -> str:
    """A docstring of the task and its first test (Fried et al., 2022); MBPP+ states its prompts so itself."""
    if problem.prompt.lstrip().startswith('"""'):
        return f"{problem.prompt.strip()}\n"
    return f'"""\n{problem.prompt}\n{first_test(problem)}\n"""\n'


def _austin(problem: Problem) -> str:
    """Austin et al. (2021), as lm-evaluation-harness words it; three tests are shown."""
    tests = "\n".join(problem.tests.split("\n")[:3])
    return (
        f"You are an expert Python programmer, and here is your task: {problem.prompt} "
        f"Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
    )


def _first_three(problem: Problem) -> str:
    return suite_code(problem, "\n".join(problem.tests.split("\n")[:3]))


def _code(problem: Problem) -> str:
    return problem.solution


def _line(problem: Problem) -> str:
    return f"{problem.prompt.strip()}\n"


def _both(problem: Problem) -> str:
    return problem.prompt + problem.solution


_INSTRUCTION = (
    "Please provide a self-contained Python script that solves the following problem in a markdown code block:"
)
_RESPONSE = (
    "Below is a Python script with a self-contained function that solves the problem and passes corresponding tests:"
)


def _sanitised(prompt: Callable[[Problem], str] | None) -> Callable[[Problem, str], str | None]:
    """The program in an answer, after the prompt that it continues, if it continues one."""

    def candidate(problem: Problem, answer: str) -> str | None:
        start = prompt(problem) if prompt else ""
        # evalplus writes tabs of answers as four spaces.
        return _evalplus_code(problem, start + answer.replace("\t", "    "))

    return candidate


def _instructed(prompt: Callable[[Problem], str]) -> Callable[[Problem], str]:
    return lambda problem: f"{_INSTRUCTION}\n```\n{prompt(problem).strip()}\n```\n"


def _evalplus_code(problem: Problem, text: str) -> str | None:
    function = entry_point(problem)
    code = sanitise(text, function)
    return f"{code}\n" if code.strip() and parse(code) is not None else None


def _body(problem: Problem) -> str:
    return f"\n{problem.solution}"


HARNESSES = (
    *(
        Protocol(
            name=name,
            schema="humaneval",
            chat=False,
            stops=_CODEX_STOPS,
            prompt=_raw,
            start=_raw,
            canonical=_code,
        )
        for name in ("human-eval-v1", "lm-eval-v1")
    ),
    Protocol(
        name="lm-eval-v1",
        schema="mbpp",
        chat=False,
        stops=("[DONE]",),
        prompt=_austin,
        start=lambda problem: "",
        canonical=lambda problem: f"{problem.solution}\n",
        few_shot=(2, 3, 4),
        example=lambda problem: f"{_austin(problem)}{problem.solution}\n[DONE]\n\n",
        suite=_first_three,
    ),
    Protocol(
        name="bigcode-v1",
        schema="humaneval",
        chat=False,
        stops=("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```", "<file_sep>"),
        prompt=_stripped,
        start=_stripped,
        canonical=_body,
    ),
    Protocol(
        name="bigcode-v1",
        schema="mbpp",
        chat=False,
        stops=("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```"),
        prompt=_incoder,
        start=_incoder,
        canonical=_code,
    ),
    Protocol(
        name="evalplus-base-v1",
        schema="humaneval",
        chat=False,
        stops=(*_EVALPLUS_STOPS, "\ndef ", "\nclass ", "\nimport ", "\nfrom ", "\nassert "),
        prompt=_line,
        candidate=_sanitised(_line),
        canonical=_code,
        suite=isolated_suite,
    ),
    Protocol(
        name="evalplus-base-v1",
        schema="mbpp",
        chat=False,
        stops=(*_EVALPLUS_STOPS, '\n"""', "\nassert"),
        prompt=_incoder,
        candidate=_sanitised(_incoder),
        canonical=_code,
    ),
    Protocol(
        name="evalplus-chat-v1",
        schema="humaneval",
        chat=True,
        stops=(*_EVALPLUS_STOPS, "\n```\n"),
        prompt=_instructed(_line),
        candidate=_sanitised(None),
        canonical=_both,
        prefill=f"{_RESPONSE}\n```python\n",
        suite=isolated_suite,
    ),
    Protocol(
        name="evalplus-chat-v1",
        schema="mbpp",
        chat=True,
        stops=(*_EVALPLUS_STOPS, "\n```\n"),
        prompt=_instructed(_incoder),
        candidate=_sanitised(None),
        canonical=_code,
        prefill=f"{_RESPONSE}\n```python\n",
    ),
)
"""Every protocol of another harness, by name and schema."""
