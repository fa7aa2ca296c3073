"""Named, versioned ways to ask a model for a program: how a problem is put, where an answer stops, how it is run.

A protocol never changes under its name: scores are compared by it. `completion-v1` continues the prompt stripped of
white space around it, and runs prompt and completion as one program. `chat-v1` asks in one user turn and takes the
program out of the answer. The protocols of public harnesses are in `evaluation.protocols.harnesses`.
"""

import ast
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data_pipeline.problems import Problem, Schema
from evaluation.protocols.program import Program
from specs.common.errors import UserError


@dataclass(frozen=True)
class Protocol:
    """One way to ask, for problems of one schema."""

    name: str
    schema: Schema
    chat: bool
    """The prompt is a user turn of the chat template; otherwise the model continues it."""
    stops: tuple[str, ...]
    """An answer ends before the first of these."""
    prompt: Callable[[Problem], str]
    canonical: Callable[[Problem], str]
    """The answer that gives the benchmark's own solution."""
    start: Callable[[Problem], str] | None = None
    """Code that stands before the answer, where the two make up the candidate."""
    candidate: Callable[[Problem, str], str | None] | None = None
    """Otherwise: code of the candidate from an answer; none where the answer holds no program (class `extraction`)."""
    few_shot: tuple[int, ...] = ()
    """Numbers of the problems whose solutions are shown before the problem that is asked."""
    example: Callable[[Problem], str] | None = None
    """How a problem and its solution are shown."""
    prefill: str = ""
    """What the assistant's turn begins with."""
    suite: "Callable[[Problem], str] | None" = None
    """The tests that count, where they are not all."""

    def ask(self, problem: Problem, shots: Sequence[Problem] = ()) -> str:
        """The prompt, after the examples of the problems `shots`."""
        examples = [self.example(shot) for shot in shots] if self.example else []
        return "".join([*examples, self.prompt(problem)])

    def program(self, problem: Problem, answer: str) -> Program | None:
        """The program that decides about an answer; none where the answer holds no program."""
        if self.start is not None:
            candidate: str | None = f"{self.start(problem)}{answer}\n"
        else:
            assert self.candidate is not None
            candidate = self.candidate(problem, answer)
        return None if candidate is None else Program(candidate, (self.suite or tests)(problem))

    def cut(self, text: str) -> tuple[str, str | None]:
        """Text up to the first stop string, and that string; all of the text where there is none."""
        found = [(text.find(stop), stop) for stop in self.stops if stop in text]
        if not found:
            return text, None
        # Of two that start at one place the longer one says more.
        place, stop = min(found, key=lambda pair: (pair[0], -len(pair[1])))
        return text[:place], stop


def protocol(name: str, schema: Schema) -> Protocol:
    """The protocol of a name for problems of a schema. Raises UserError where there is none."""
    from evaluation.protocols.harnesses import HARNESSES

    fitting = {known.name: known for known in (*PROTOCOLS, *HARNESSES) if known.schema == schema}
    if name not in fitting:
        *names, last = sorted(fitting)
        raise UserError(f"there is no protocol {name!r} for {schema} problems; write {', '.join(names)} or {last}")
    return fitting[name]


def tests(problem: Problem) -> str:
    """Code that tests a candidate in its namespace: set-up, the tests and, for HumanEval, their call."""
    return test_code(problem, problem.tests)


def test_code(problem: Problem, tests: str) -> str:
    """The same with other tests of the problem."""
    call = f"check({problem.entry_point})" if problem.entry_point else ""
    return "\n".join(part for part in (problem.setup, tests, call, problem.extra) if part) + "\n"


def entry_point(problem: Problem) -> str | None:
    """Name of the function under test: as stated, or the one that the canonical solution defines and the tests call."""
    if problem.entry_point:
        return problem.entry_point
    solution, asserted = parse(problem.solution), parse(problem.tests)
    if solution is None or asserted is None:
        return None
    defined = {node.name for node in solution.body if isinstance(node, ast.FunctionDef)}
    calls = [node.func for node in ast.walk(asserted) if isinstance(node, ast.Call)]
    return next((call.id for call in calls if isinstance(call, ast.Name) and call.id in defined), None)


_FENCED = re.compile(r"^[ \t]*```[ \t]*([A-Za-z0-9_+-]*)[ \t]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)


def extract(answer: str, function: str | None) -> str | None:
    """The program in a chat answer: the first fenced block that defines the function, else the bare answer if it does.

    A block left open ends with the answer. None where nothing that is Python defines the function (or, with no
    function known, where nothing is Python that defines any).
    """
    blocks = [code for language, code in _FENCED.findall(answer) if language.lower() in ("", "py", "python", "python3")]
    candidates: list[str] = [*blocks, answer]
    return next((code for code in candidates if defines(code, function)), None)


def defines(code: str, function: str | None) -> bool:
    """Whether code is Python that defines a function (any, where none is named) or assigns its name."""
    tree = parse(code)
    if tree is None:
        return False
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    names += [
        t.id for node in tree.body if isinstance(node, ast.Assign) for t in node.targets if isinstance(t, ast.Name)
    ]
    return function in names if function else bool(names)


def parse(code: str) -> ast.Module | None:
    """The syntax tree; none where the code is not Python. What the parser warns of (odd escapes) changes nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def _preamble(problem: Problem) -> str:
    """What a HumanEval prompt holds before the function: imports and helpers that the answer may leave out."""
    match = re.search(rf"^def {re.escape(problem.entry_point or '')}\b", problem.prompt, re.MULTILINE)
    return problem.prompt[: match.start()] if match else ""


def _mbpp_prompt(problem: Problem) -> str:
    # As InCoder asked (Fried et al., 2022): a docstring of the task and its first test.
    return f'"""\n{problem.prompt}\n{first_test(problem)}\n"""'


def first_test(problem: Problem) -> str:
    """The first assert statement of an MBPP problem."""
    return problem.tests.split("\n", 1)[0]


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
    code = extract(answer, problem.entry_point)
    return None if code is None else f"{_preamble(problem)}\n{code}\n"


PROTOCOLS = (
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
)
