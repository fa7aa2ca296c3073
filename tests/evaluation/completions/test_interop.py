"""What another harness runs is what ours runs: samples go out and come back as the same programs."""

import ast
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.problems import Problem, Schema
from evaluation.completions.completions import Completion
from evaluation.completions.interop import FORMATS, Format, answer_of, export_completions, import_completions
from evaluation.protocols.protocol import Protocol
from evaluation.protocols.registry import PROTOCOLS, find_protocol
from specs.common.errors import UserError

HUMANEVAL = Problem(
    "HumanEval/3",
    3,
    '\n\nfrom math import pi\n\ndef area(r):\n    """Area of a circle."""\n',
    "    return pi * r * r\n",
    "def check(candidate):\n    assert candidate(0) == 0\n",
    "area",
    "",
)
MBPP = Problem("11", 11, "Add two.", "def add(a, b):\n    return a + b", "assert add(1, 2) == 3", None, "")
PROBLEMS: dict[Schema, Problem] = {"humaneval": HUMANEVAL, "mbpp": MBPP}
EACH = pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: f"{protocol.name}-{protocol.schema}")


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def theirs(problem: Problem, line: dict[str, object]) -> str:
    """The program that the other harness runs, as its code puts it together."""
    return str(line["solution"]) if "solution" in line else f"{problem.prompt}{line['completion']}"


def outcome(program: str, tests: str) -> object:
    namespace: dict[str, object] = {}
    try:
        exec(program, namespace)
        exec(tests, namespace)
    except Exception as error:
        return type(error).__name__
    return "passed"


@EACH
@pytest.mark.parametrize("form", FORMATS)
def test_samples_go_out_and_come_back_as_the_same_programs(protocol: Protocol, form: Format, tmp_path: Path) -> None:
    problem = PROBLEMS[protocol.schema]
    if form == "human-eval" and protocol.schema == "mbpp":
        with pytest.raises(UserError, match="write --format evalplus"):
            export_completions(tmp_path / "s.jsonl", [problem], [], protocol, 1, form)
        return
    right, wrong = protocol.canonical(problem), protocol.canonical(problem).replace("return", "return None and")
    answers = [Completion(problem.task_id, n, text, "end", 5) for n, text in enumerate((right, wrong, "I will not."))]
    export_completions(tmp_path / "s.jsonl", [problem], answers, protocol, 3, form)
    written = lines(tmp_path / "s.jsonl")
    back = import_completions(tmp_path / "s.jsonl", [problem], protocol, 3)
    assert [line["sample"] for line in written] == [c.sample for c in back] == [0, 1, 2]
    for number, answer in enumerate(answers):
        ours = protocol.program(problem, answer.completion)
        again = protocol.program(problem, back[number].completion)
        tests = protocol.program(problem, right).tests  # type: ignore[union-attr]
        here = outcome(ours.candidate, tests) if ours else "no program"
        there = outcome(theirs(problem, written[number]), tests)
        assert (here == "passed") == (there == "passed") == (number == 0)
        if number < 2 and ours and again:
            assert outcome(again.candidate, tests) == here
    assert str(written[0]["task_id"]) == {"humaneval": "HumanEval/3", "mbpp": "Mbpp/11"}[protocol.schema]


@pytest.mark.parametrize("name", ["completion-v1", "human-eval-v1", "bigcode-v1", "lm-eval-v1"])
@given(st.text(alphabet=" \nretun1#x:", max_size=30))
def test_a_continuation_is_the_same_text_there(name: str, body: str) -> None:
    protocol = find_protocol(name, "humaneval")
    code = f"{HUMANEVAL.prompt}{body}"
    answer = answer_of(protocol, HUMANEVAL, code, "here")
    assert protocol.program(HUMANEVAL, answer).candidate.strip() == code.strip()  # type: ignore[union-attr]


def test_evalplus_ids_and_completions_are_understood(tmp_path: Path) -> None:
    protocol, path = find_protocol("completion-v1", "mbpp"), tmp_path / "samples.jsonl"
    path.write_text('{"task_id": "Mbpp/11", "solution": "def add(a, b):\\n    return b + a"}\n\n', "utf-8")
    (made,) = import_completions(path, [MBPP], protocol, 1)
    assert made.task_id == "11"
    ast.parse(protocol.program(MBPP, made.completion).candidate)  # type: ignore[union-attr]
    path.write_text('{"task_id": "HumanEval/3", "completion": "    return 0\\n"}\n', "utf-8")
    (made,) = import_completions(path, [HUMANEVAL], find_protocol("human-eval-v1", "humaneval"), 1)
    assert made.completion.strip("\n") == "    return 0"


ALONE = "def area(r):\n    return pi * r * r\n"
WITH_IMPORT = f"from math import pi\n\n{ALONE}"


@pytest.mark.parametrize(
    "name, solution, fits",
    [
        # The prompt imports pi: in front of a whole program it would supply what that one lacks.
        ("completion-v1", ALONE, False),
        ("chat-v2", ALONE, False),
        ("bigcode-v1", ALONE, False),
        ("evalplus-base-v1", ALONE, False),
        ("evalplus-chat-v1", ALONE, True),
        ("completion-v1", WITH_IMPORT, True),
        ("chat-v2", WITH_IMPORT, True),
        ("evalplus-base-v1", WITH_IMPORT, True),
        ("completion-v1", "def area(r):\n    return 3.14 * r * r\n", True),
        # evalplus's sanitiser would take the end away, at which the program fails.
        ("evalplus-chat-v1", WITH_IMPORT + "assert area(1) == 4\n", False),
        # To the first chat protocol the block ends in the docstring.
        ("chat-v1", 'def area(r):\n  """\n  ```\n  """\n  return 3 * r * r\n', False),
        ("chat-v2", 'def area(r):\n  """\n  ```\n  """\n  return 3 * r * r\n', True),
    ],
)
def test_what_a_protocol_would_run_otherwise_is_refused(name: str, solution: str, fits: bool, tmp_path: Path) -> None:
    path, protocol = tmp_path / "samples.jsonl", find_protocol(name, "humaneval")
    path.write_text(json.dumps({"task_id": "HumanEval/3", "solution": solution}), "utf-8")
    if not fits:
        with pytest.raises(UserError, match=f"samples.jsonl:1: {name} would run another program.*twice score"):
            import_completions(path, [HUMANEVAL], protocol, 1)
        return
    (made,) = import_completions(path, [HUMANEVAL], protocol, 1)
    program = protocol.program(HUMANEVAL, made.completion)
    assert program is not None
    ends = "NameError" if solution == ALONE else "passed"
    assert outcome(program.candidate, program.tests) == outcome(solution, program.tests) == ends


BAD = {
    "not valid JSON": "{",
    "must be a JSON object": "[]",
    "'HumanEval/9' is no problem": '{"task_id": "HumanEval/9", "completion": ""}',
    "needs the text of a completion": '{"task_id": "HumanEval/3", "completion": 3}',
}


@pytest.mark.parametrize("message", BAD)
def test_what_is_no_sample_is_named_by_its_line(message: str, tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text('{"task_id": "HumanEval/3", "completion": ""}\n' + BAD[message], "utf-8")
    with pytest.raises(UserError, match=f"samples.jsonl:2: .*{message}"):
        import_completions(path, [HUMANEVAL], find_protocol("completion-v1", "humaneval"), 1)


def test_missing_samples_and_files_are_one_clear_line(tmp_path: Path) -> None:
    protocol, path = find_protocol("completion-v1", "humaneval"), tmp_path / "samples.jsonl"
    with pytest.raises(UserError, match="cannot be read"):
        import_completions(path, [HUMANEVAL], protocol, 1)
    path.write_text('{"task_id": "HumanEval/3", "completion": ""}\n', "utf-8")
    with pytest.raises(UserError, match="1 of 2 completions are missing, first sample 1 of HumanEval/3"):
        import_completions(path, [HUMANEVAL], protocol, 2)
    path.write_bytes(b"\xff")
    with pytest.raises(UserError, match="not UTF-8 at byte 0"):
        import_completions(path, [HUMANEVAL], protocol, 1)
