"""Tests by inputs judge as evalplus does, and base and plus are told side by side."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from data_pipeline.problems import Problem, read_problems
from evaluation.completions.sample_files import Sample
from evaluation.protocols.evalplus_inputs import arguments
from evaluation.protocols.protocol import program_of
from evaluation.protocols.registry import find_protocol
from evaluation.sandbox.sandbox import Sandbox, Tier
from evaluation.score import EXTENDED, canonical, limits_for, score, summarise
from evaluation.score_samples import score_samples
from specs.schema.data import Benchmark
from specs.schema.experiment import BenchmarkRun, Limits

RECORD = {
    "task_id": "HumanEval/7",
    "prompt": 'def half(x):\n    """Half of x."""\n',
    "entry_point": "half",
    "canonical_solution": "    return x / 2\n",
    "test": "def check(candidate):\n    assert candidate(2) == 1\n",
    "contract": "    assert isinstance(x, int)\n",
    "base_input": [[2], [4]],
    "plus_input": [[3], [-1], [0]],
    "atol": 0,
}
MBPP = {
    "task_id": "Mbpp/2",
    "prompt": '"""\nShared items.\nassert similar_elements((1, 2), (2, 3)) == (2,)\n"""\n',
    "entry_point": "similar_elements",
    "canonical_solution": "def similar_elements(a, b):\n    return tuple(set(a) & set(b))\n",
    "assertion": "assert set(similar_elements((1, 2), (2, 3))) == {2}",
    "contract": "",
    "base_input": [[[1, 2], [2, 3]]],
    "plus_input": [[[1, 2, 3], [3, 2, 1]]],
    "atol": 0,
}


def problem(tmp_path: Path, **changes: object) -> Problem:
    record = (MBPP if "similar" in str(changes.get("kind")) else RECORD) | changes
    record.pop("kind", None)
    (tmp_path / "p.jsonl").write_text(json.dumps(record), "utf-8")
    (read,) = read_problems(tmp_path / "p.jsonl", "mbpp" if str(record["task_id"]).startswith("Mbpp") else "humaneval")
    return read


def test_a_release_file_keeps_its_inputs(tmp_path: Path) -> None:
    read = problem(tmp_path)
    assert json.loads(read.inputs) == {"entry_point": "half", "atol": 0, "base": [[2], [4]], "plus": [[3], [-1], [0]]}
    assert (read.task_id, read.prompt, read.entry_point) == ("HumanEval/7", RECORD["prompt"], "half")
    mbpp = problem(tmp_path, kind="similar")
    assert (mbpp.task_id, mbpp.number, mbpp.tests) == ("2", 2, MBPP["assertion"])


Judge = Callable[..., tuple[str, str]]


@pytest.fixture
def judge(boxes: Callable[[Tier], Sandbox], tmp_path: Path) -> Judge:
    """Verdicts of a program by base and plus inputs."""

    def run(code: str, **changes: object) -> tuple[str, str]:
        program = program_of(problem(tmp_path, **changes), code)
        base = boxes("T0").run(replace(program, plus=""))
        plus = boxes("T0").run(replace(program, tests=program.plus, plus=""))
        return base.verdict, plus.verdict

    return run


def test_right_answers_pass_and_wrong_ones_are_told_by_their_inputs(judge: Judge) -> None:
    assert judge("def half(x): return x / 2") == ("passed", "passed")
    assert judge("def half(x): return x // 2") == ("passed", "wrong")
    assert judge("def half(x): return 1") == ("wrong", "wrong")
    assert judge("def half(x): return 1 / 0") == ("crashed", "crashed")
    assert judge("x = 1") == ("crashed", "crashed")
    assert judge("def half(x):\n    while True: pass")[0] == "timeout"


def test_floats_are_compared_within_a_tolerance_and_of_one_type(judge: Judge) -> None:
    assert judge("def half(x): return x / 2 + 1e-7") == ("passed", "passed")
    assert judge("def half(x): return x / 2 + 1e-4") == ("wrong", "wrong")
    assert judge("def half(x): return x / 2 + 1e-4", atol=1e-3) == ("passed", "passed")
    # 1 is 1.0; what is not equal must be of the same type.
    assert judge("def half(x): return x // 2 if x % 2 == 0 else x / 2") == ("passed", "passed")
    assert judge("def half(x): return [x / 2]") == ("wrong", "wrong")


def test_a_list_of_floats_has_the_tolerance_of_a_float(judge: Judge) -> None:
    changes = {"canonical_solution": "    return [x / 3, x / 7]\n"}
    assert judge("def half(x): return [x / 3, x / 7 + 1e-8]", **changes) == ("passed", "passed")
    assert judge("def half(x): return [x / 3]", **changes) == ("wrong", "wrong")
    assert judge("def half(x): return (x / 3, x / 7 + 1e-8)", **changes) == ("wrong", "wrong")
    assert judge("def half(x): return [x / 3, 'x']", **changes) == ("crashed", "crashed")


def test_a_tolerance_once_raised_stays_for_the_inputs_that_follow(judge: Judge) -> None:
    """As in evalplus: after an answer that is a float, whole numbers too are compared within 1e-6 of each other."""
    changes = {"canonical_solution": "    return x / 2 if x == 2 else 10**7\n"}
    assert judge("def half(x): return x / 2 if x == 2 else 10**7 + 1", **changes)[0] == "passed"
    assert judge("def half(x): return x / 2 if x == 2 else 10**7 + 2", **changes)[0] == "wrong"
    assert judge("def half(x): return x / 2 if x == 2 else 10**7 + 1", **changes, base_input=[[4], [2]])[0] == "wrong"


def test_a_candidate_cannot_change_what_the_reference_is_asked(judge: Judge) -> None:
    changes = {"canonical_solution": "    return sum(x)\n", "base_input": [[[1, 2]]], "plus_input": [[[3]]]}
    assert judge("def half(x):\n    x.clear()\n    return 0", **changes) == ("wrong", "wrong")


def test_each_input_has_its_own_time(judge: Judge) -> None:
    """At least a second of processor time each: slow answers to many inputs pass, one that loops does not."""
    wait = "    t = time.process_time()\n    while time.process_time() < t + .3: pass\n"
    slow = f"import time\ndef half(x):\n{wait}    return x / 2"
    assert judge(slow, base_input=[[2], [4]])[0] == "passed"
    assert judge("def half(x):\n    while x == 4: pass\n    return x / 2", plus_input=[[3]]) == ("timeout", "passed")


def test_special_cases_of_evalplus(judge: Judge) -> None:
    similar = {"kind": "similar"}
    # As sets, whatever the type.
    assert judge("def similar_elements(a, b): return list(set(a) & set(b))[::-1]", **similar) == ("passed", "passed")
    assert judge("def similar_elements(a, b): return [1]", **similar) == ("wrong", "wrong")
    # The root is tried, not compared.
    find_zero = {
        "prompt": 'def find_zero(xs):\n    """Root."""\n',
        "entry_point": "find_zero",
        "canonical_solution": "    return -xs[0] / xs[1]\n",
        "test": "def check(candidate): pass",
        "base_input": [[[1, 2]]],
        "plus_input": [[[-6, 11, -6, 1]]],
        "atol": 1e-4,
    }
    roots = "def find_zero(xs): return -xs[0] / xs[1] if len(xs) == 2 else 3.0"
    assert judge(roots, **find_zero) == ("passed", "passed")
    assert judge("def find_zero(xs): return -xs[0] / xs[1]", **find_zero) == ("passed", "wrong")


@pytest.mark.parametrize(
    "number, given, taken",
    [
        (2, [[1, 2], [3]], [(1, 2), (3,)]),
        (63, [[[1, 2]], [[3]]], [[(1, 2)], [(3,)]]),
        (75, [[[1, 2]], 6], [[(1, 2)], 6]),
        (106, [[1], [2, 3]], [[1], (2, 3)]),
        (115, [[[1, 1], [], 5]], [[{1}, {}, {}]]),
        (124, ["1.5", "2+1j"], (1.5, 2 + 1j)),
        (250, [[1, 2], 1], [(1, 2), 1]),
        (252, ["1j"], [1j]),
        (259, [[[1, 2]], [[3]]], [((1, 2),), ((3,),)]),
        (278, [[1, [2], 3]], [(1, (2,), 3)]),
        (307, [[1], 2, 3], [(1,), 2, 3]),
        (580, [[1, [2, [3]]]], ((1, (2, (3,))),)),
        (722, [{"a": [1, 2]}, 3], [{"a": (1, 2)}, 3]),
        (1, [[1, 2]], [[1, 2]]),
    ],
)
def test_arguments_are_what_the_functions_of_mbpp_take(number: int, given: object, taken: object) -> None:
    assert repr(arguments("mbpp", number, [given])) == repr([taken])
    assert arguments("humaneval", number, [given]) == [given]


def test_base_and_plus_are_told_side_by_side(tmp_path: Path) -> None:
    read = problem(tmp_path)
    codes = ("def half(x): return x / 2", "def half(x): return x // 2", "def half(x): return 1")
    samples = [Sample(read, number, code) for number, code in enumerate(codes)]
    summary = score_samples("half", [read], samples, Limits()).summary()
    assert summary["pass_at"] == {"1": round(1 / 3, 6)}
    assert summary["base"]["pass_at"] == {"1": round(2 / 3, 6)}  # type: ignore[index]
    rows = score_samples("half", [read], samples, Limits()).rows()
    assert [(row["base_class"], row["class"]) for row in rows] == [
        ("passed", "passed"),
        ("passed", "wrong"),
        ("wrong", "wrong"),
    ]


@pytest.mark.parametrize("name", ["completion-v1", "chat-v2", "human-eval-v1", "evalplus-base-v1", "evalplus-chat-v1"])
def test_an_experiment_is_scored_by_both_under_every_protocol(name: str, tmp_path: Path) -> None:
    read, protocol = problem(tmp_path), find_protocol(name, "humaneval")
    answers = canonical([read], protocol)
    scored = score(answers, protocol, Limits(), audit=True)
    assert [outcome.verdict for outcome in (*scored.outcomes, *(scored.base or ()), *(scored.split or ()))] == [
        "passed"
    ] * 3
    section = Benchmark.model_validate(
        {
            "name": "half",
            "problem_schema": "humaneval",
            "licence": "MIT",
            "source": {"locator": {"kind": "file", "path": "p.jsonl"}, "sha256": "0" * 64},
        }
    )
    run = BenchmarkRun(benchmark=section, samples=1, k=(1,), max_new_tokens=9)
    summary = summarise(answers, scored, run)
    assert summary["pass_at"] == summary["base"]["pass_at"] == {"1": 1.0}  # type: ignore[index]


def test_limits_suit_the_tests_unless_they_were_chosen(tmp_path: Path) -> None:
    read = problem(tmp_path)
    assert limits_for(Limits(), [read]) == EXTENDED
    chosen = Limits(cpu_seconds=2)
    assert limits_for(chosen, [read]) == chosen
    assert limits_for(Limits(), [replace(read, inputs="")]) == Limits()
