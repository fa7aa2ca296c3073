"""Scores follow from verdicts, verdicts from programs, and both are the same bytes on every run."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from data_pipeline.problems import Problem, Schema, read_problems
from evaluation import score as score_module
from evaluation.completions.completions import (
    FILE,
    Completion,
    by_problem,
    load_problems,
    read_completions,
    write_completions,
)
from evaluation.protocols.program import Program
from evaluation.protocols.protocol import entry_point
from evaluation.protocols.registry import find_protocol
from evaluation.sandbox.dialogue import Outcome
from evaluation.sandbox.pool import run_all
from evaluation.score import Scored, canonical, main, score, summarise
from evaluation.scoring.verdict_log import Verdicts
from specs.common.errors import UserError
from specs.common.files import sha256_file, tree_digests
from specs.pipeline import stage
from specs.pipeline.nodes import EvaluationNode
from specs.schema import data
from specs.schema.experiment import BenchmarkRun

FOLDER = Path(__file__).parents[2] / "evaluation"
BENCHMARK = data.Benchmark.model_validate(
    {
        "name": "basics",
        "problem_schema": "mbpp",
        "licence": "Apache-2.0",
        "source": {
            "locator": {"kind": "file", "path": "evaluation/basics.jsonl"},
            "sha256": "7e72b3fb6b35d1ff1b61245d565e9d7e0eb476e7a5e7e95e3e5096bab968fdeb",
        },
        "first_id": 1,
        "last_id": 8,
    }
)
REQUEST = BenchmarkRun(benchmark=BENCHMARK, samples=4, max_new_tokens=20, k=(1, 2), protocol="chat-v1")
NODE = EvaluationNode(
    run="tiny", tokenizer="tiny", benchmark="basics", context_length=192, batch_size=2, threads=1, request=REQUEST
)
PROTOCOL = find_protocol("chat-v1", "mbpp")

# What a sample says, by the number of the sample: right, right in other words, wrong, and no program at all.
SAID: tuple[Callable[[Problem], str], ...] = (
    PROTOCOL.canonical,
    lambda problem: f"Here it is.\n{PROTOCOL.canonical(problem)}\nIt works.",
    lambda problem: f"```python\n{problem.solution.replace('return', 'return None #')}```",
    lambda problem: "I do not know.",
)


@pytest.fixture(scope="module")
def answers(basics: list[Problem]) -> list[tuple[Problem, Completion]]:
    return [
        (problem, Completion(problem.task_id, sample, say(problem), "end", 5))
        for problem in basics[:8]
        for sample, say in enumerate(SAID)
    ]


def test_verdicts_and_scores(answers: list[tuple[Problem, Completion]]) -> None:
    scored = score(answers, PROTOCOL, REQUEST.limits)
    by_sample = [[outcome.verdict for outcome in scored.outcomes[sample::4]] for sample in range(4)]
    assert by_sample[0] == by_sample[1] == ["passed"] * 8
    assert set(by_sample[2]) <= {"wrong", "crashed"}
    assert by_sample[3] == ["extraction"] * 8
    summary = summarise(answers, scored, REQUEST)
    # Two of four pass: one of one with 1/2, one of two with 1 - 1/6.
    assert summary["pass_at"] == {"1": 0.5, "2": round(5 / 6, 6)}
    # 4 of 8 problems' worth, and between 6 and 7: too few for a bootstrap to say much.
    assert summary["interval"] == {"1": {"low": 0.157013, "high": 0.842987}, "2": {"low": 0.349144, "high": 0.996840}}
    assert (summary["problems"], summary["samples"], summary["sandbox"]) == (8, 4, "T0")
    assert summary["classes"]["passed"] == 16  # type: ignore[index]
    assert sum(summary["classes"].values()) == 32  # type: ignore[attr-defined]


def test_only_k_that_the_samples_allow_are_scored(basics: list[Problem]) -> None:
    asked = canonical(basics[:3], PROTOCOL)
    summary = summarise(asked, Scored([Outcome("passed")] * 3, "T0"), REQUEST)
    assert summary["pass_at"] == {"1": 1.0}


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setattr(stage, "node", lambda address, kind: NODE)

    def call(out: str, *options: str) -> Result:
        arguments = ["evaluations.tiny", "--benchmark", str(FOLDER), "--out", str(tmp_path / out)]
        return CliRunner().invoke(main, [*arguments, *options])

    return call


def test_the_stage_writes_the_same_bytes_every_time(
    invoke: Callable[..., Result], answers: list[tuple[Problem, Completion]], tmp_path: Path
) -> None:
    (tmp_path / "completions").mkdir()
    write_completions(tmp_path / "completions" / FILE, [completion for _, completion in answers])
    for out, workers in (("one", "1"), ("three", "3")):
        result = invoke(out, "--completions", str(tmp_path / "completions"), "--workers", workers)
        assert result.exit_code == 0, result.output
        assert "16 of 32 passed" in result.output
    assert tree_digests(tmp_path / "one") == tree_digests(tmp_path / "three")
    lines = [json.loads(line) for line in (tmp_path / "one" / "results.jsonl").read_text("utf-8").splitlines()]
    assert [(line["task_id"], line["sample"]) for line in lines] == [(p.task_id, c.sample) for p, c in answers]
    assert all(set(line) == {"task_id", "sample", "class", "message"} for line in lines)
    assert json.loads((tmp_path / "one" / "ledger.json").read_text("utf-8"))["drops"]["extraction"]["documents"] == 8


@pytest.mark.parametrize("option, passed", [("--canonical", 8), ("--empty", 0)])
def test_controls(option: str, passed: int, invoke: Callable[..., Result], tmp_path: Path) -> None:
    result = invoke("out", option)
    assert result.exit_code == 0, result.output
    assert f"{passed} of 8 passed" in result.output
    assert json.loads((tmp_path / "out" / "scores.json").read_text("utf-8"))["pass_at"] == {"1": passed / 8}


FORGED = "```python\nclass E:\n  def __eq__(self, other): return True\n{name} = lambda *a: E()\n```"


def test_the_audit_lists_what_was_forged(invoke: Callable[..., Result], basics: list[Problem], tmp_path: Path) -> None:
    """One of four samples returns objects that are equal to everything."""
    said = [
        Completion(problem.task_id, sample, FORGED.format(name=entry_point(problem)), "end", 5)
        if sample == 2
        else Completion(problem.task_id, sample, PROTOCOL.canonical(problem), "end", 5)
        for problem in basics[:8]
        for sample in range(4)
    ]
    (tmp_path / "completions").mkdir()
    write_completions(tmp_path / "completions" / FILE, said)
    result = invoke("out", "--completions", str(tmp_path / "completions"), "--audit", "--tier", "T1")
    assert result.exit_code == 0, result.output
    scores = json.loads((tmp_path / "out" / "scores.json").read_text("utf-8"))
    forged = scores["classes"]["passed"] - 24
    assert forged > 0
    assert f"the split checker disagrees about {forged}" in result.output
    assert (scores["sandbox"], scores["split_checker_disagrees"]) == ("T1", forged)
    listed = json.loads((tmp_path / "out" / "ledger.json").read_text("utf-8"))["facts"]["split_checker_disagrees"]
    assert len(listed) == forged
    assert all(d["sample"] == 2 and d["class"] == "passed" and d["split_class"] != "passed" for d in listed)


def test_interrupted_it_says_so_and_continues_with_what_it_had(
    invoke: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, ran = run_all, []

    def interrupted(programs: list[Program], *rest: object, **named: Any) -> list[Outcome]:
        ran.append(len(programs))
        if len(ran) == 1:
            real(programs[:3], *rest, **named)  # type: ignore[arg-type]
            raise KeyboardInterrupt
        return real(programs, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(score_module, "run_all", interrupted)
    result = invoke("out", "--canonical")
    assert result.exit_code == 130
    assert "interrupted with 3 verdicts; they are kept, run again to continue" in result.output
    assert not (tmp_path / "out").exists()
    journal = next((tmp_path / "scratch").glob("score-*/verdicts.jsonl"))
    with journal.open("ab") as file:
        file.write(b'["cut sho')
    result = invoke("out", "--canonical")
    assert result.exit_code == 0, result.output
    assert ran == [8, 5]
    whole = tree_digests(tmp_path / "out")
    assert invoke("again", "--canonical").exit_code == 0
    assert tree_digests(tmp_path / "again") == whole


@pytest.mark.parametrize(
    "schema, change, message",
    [
        ("mbpp", {"test_list": ["", " # none yet"]}, "problem 7 has no tests, so any answer would pass"),
        ("humaneval", {"test": "\n"}, "problem T/7 has no tests, so any answer would pass"),
        ("humaneval", {"test": "assert f()"}, "the tests of T/7 define no check"),
    ],
)
def test_a_problem_without_tests_is_one_clear_line(
    schema: Schema, change: dict[str, object], message: str, tmp_path: Path
) -> None:
    mbpp = {"task_id": 7, "text": "t", "code": "c", "test_list": ["assert f()"]}
    humaneval = {"task_id": "T/7", "prompt": "p", "canonical_solution": "c", "entry_point": "f"}
    record = (mbpp if schema == "mbpp" else humaneval | {"test": "def check(candidate): pass"}) | change
    (tmp_path / "problems.jsonl").write_text(json.dumps(record), "utf-8")
    with pytest.raises(UserError, match=rf"problems.jsonl:1: {message}"):
        read_problems(tmp_path / "problems.jsonl", schema)


DAMAGED = (b"nonsense", b"[]", b'["x", false, "passed"]', b'["x", false, "praised", ""]', b"[" * 3000, b"\xff")


@pytest.mark.parametrize("line", DAMAGED)
def test_a_damaged_verdict_is_one_clear_line_and_loses_nothing(
    line: bytes, invoke: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = run_all

    def interrupted(programs: list[Program], *rest: object, **named: Any) -> list[Outcome]:
        real(programs[:3], *rest, **named)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(score_module, "run_all", interrupted)
        assert invoke("out", "--canonical").exit_code == 130
    journal = next((tmp_path / "scratch").glob("score-*/verdicts.jsonl"))
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([lines[0], line + b"\n", *lines[1:]]))
    result = invoke("out", "--canonical")
    assert result.exit_code == 2
    assert "verdicts.jsonl:2: not a verdict; remove that line and run again: the others are kept" in result.output
    journal.write_bytes(b"".join(lines))
    assert len(Verdicts(journal)) == 3
    assert invoke("out", "--canonical").exit_code == 0


@pytest.mark.parametrize("field", ["completion", "task_id", "stop"])
def test_half_a_surrogate_pair_is_one_clear_line(
    field: str, invoke: Callable[..., Result], answers: list[tuple[Problem, Completion]], tmp_path: Path
) -> None:
    (tmp_path / "completions").mkdir()
    write_completions(tmp_path / "completions" / FILE, [completion for _, completion in answers])
    lines = (tmp_path / "completions" / FILE).read_text("utf-8").splitlines()
    record = json.loads(lines[2])
    lines[2] = json.dumps(record | {field: record[field] + "\ud800"})
    (tmp_path / "completions" / FILE).write_text("\n".join(lines) + "\n", "utf-8")
    result = invoke("out", "--completions", str(tmp_path / "completions"))
    assert result.exit_code == 2
    assert "completions.jsonl:3: not a completion" in result.output
    assert "Traceback" not in result.output


def test_two_sets_of_answers_are_scored_at_one_time(
    invoke: Callable[..., Result],
    answers: list[tuple[Problem, Completion]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While one is scored, another of the same benchmark is; the same one is not."""
    (tmp_path / "completions").mkdir()
    write_completions(tmp_path / "completions" / FILE, [completion for _, completion in answers])
    real, beside = run_all, []

    def meanwhile(programs: list[Program], *rest: object, **named: Any) -> list[Outcome]:
        if not beside:
            beside.append(None)
            beside.append(invoke("other", "--canonical"))
            beside.append(invoke("same", "--completions", str(tmp_path / "completions")))
        return real(programs, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(score_module, "run_all", meanwhile)
    assert invoke("out", "--completions", str(tmp_path / "completions")).exit_code == 0
    assert beside[1].exit_code == 0, beside[1].output
    assert beside[2].exit_code == 2
    assert "already" in beside[2].output


def test_one_thing_to_score_at_a_time(invoke: Callable[..., Result], tmp_path: Path) -> None:
    for options in ([], ["--canonical", "--completions", str(tmp_path)]):
        result = invoke("out", *options)
        assert result.exit_code == 2
        assert "give one of --completions DIR, --canonical or --empty" in result.output


def test_a_failed_run_keeps_the_finished_artifact(invoke: Callable[..., Result], tmp_path: Path) -> None:
    assert invoke("out", "--canonical").exit_code == 0
    before = sha256_file(tmp_path / "out" / "scores.json")
    result = invoke("out", "--completions", str(tmp_path))
    assert result.exit_code == 2
    assert "run the complete stage" in result.output
    assert sha256_file(tmp_path / "out" / "scores.json") == before


def test_missing_doubled_and_foreign_completions_are_refused(answers: list[tuple[Problem, Completion]]) -> None:
    problems = list(dict.fromkeys(problem for problem, _ in answers))
    completions = [completion for _, completion in answers]
    assert by_problem(problems, completions[::-1], 4) == answers
    with pytest.raises(UserError, match="1 of 32 completions are missing, first sample 1 of 3"):
        by_problem(problems, [c for c in completions if (c.task_id, c.sample) != ("3", 1)], 4)
    for extra in (completions[0], replace(completions[0], task_id="99"), replace(completions[0], sample=4)):
        with pytest.raises(UserError, match="33 completions for 32 samples"):
            by_problem(problems, [*completions, extra], 4)


@pytest.mark.parametrize(
    "line", ["{", "[]", "{}", '{"task_id": "1"}', '{"task_id":1,"sample":0,"completion":"","stop":"","tokens":0}']
)
def test_a_damaged_completions_file_names_its_line(line: str, tmp_path: Path) -> None:
    good = '{"task_id":"1","sample":0,"completion":"","stop":"end","tokens":1}\n'
    (tmp_path / FILE).write_text(good + line + "\n", "utf-8")
    with pytest.raises(UserError, match=r"completions.jsonl:2: not "):
        read_completions(tmp_path / FILE)


def test_completions_come_back_as_they_were_written(tmp_path: Path) -> None:
    odd = [Completion("1", 0, 'a\u2028b\n\t"\\ é\ufffd', "\n#", 3), Completion("2", 1, "", "length", 9)]
    write_completions(tmp_path / FILE, odd)
    assert read_completions(tmp_path / FILE) == odd


def test_a_missing_benchmark_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run the fetch stage"):
        load_problems(BENCHMARK, tmp_path)
