"""What a model answered: one line of JSON for each (problem, sample), as `completions.jsonl` holds it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from data_pipeline.problems import Problem, content_sha256, in_range, read_problems
from specs.common.errors import UserError
from specs.common.files import canonical_json, sha256_file, write_bytes
from specs.common.json_lines import read_lines
from specs.schema.data import Benchmark

FILE = "completions.jsonl"


@dataclass(frozen=True)
class Completion:
    """One answer."""

    task_id: str
    sample: int
    """From 0."""
    completion: str
    """Text up to the stop string, which is left out."""
    stop: str
    """What ended it: a stop string, `end` (a control token) or `length`."""
    tokens: int
    """Ids that were sampled, those after the stop string's start included."""


def write_completions(path: Path, completions: Sequence[Completion]) -> None:
    """Write a file whole or not at all."""
    write_bytes(path, b"".join(canonical_json(asdict(completion)) + b"\n" for completion in completions))


def read_completions(path: Path) -> list[Completion]:
    """Read a file. Raises UserError naming the line where one is missing a field or is not JSON."""
    completions = []
    for number, record in read_lines(path, "run the complete stage again"):
        try:
            completions.append(_completion(record))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}:{number}: not a completion ({error!r}); run the complete stage again") from error
    return completions


def _completion(record: dict[str, object]) -> Completion:
    completion = Completion(**record)  # type: ignore[arg-type]
    for name, kind in Completion.__annotations__.items():
        if not isinstance(getattr(completion, name), kind):
            raise TypeError(f"{name} is not {kind.__name__}")
        if kind is str:
            getattr(completion, name).encode()  # half of a surrogate pair is no character
    return completion


def by_problem(
    problems: Sequence[Problem], completions: Sequence[Completion], samples: int
) -> list[tuple[Problem, Completion]]:
    """Each completion beside its problem, in order of problem and sample.

    Raises UserError unless every problem has the samples 0 to `samples` - 1, once each, and nothing else is there.
    """
    answered = {(completion.task_id, completion.sample): completion for completion in completions}
    wanted = [(problem, sample) for problem in problems for sample in range(samples)]
    missing = [(p.task_id, sample) for p, sample in wanted if (p.task_id, sample) not in answered]
    if missing:
        task_id, sample = missing[0]
        raise UserError(
            f"{len(missing)} of {len(wanted)} completions are missing, first sample {sample} of {task_id}; "
            "run the complete stage again"
        )
    if len(completions) != len(wanted):
        raise UserError(
            f"{len(completions)} completions for {len(wanted)} samples: some are of other problems or twice there; "
            "run the complete stage again"
        )
    return [(problem, answered[problem.task_id, sample]) for problem, sample in wanted]


def load_problems(benchmark: Benchmark, folder: Path) -> list[Problem]:
    """The problems of a benchmark that count, from the folder that the fetch stage filled, ordered by number.

    Raises UserError where the file is missing, damaged or changed, or no problem is in the range.
    """
    problems = _all_problems(benchmark, folder)
    return sorted(in_range(problems, benchmark.first_id, benchmark.last_id), key=lambda problem: problem.number)


def load_shots(benchmark: Benchmark, folder: Path, numbers: Sequence[int]) -> list[Problem]:
    """The problems that a protocol shows before the one it asks, in the order of `numbers`, be they scored or not.

    Raises UserError where the file has not all of them.
    """
    if not numbers:
        return []
    by_number = {problem.number: problem for problem in _all_problems(benchmark, folder)}
    if missing := [number for number in numbers if number not in by_number]:
        raise UserError(
            f"{benchmark.source.filename}: the protocol shows problem {missing[0]}, which the file does not hold; "
            "give the whole benchmark and choose what is scored by first_id and last_id"
        )
    return [by_number[number] for number in numbers]


def _all_problems(benchmark: Benchmark, folder: Path) -> list[Problem]:
    path = folder / benchmark.source.filename
    if path.is_file() and (digest := sha256_file(path)) != benchmark.source.sha256:
        raise UserError(
            f"{path}: its sha256 is {digest[:16]}..., the spec pins {benchmark.source.sha256[:16]}...: the file has "
            "changed since it was fetched; remove it and run the fetch stage, or pin what it is now"
        )
    problems = read_problems(path, benchmark.problem_schema)
    if benchmark.content_sha256 and (content := content_sha256(problems)) != benchmark.content_sha256:
        raise UserError(
            f"{path}: its problems have the digest {content}, the spec pins content_sha256 "
            f"{benchmark.content_sha256[:16]}...: this edition says something else"
        )
    return problems
