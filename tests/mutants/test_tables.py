"""The tables fit the code: a fault that can no longer be put in would count for nothing, or stop the whole run."""

import ast
import importlib.util
import sys
from collections import Counter
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("mutants_run", Path(__file__).with_name("run.py"))
assert _spec and _spec.loader
run = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = run  # dataclasses look there
_spec.loader.exec_module(run)
ROWS = run.read_tables()
FOLDERS = ("specs", "data_pipeline", "model", "evaluation", "runner", "benchmarks")


@pytest.mark.parametrize("file", sorted({row.file for row in ROWS}))
def test_each_row_puts_one_fault_into_code_that_still_compiles_and_names_tests_that_there_are(file: str) -> None:
    text = (run.ROOT / file).read_text("utf-8")
    for row in (row for row in ROWS if row.file == file):
        ast.parse(row.apply(text))
        assert row.harm and row.tests
        for test in row.tests:
            path, *names = test.split("::")
            tests = (run.ROOT / path).read_text("utf-8")
            assert all(f"def {name.split('[')[0]}(" in tests for name in names), test


def test_there_are_faults_in_every_folder_and_no_row_stands_twice() -> None:
    assert ROWS
    assert {row.file.split("/")[0] for row in ROWS} <= set(FOLDERS)
    assert [row for row, count in Counter((row.file, row.old, row.new) for row in ROWS).items() if count > 1] == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [("x", "y", "occurs 2 times"), ("z", "y", "occurs 0 times"), ("x = 1", "x = 1", "changes nothing")],
)
def test_a_row_that_no_longer_fits_is_refused(old: str, new: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run.Mutation("file.py", old, new, "harm", ("test.py",)).apply("x = 1\nx = 2\n")


TREE = {
    "subject.py": "def twice(x):\n    return 2 * x\n",
    "test_notices.py": "from subject import twice\n\ndef test_it():\n    assert twice(3) == 6\n",
    "test_sleeps.py": "def test_it():\n    assert True\n",
    "test_hangs.py": "import time\nfrom subject import twice\ndef test_it():\n    while twice(3) != 6: time.sleep(1)\n",
    "test_broken.py": "from subject import twice\nassert twice(3) == 6\n",
}


@pytest.mark.parametrize(
    ("test", "verdict"),
    [
        ("test_notices.py", "killed"),
        ("test_sleeps.py", "survived"),
        ("test_hangs.py", "killed (hang)"),
        ("test_broken.py", "error"),
        ("test_missing.py", "error"),
    ],
)
def test_only_tests_that_ran_and_failed_have_noticed(test: str, verdict: str, tmp_path: Path) -> None:
    """The judge is judged: on a tree of its own, with tests that notice, sleep, hang, or do not even begin."""
    for name, text in TREE.items():
        (tmp_path / name).write_text(text, "utf-8")
    mutation = run.Mutation("subject.py", "2 * x", "3 * x", "harm", (test,))
    with run.Tests(tmp_path, preloaded=()) as tests:
        outcome = run.judge(tests, mutation, limit=10 if verdict == "killed (hang)" else 300)
        assert outcome.verdict == verdict, outcome.output
        assert (tmp_path / "subject.py").read_text("utf-8") == TREE["subject.py"], "the fault is taken out again"
        code, output = tests.run((test,), limit=300)
        assert (code == 0) == (verdict != "error"), output
    told = run.summary([outcome])
    assert ("harm" in told) != verdict.startswith("killed") and f"{int(verdict.startswith('killed'))} of 1" in told
