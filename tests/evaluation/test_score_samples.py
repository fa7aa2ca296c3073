"""Samples in the form of every harness are read as the programs that it would run, scored, and told in a table."""

import gzip
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from data_pipeline.problems import Problem, read_problems
from evaluation import score as score_module
from evaluation.completions.sample_files import read_samples
from evaluation.protocols.program import Program
from evaluation.protocols.registry import find_protocol
from evaluation.sandbox.dialogue import Outcome
from evaluation.sandbox.pool import run_all
from evaluation.score_samples import program, score_samples
from runner.cli import main
from specs.common.errors import UserError
from specs.schema.experiment import Limits

PROBLEMS = [
    Problem(
        f"HumanEval/{number}",
        number,
        f'from math import pi\n\n\ndef f{number}(x):\n    """Add {number}."""\n',
        f"    return x + {number}\n",
        f"def check(candidate):\n    assert candidate(1) == {number + 1}\n",
        f"f{number}",
        "",
    )
    for number in range(4)
]
WRONG = "    return x\n"


def lines(path: Path, records: Sequence[object]) -> Path:
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def human_eval(folder: Path) -> Path:
    return lines(folder / "s.jsonl", [{"task_id": p.task_id, "completion": p.solution} for p in PROBLEMS])


def human_eval_gz(folder: Path) -> Path:
    return lines(folder / "s.jsonl.gz", [{"task_id": p.task_id, "completion": p.solution} for p in PROBLEMS])


def evalplus(folder: Path) -> Path:
    return lines(folder / "s.jsonl", [{"task_id": p.task_id, "solution": p.prompt + p.solution} for p in PROBLEMS])


def bigcode(folder: Path) -> Path:
    (folder / "generations.json").write_text(json.dumps([[p.prompt + p.solution] for p in PROBLEMS]), "utf-8")
    return folder / "generations.json"


def lm_eval(folder: Path) -> Path:
    records = [
        {
            "doc_id": p.number,
            "doc": {"task_id": p.task_id, "prompt": p.prompt},
            "target": p.tests,
            "resps": [[p.solution]],
            "filtered_resps": [[p.prompt + p.solution]],
        }
        for p in PROBLEMS
    ]
    return lines(folder / "samples_humaneval.jsonl", records)


def code_t(folder: Path) -> Path:
    return lines(folder / "s.jsonl", [{"prompt": p.prompt, "samples": [p.solution]} for p in PROBLEMS])


def folders(folder: Path) -> Path:
    for p in PROBLEMS:
        (folder / "out" / p.task_id.replace("/", "_")).mkdir(parents=True)
        (folder / "out" / p.task_id.replace("/", "_") / "0.py").write_text(p.prompt + p.solution, "utf-8")
    return folder / "out"


@pytest.mark.parametrize("form", [human_eval, human_eval_gz, evalplus, bigcode, lm_eval, code_t, folders])
def test_every_form_gives_the_same_programs(form: Callable[[Path], Path], tmp_path: Path) -> None:
    samples = read_samples(form(tmp_path), PROBLEMS, "humaneval")
    assert [(s.problem.task_id, s.number, s.code) for s in samples] == [
        (p.task_id, 0, p.prompt + p.solution) for p in PROBLEMS
    ]


def test_samples_of_one_problem_are_numbered_as_they_come(tmp_path: Path) -> None:
    p, other = PROBLEMS[1], PROBLEMS[0]
    records = [
        {"task_id": p.task_id, "completion": "a"},
        {"task_id": other.task_id, "solution": ["b", "c"]},
        {"task_id": p.task_id, "completion": "d"},
        {"prompt": p.prompt, "samples": ["e", "f"]},
        {"prompt": p.prompt, "task_id": p.task_id, "samples": ["g"]},
    ]
    samples = read_samples(lines(tmp_path / "s.jsonl", records), PROBLEMS, "humaneval")
    assert [(s.problem.task_id, s.number, s.code) for s in samples] == [
        (other.task_id, 0, "b"),
        (other.task_id, 1, "c"),
        *((p.task_id, number, p.prompt + end) for number, end in enumerate("adefg")),
    ]


def similar(number: int, prompt: str, name: str) -> Problem:
    return replace(PROBLEMS[0], task_id=f"HumanEval/{number}", prompt=prompt, entry_point=name)


SIMILAR = [
    similar(7, 'def f(x):\n    """Sum of x.\n    >>> f(1)\n    """\n', "f"),
    similar(8, 'def f(x):\n    """Square of x.\n    >>> f(1)\n    """\n', "f"),
    similar(9, 'import re\n\ndef g():\n    """X."""\n\n\ndef h(x):\n    """Y."""\n', "h"),
]


@pytest.mark.parametrize(
    "prompt, name",
    [
        ('def f(x):\n    """Square of x.\n    """\n', "HumanEval/8"),
        ("def f(x):\n    '''\n    Sum.\n    '''\n", None),
        ('import re\n\n\ndef g():\n    """X."""\n\ndef h(x):\n    """\n    Other. """\n', "HumanEval/9"),
        ('def g():\n    """X."""\n', None),
        ("Square of x.", None),
    ],
)
def test_a_prompt_without_its_examples_is_known_by_function_and_description(
    prompt: str, name: str | None, tmp_path: Path
) -> None:
    """CodeT's prompts; several of HumanEval's functions have the same name. The program begins with what was asked."""
    path = lines(tmp_path / "s.jsonl", [{"prompt": prompt, "samples": ["    return 1\n"]}])
    if name is None:
        with pytest.raises(UserError, match="no problem of the benchmark has this prompt"):
            read_samples(path, SIMILAR, "humaneval")
        return
    (sample,) = read_samples(path, SIMILAR, "humaneval")
    assert (sample.problem.task_id, sample.code) == (name, f"{prompt}    return 1\n")


def test_files_of_a_folder_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "HumanEval_2"
    folder.mkdir(parents=True)
    for number in (10, 9, 2):
        (folder / f"{number}.py").write_text(str(number), "utf-8")
    (folder / "notes.txt").write_text("x", "utf-8")
    assert [s.code for s in read_samples(tmp_path / "out", PROBLEMS, "humaneval")] == ["2", "9", "10"]


def test_names_of_mbpp_are_understood_in_each_spelling(basics: list[Problem], tmp_path: Path) -> None:
    records = [{"task_id": name, "completion": "x = 1"} for name in (1, "1", "Mbpp/2", "MBPP/3")]
    samples = read_samples(lines(tmp_path / "s.jsonl", records), basics, "mbpp")
    # MBPP's prompts are prose: a completion is a program by itself.
    assert [(s.problem.task_id, s.code) for s in samples] == [(t, "x = 1") for t in ("1", "1", "2", "3")]


BAD = {
    "s.jsonl:1: not valid JSON": "{",
    "s.jsonl:1: a sample must be a JSON object, not int": "7",
    "s.jsonl:1: 'HumanEval/99' is no problem of the benchmark": '{"task_id": "HumanEval/99", "completion": ""}',
    "s.jsonl:1: holds task_id, text: a sample has": '{"task_id": "HumanEval/1", "text": ""}',
    "s.jsonl:1: a program must be text, not int": '{"task_id": "HumanEval/1", "completion": 5}',
    "s.jsonl:1: no problem of the benchmark has this prompt": '{"prompt": "x", "samples": []}',
    "holds no samples": "\n",
    "s.jsonl: not valid JSON": "[[",
    "5 lists of programs for 4 problems": "[[], [], [], [], []]",
    r"list 1 \(of HumanEval/1\): must be a list": '[["x"], "y"]',
}


@pytest.mark.parametrize("message", BAD)
def test_what_is_no_sample_is_one_line_that_names_it(message: str, tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text(BAD[message], "utf-8")
    with pytest.raises(UserError, match=message):
        read_samples(tmp_path / "s.jsonl", PROBLEMS, "humaneval")


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl.gz").write_bytes(gzip.compress(b"x" * 999)[:-9])
    (tmp_path / "t.jsonl").write_bytes(b"\xff")
    for name, message in (
        ("s.jsonl.gz", "cannot be read"),
        ("t.jsonl", "not UTF-8 at byte 0"),
        ("no", "cannot be read"),
    ):
        with pytest.raises(UserError, match=message):
            read_samples(tmp_path / name, PROBLEMS, "humaneval")


def test_a_whole_program_gets_no_prompt_in_front() -> None:
    """What it lacks it lacks: its harness supplies no import."""
    assert program(PROBLEMS[0], "def f0(x): return pi").candidate == "def f0(x): return pi\n"


@pytest.fixture
def invoke() -> Callable[..., Result]:
    return lambda path, *options: CliRunner().invoke(main, ["score", str(path), "--benchmark", "basics", *options])


@pytest.fixture
def samples(basics: list[Problem], tmp_path: Path) -> Path:
    """Twelve samples of each of 8 problems of which every third is wrong, and one that is no text that UTF-8 holds."""
    records = [
        {"task_id": p.task_id, "solution": p.solution if number % 3 else "x = '\ud800'" if number else "def g(): pass"}
        for p in basics[:8]
        for number in range(12)
    ]
    return lines(tmp_path / "samples.jsonl", records)


def test_the_command_ends_with_a_table(invoke: Callable[..., Result], samples: Path, tmp_path: Path) -> None:
    result = invoke(samples, "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert "basics: 96 samples of 8 of its 40 problems" in result.output
    assert "pass@1 " in result.output and "pass@10 " in result.output and "pass@100" not in result.output
    assert "64 passed, 32 crashed" in result.output
    assert "The score is that of the problems that have samples, not of the benchmark." in result.output
    scores = json.loads((tmp_path / "out" / "scores.json").read_text("utf-8"))
    assert scores["pass_at"] == {"1": round(2 / 3, 6), "10": 1.0}
    assert scores["interval"]["10"] == {"low": 0.630583, "high": 1.0}
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text("utf-8").splitlines()]
    assert [row["class"] for row in rows[:4]] == ["crashed", "passed", "passed", "crashed"]
    assert "unicode error" in rows[3]["message"], "an answer that is no text stops nothing"
    # A second run, other workers: the same bytes. As JSON: the same figures.
    assert invoke(samples, "--out", str(tmp_path / "again"), "--workers", "1").exit_code == 0
    for name in os.listdir(tmp_path / "out"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    printed = invoke(samples, "--format", "json")
    assert json.loads(printed.stdout) == scores


def test_the_command_audits(invoke: Callable[..., Result], basics: list[Problem], tmp_path: Path) -> None:
    forged = "class E:\n    def __eq__(self, other): return True\n" + "\n".join(
        f"{name} = lambda *a: E()" for name in ("add", "double")
    )
    right = [{"task_id": p.task_id, "solution": p.solution} for p in basics[1:4]]
    name = basics[0].solution.partition("(")[0].removeprefix("def ")
    path = lines(tmp_path / "s.jsonl", [*right, {"task_id": "1", "solution": f"{forged}\n{name} = add"}])
    result = invoke(path, "--audit", "--tier", "T1")
    assert result.exit_code == 0, result.output
    assert "the split checker disagrees: 1 sample 0: passed here" in result.output
    assert result.output.count("the split checker disagrees") == 1


def test_interrupted_the_command_goes_on_with_what_it_had(
    invoke: Callable[..., Result], samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, ran = run_all, []

    def interrupted(programs: list[Program], *rest: object, **named: Any) -> list[Outcome]:
        ran.append(len(set(programs)))
        if len(ran) == 1:
            real(programs[:2], *rest, **named)  # type: ignore[arg-type]
            raise KeyboardInterrupt
        return real(programs, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(score_module, "run_all", interrupted)
    result = invoke(samples)
    assert result.exit_code == 130
    assert "interrupted with 2 verdicts; they are kept, run again to continue" in result.output
    assert invoke(samples).exit_code == 0
    assert ran[1] == ran[0] - 2


def test_an_unknown_benchmark_is_one_line_that_names_those_that_there_are(samples: Path) -> None:
    result = CliRunner().invoke(main, ["score", str(samples), "--benchmark", "humanval"])
    assert result.exit_code == 2
    assert "there is no benchmark 'humanval': write one of basics, humaneval" in result.output
    result = CliRunner().invoke(main, ["score", str(samples), "--benchmark", "specs/benchmarks/basics.yaml"])
    assert result.exit_code == 0, result.output


INFILLING = {
    "task_id": "SingleLineInfilling/HumanEval/7/L1",
    "entry_point": "f",
    "prompt": "def f(x):\n    y = x + 1\n",
    "suffix": "    return y\n",
    "canonical_solution": "    y *= 2\n",
    "test": "def check(candidate):\n    assert candidate(1) == 4\n",
}


def test_what_is_infilled_stands_between_prompt_and_suffix(tmp_path: Path) -> None:
    """Lines of one problem are problems of their own; the last of them has nothing after it."""
    last = {"task_id": "SingleLineInfilling/HumanEval/7/L2", "prompt": "def f(x):\n    y = (x + 1) * 2\n", "suffix": ""}
    file = lines(tmp_path / "p.jsonl", [INFILLING, INFILLING | last | {"canonical_solution": "    return y\n"}])
    problems = read_problems(file, "humaneval")
    assert [(p.number, p.suffix) for p in problems] == [(7, "    return y\n"), (7, "")]
    right = [{"task_id": p.task_id, "completion": p.solution} for p in problems]
    wrong = [{"task_id": p.task_id, "completion": ""} for p in problems]
    samples = read_samples(lines(tmp_path / "s.jsonl", [*right, *wrong]), problems, "humaneval")
    assert samples[0].code == "def f(x):\n    y = x + 1\n    y *= 2\n    return y\n"
    outcomes = score_samples("infilling", problems, samples, Limits()).scored.outcomes
    assert [outcome.verdict for outcome in outcomes] == ["passed", "wrong", "passed", "wrong"]


@pytest.mark.parametrize("name", ["completion-v1", "chat-v2", "human-eval-v1", "evalplus-chat-v1"])
def test_a_protocol_refuses_to_ask_for_what_is_infilled(name: str, tmp_path: Path) -> None:
    (problem,) = read_problems(lines(tmp_path / "p.jsonl", [INFILLING]), "humaneval")
    protocol = find_protocol(name, "humaneval")
    for use in (protocol.ask, lambda problem: protocol.program(problem, "    y *= 2")):
        with pytest.raises(UserError, match=r"L1 has code after the answer, which no protocol asks for.*twice score"):
            use(problem)
