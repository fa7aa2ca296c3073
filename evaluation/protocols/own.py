"""The project's own protocols.

`completion-v1` continues the prompt stripped of white space around it, and runs prompt and completion as one program.
`chat-v1` and `chat-v2` ask in one user turn and take the program out of the answer: the first by fences of three
backticks and the first block that fits, the second by CommonMark and the last one.
"""

from data_pipeline.problems import Problem
from evaluation.protocols.chat_answers import fenced, program_in
from evaluation.protocols.extraction import extract
from evaluation.protocols.protocol import Protocol, entry_point, first_test, preamble


def _mbpp_prompt(problem: Problem) -> str:
    # As InCoder asked (Fried et al., 2022): a docstring of the task and its first test.
    return f'"""\n{problem.prompt}\n{first_test(problem)}\n"""'


def _humaneval_question(problem: Problem) -> str:
    return (
        "Complete the following Python function. Answer with the whole function in one Python code block.\n\n"
        f"```python\n{problem.prompt.strip()}\n```"
    )


def _mbpp_question(problem: Problem) -> str:
    return (
        f"{problem.prompt.strip()}\nAnswer with one Python code block. The code must pass these tests:\n\n"
        f"```python\n{problem.tests.strip()}\n```"
    )


def _fence(code: str) -> str:
    return f"```python\n{code}\n```"


def _humaneval_answer(problem: Problem, answer: str) -> str | None:
    return _after_preamble(problem, extract(answer, problem.entry_point))


def _after_preamble(problem: Problem, code: str | None) -> str | None:
    return None if code is None else f"{preamble(problem)}\n{code}\n"


OWN = (
    Protocol(
        name="completion-v1",
        schema="humaneval",
        chat=False,
        stops=("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```"),
        prompt=lambda problem: problem.prompt.strip(),
        start=lambda problem: problem.prompt.strip(),
        canonical=lambda problem: f"\n{problem.solution}",
    ),
    Protocol(
        name="completion-v1",
        schema="mbpp",
        chat=False,
        stops=("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n```"),
        prompt=_mbpp_prompt,
        start=_mbpp_prompt,
        canonical=lambda problem: f"\n{problem.solution}",
    ),
    Protocol(
        name="chat-v1",
        schema="humaneval",
        chat=True,
        stops=(),
        prompt=_humaneval_question,
        candidate=_humaneval_answer,
        canonical=lambda problem: _fence(problem.prompt + problem.solution),
    ),
    Protocol(
        name="chat-v1",
        schema="mbpp",
        chat=True,
        stops=(),
        prompt=_mbpp_question,
        candidate=lambda problem, answer: extract(answer, entry_point(problem)),
        canonical=lambda problem: _fence(problem.solution),
    ),
    Protocol(
        name="chat-v2",
        schema="humaneval",
        chat=True,
        stops=(),
        prompt=_humaneval_question,
        candidate=lambda problem, answer: _after_preamble(problem, program_in(answer, problem.entry_point)),
        canonical=lambda problem: fenced(problem.prompt + problem.solution),
    ),
    Protocol(
        name="chat-v2",
        schema="mbpp",
        chat=True,
        stops=(),
        prompt=_mbpp_question,
        candidate=lambda problem, answer: program_in(answer, entry_point(problem)),
        canonical=lambda problem: fenced(problem.solution),
    ),
)
"""Every protocol of the project's own, by name and schema."""
