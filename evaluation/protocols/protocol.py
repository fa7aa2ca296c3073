"""A protocol: one named, versioned way to put a problem, to end an answer, and to run it."""

import ast
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from data_pipeline.problems import Problem, Schema
from evaluation.protocols.extraction import parse
from evaluation.protocols.program import Program
from specs.common.errors import UserError

_INPUTS = Path(__file__).with_name("evalplus_inputs.py")


@dataclass(frozen=True)
class Protocol:
    """How problems of one schema are put, and their answers run."""

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
    """Numbers of the problems whose solutions are shown before the problem itself."""
    example: Callable[[Problem], str] | None = None
    """How a problem and its solution are shown."""
    prefill: str = ""
    """What the assistant's turn begins with."""
    suite: Callable[[Problem], str] | None = None
    """The tests that count, where they are not all."""

    def ask(self, problem: Problem, shots: Sequence[Problem] = ()) -> str:
        """The prompt, after the examples of the problems `shots`. Raises UserError where code follows the answer."""
        _require_no_suffix(problem)
        examples = [self.example(shot) for shot in shots] if self.example else []
        return "".join([*examples, self.prompt(problem)])

    def program(self, problem: Problem, answer: str) -> Program | None:
        """The program that decides about an answer; none where the answer holds no program. Raises as `ask` does."""
        _require_no_suffix(problem)
        if self.start is not None:
            candidate: str | None = f"{self.start(problem)}{answer}\n"
        else:
            assert self.candidate is not None
            candidate = self.candidate(problem, answer)
        if candidate is None:
            return None
        return program_of(problem, candidate, (self.suite or full_suite)(problem))

    def cut(self, text: str) -> tuple[str, str | None]:
        """Text up to the first stop string, and that string; all of the text where there is none."""
        starts = [(text.find(stop), stop) for stop in self.stops if stop in text]
        if not starts:
            return text, None
        # Of two that start together the longer one says more.
        start, stop = min(starts, key=lambda pair: (pair[0], -len(pair[1])))
        return text[:start], stop


def _require_no_suffix(problem: Problem) -> None:
    if problem.suffix:
        raise UserError(
            f"{problem.task_id} has code after the answer, which no protocol asks for; score samples of it with "
            "`twice score`"
        )


def program_of(problem: Problem, candidate: str, tests: str | None = None) -> Program:
    """A candidate with the tests of its problem, or with others in place of those that do not come from inputs."""
    if problem.inputs:
        return Program(candidate, input_suite(problem, "base"), preamble(problem), input_suite(problem, "plus"))
    plus = f"{problem.setup}\n{problem.extra}\n" if problem.extra else ""
    return Program(candidate, full_suite(problem) if tests is None else tests, preamble(problem), plus)


def input_suite(problem: Problem, kind: Literal["base", "plus"]) -> str:
    """Code that tries a candidate on the inputs of its problem; empty where it has none of the kind."""
    told = json.loads(problem.inputs)
    if not told[kind]:
        return ""
    facts = {
        "dataset": "humaneval" if problem.entry_point else "mbpp",
        "number": problem.number,
        "entry_point": told["entry_point"],
        "reference": problem.prompt + problem.solution,
        "inputs": told[kind],
        "atol": told["atol"],
    }
    code = f"_suite = {{}}\nexec({_INPUTS.read_text('utf-8')!r}, _suite)\n"
    return f"{code}_suite['check_inputs']({told['entry_point']}, {json.dumps(facts)!r})\n"


def full_suite(problem: Problem) -> str:
    """Code that tests a candidate in its namespace: set-up, the tests and, for HumanEval, their call."""
    return suite_code(problem, problem.tests)


def suite_code(problem: Problem, tests: str) -> str:
    """The same with other tests of the problem."""
    call = f"check({problem.entry_point})" if problem.entry_point else ""
    return "\n".join(part for part in (problem.setup, tests, call) if part) + "\n"


def isolated_suite(problem: Problem) -> str:
    """The same in a namespace of its own, with the problem's helpers and of the candidate its function alone.

    For HumanEval's problems whose prompts define helpers; for others `full_suite`.
    """
    helpers = preamble(problem)
    if not problem.entry_point or "def " not in helpers:
        return full_suite(problem)
    code = helpers + "\n" + suite_code(replace(problem, entry_point=None), problem.tests)
    return f"_suite = {{}}\nexec({code!r}, _suite)\n_suite['check']({problem.entry_point})\n"


def preamble(problem: Problem) -> str:
    """What a HumanEval prompt holds before the function: imports and helpers that the answer may leave out."""
    match = re.search(rf"^def {re.escape(problem.entry_point or '')}\b", problem.prompt, re.MULTILINE)
    return problem.prompt[: match.start()] if match and problem.entry_point else ""


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


def first_test(problem: Problem) -> str:
    """The first assert statement of an MBPP problem."""
    return problem.tests.split("\n", 1)[0]
