"""Benchmark files to programming problems: HumanEval's schema and MBPP's.

Read as data, never imported as code. Both decontamination and evaluation read problems here, so that what a corpus
is cleaned of is what a model is asked.
"""

import gzip
import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from data_pipeline.numpy_stand_in import NUMPY
from specs.common.errors import UserError
from specs.common.files import digest_json

Schema = Literal["humaneval", "mbpp"]
Record = dict[str, object]

MAX_BYTES = 256 * 2**20
"""A benchmark file that unpacks to more is refused: no known one has a tenth of it."""


@dataclass(frozen=True)
class Problem:
    """One programming problem with tests."""

    task_id: str
    """As the benchmark names it: `HumanEval/7`; MBPP numbers its problems, so `11`."""
    number: int
    """The numeric part of the name, which ranges such as MBPP's test split 11 to 510 refer to."""
    prompt: str
    """HumanEval: code up to the end of the docstring. MBPP: a sentence that asks for a function."""
    solution: str
    """HumanEval: the body that continues the prompt. MBPP: a whole program."""
    tests: str
    """HumanEval: code that defines `check(candidate)`. MBPP: assert statements, one for each line."""
    entry_point: str | None
    """Name of the function under test, where the benchmark states it."""
    setup: str
    """Code that the tests need to run first; often empty."""
    extra: str = ""
    """Tests that an extended benchmark adds (MBPP+), run after the others."""
    inputs: str = ""
    """Of evalplus's release files: JSON of the function's `entry_point`, lists of arguments `base` and `plus` that it
    is tried on, and the tolerance `atol`."""
    suffix: str = ""
    """HumanEval-Infilling: code that comes after the answer."""


def read_problems(path: Path, schema: Schema) -> list[Problem]:
    """Problems of one benchmark file, in its order: JSON Lines, plain, gzipped or alone in a wheel, or a JSON array.

    HumanEval+ and MBPP+ are read as released (inputs) and in the editions that hold their tests as code (`test`).
    Raises UserError naming file and line where the file is missing, damaged, or not of the schema.
    """
    text = _text(path)
    lines = _entries(text, path.name) if text.lstrip().startswith("[") else text.split("\n")
    problems: list[Problem] = []
    first_line: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        location = f"{path.name}:{number}"
        problem = _problem(line, location, schema)
        if problem.task_id in first_line:
            raise UserError(
                f"{location}: task_id {problem.task_id!r} is already on line {first_line[problem.task_id]}; remove one"
            )
        first_line[problem.task_id] = number
        problems.append(problem)
    if not problems:
        raise UserError(f"{path.name}: holds no problems; fetch the benchmark again")
    return problems


def in_range(problems: list[Problem], first_id: int | None, last_id: int | None) -> list[Problem]:
    """The problems whose number lies in the closed range; none leaves that end open.

    Raises UserError where the range holds no problem.
    """
    chosen = [
        problem
        for problem in problems
        if (first_id is None or problem.number >= first_id) and (last_id is None or problem.number <= last_id)
    ]
    if not chosen:
        raise UserError(f"no problem has an id from {first_id} to {last_id}: correct first_id and last_id")
    return chosen


def content_sha256(problems: Sequence[Problem]) -> str:
    """Digest of what a file says, whatever its bytes: spelling of JSON, compression and the order of keys."""
    return digest_json([contents(problem) for problem in problems])


def contents(problem: Problem) -> dict[str, object]:
    """What a problem says, by field; inputs and suffix where it has some: other problems keep their digests."""
    absent = [name for name in ("inputs", "suffix") if not getattr(problem, name)]
    return {name: value for name, value in asdict(problem).items() if name not in absent}


def _entries(text: str, name: str) -> list[str]:
    """The entries of a JSON array, as lines."""
    return [json.dumps(entry) for entry in _json(text, name)]


def _json(text: str, location: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{location}: not valid JSON ({error}); fetch the benchmark again") from error


def _problem(line: str, location: str, schema: Schema) -> Problem:
    record = _json(line, location)
    if not isinstance(record, dict):
        raise UserError(f"{location}: a problem must be a JSON object, not {type(record).__name__}")
    problem = SCHEMAS[schema](record, location)
    if all(not line.strip() or line.lstrip().startswith("#") for line in problem.tests.split("\n")):
        raise UserError(f"{location}: problem {problem.task_id} has no tests, so any answer would pass; remove it")
    if problem.entry_point and "def check(" not in problem.tests:
        raise UserError(
            f"{location}: the tests of {problem.task_id} define no check(candidate); correct them or remove it"
        )
    return problem


def _humaneval(record: Record, location: str) -> Problem:
    task_id = _string(record, "task_id", location)
    tests = _string(record, "test", location)
    # HumanEval-Infilling makes several of each problem: SingleLineInfilling/HumanEval/7/L0.
    source = task_id.rpartition("/")[0] if "suffix" in record else task_id
    return Problem(
        task_id=task_id,
        number=_number(source, location, "HumanEval/7"),
        prompt=_string(record, "prompt", location),
        solution=_string(record, "canonical_solution", location),
        tests=tests,
        entry_point=_string(record, "entry_point", location),
        setup=NUMPY if _NUMPY.search(tests) else "",
        inputs=_inputs(record, location),
        suffix=_string(record, "suffix", location) if "suffix" in record else "",
    )


def _mbpp(record: Record, location: str) -> Problem:
    if "plus_input" in record:
        return _mbpp_plus(record, location)
    number = _get(record, "task_id", location)
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise UserError(f"{location}: task_id must be a whole number, not {number!r}")
    tests, imports = _get(record, "test_list", location), record.get("test_imports", [])
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
        raise UserError(f"{location}: test_list must be a list of one assert statement or more")
    if not isinstance(imports, list) or not all(isinstance(line, str) for line in imports):
        raise UserError(f"{location}: test_imports must be a list of import statements")
    extra = _string(record, "test", location) if "test" in record else ""
    setup = _string(record, "test_setup_code", location) if "test_setup_code" in record else "\n".join(imports)
    return Problem(
        task_id=str(number),
        number=number,
        # The sanitized file, and MBPP+ after it, say prompt where the full one says text.
        prompt=_string(record, "text" if "text" in record else "prompt", location),
        solution=_string(record, "code", location),
        # The challenge tests are no part of the score that is usually reported (Austin et al., 2021).
        tests="\n".join(tests),
        entry_point=None,
        setup=NUMPY + setup if _NUMPY.search(extra) else setup,
        extra=extra,
    )


def _mbpp_plus(record: Record, location: str) -> Problem:
    """MBPP+ as evalplus releases it: the prompt is a docstring, the tests are inputs."""
    number = _number(_string(record, "task_id", location), location, "Mbpp/7")
    return Problem(
        task_id=str(number),
        number=number,
        prompt=_string(record, "prompt", location),
        solution=_string(record, "canonical_solution", location),
        tests=_string(record, "assertion", location).strip(),
        entry_point=None,
        setup="",
        inputs=_inputs(record, location),
    )


def _number(task_id: str, location: str, example: str) -> int:
    digits = task_id.rpartition("/")[2]
    if not (digits.isascii() and digits.isdigit()):
        raise UserError(f"{location}: task_id {task_id!r} does not end in a number such as {example}")
    return int(digits)


def _inputs(record: Record, location: str) -> str:
    """What `Problem.inputs` holds; empty where the problem has none."""
    if "plus_input" not in record:
        return ""
    atol = _get(record, "atol", location)
    if not isinstance(atol, int | float) or isinstance(atol, bool) or not atol >= 0:
        raise UserError(f"{location}: atol must be a number of at least 0, not {atol!r}")
    lists: dict[str, list[object]] = {}
    for name in ("base", "plus"):
        # MBPP+ writes {} where it adds nothing (793).
        given = _get(record, f"{name}_input", location) or []
        if not isinstance(given, list) or not all(isinstance(arguments, list) for arguments in given):
            raise UserError(f"{location}: {name}_input must be a list of lists of arguments")
        lists[name] = given
    if not lists["base"]:
        raise UserError(f"{location}: base_input is empty, so any answer would pass; remove the problem")
    return json.dumps({"entry_point": _string(record, "entry_point", location), "atol": atol, **lists})


_NUMPY = re.compile(r"^\s*(import|from) numpy\b", re.MULTILINE)

SCHEMAS: dict[Schema, Callable[[Record, str], Problem]] = {"humaneval": _humaneval, "mbpp": _mbpp}
"""How a record of each schema is read."""


def _get(record: Record, key: str, location: str) -> object:
    if key not in record:
        raise UserError(f"{location}: the problem has no {key!r}; is problem_schema the right one?")
    return record[key]


def _string(record: Record, key: str, location: str) -> str:
    value = _get(record, key, location)
    if not isinstance(value, str):
        raise UserError(f"{location}: {key} must be text, not {type(value).__name__}")
    return value


def _text(path: Path) -> str:
    try:
        if path.name.endswith((".whl", ".zip")):
            name, data = _member(path)
        else:
            with path.open("rb") as file:
                name, data = path.name, _bounded(file.read, path.name)
        if name.endswith(".gz"):
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as unpacked:
                data = _bounded(unpacked.read, path.name)
        return data.decode()
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such benchmark file; run the fetch stage") from error
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise UserError(f"{path.name}: the file is damaged ({error}); fetch the benchmark again") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name}: not UTF-8 at byte {error.start}; fetch the benchmark again") from error


def _member(path: Path) -> tuple[str, bytes]:
    """Name and bytes of the one JSON Lines member of a wheel."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith((".jsonl", ".jsonl.gz"))]
        if len(names) != 1:
            raise UserError(
                f"{path.name}: needs exactly one JSON Lines file of problems, holds {len(names)} "
                f"({', '.join(names[:5]) or 'none'})"
            )
        with archive.open(names[0]) as file:
            return names[0], _bounded(file.read, path.name)


def _bounded(read: Callable[[int], bytes], name: str) -> bytes:
    data = read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise UserError(f"{name}: unpacks to more than {MAX_BYTES:,} bytes: not a benchmark file")
    return data
