"""What an A/B run says and how it ends."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.ab import compare
from benchmarks.ab.compare import Compared, main, total_of
from benchmarks.ab.revisions import NoSuchWork, Process, Side, checkout, workloads_of
from benchmarks.ab.statistics import Ratio, Visit, ratio
from benchmarks.workloads.workloads import CASES
from specs.loading.settings import ROOT


def compared(case: str, slowdown: float) -> Compared:
    visits: list[Visit] = [[(1.0, slowdown + 0.001 * index) for index in range(8)] for _ in range(3)]
    found = ratio(visits)
    return Compared(case, 0.05, "MB", (1.0, 1 / slowdown), found, Ratio(1.0, 0.9, 1.1), 1.0001, visits)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Compared]:
    found: list[Compared] = []
    monkeypatch.setattr(compare, "compare", lambda *arguments, **options: (found, {"read": "base has no such code"}))
    return found


def test_a_slower_case_ends_with_1_and_is_named(answers: list[Compared]) -> None:
    answers += [compared("tokenize", 1.1), compared("pack", 1.0)]
    done = CliRunner().invoke(main, ["--base", "main"])
    assert done.exit_code == 1
    assert "slower than allowed: tokenize" in done.output
    assert "1.10" in done.output and "read not compared: base has no such code" in done.output


def test_equal_speed_ends_with_0(answers: list[Compared]) -> None:
    answers.append(compared("tokenize", 1.0))
    done = CliRunner().invoke(main, ["--base", "main"])
    assert done.exit_code == 0
    assert "nothing is slower than allowed" in done.output


def test_a_slowdown_within_the_tolerance_ends_with_0(answers: list[Compared]) -> None:
    answers.append(compared("tokenize", 1.03))
    assert CliRunner().invoke(main, ["--base", "main"]).exit_code == 0


def test_nothing_compared_ends_with_2(answers: list[Compared]) -> None:
    done = CliRunner().invoke(main, ["--base", "main"])
    assert done.exit_code == 2
    assert "base has no such code" in done.output


def test_json_holds_every_time(answers: list[Compared], tmp_path: Path) -> None:
    answers.append(compared("tokenize", 1.1))
    done = CliRunner().invoke(main, ["--base", "main", "--format", "json", "--json", str(tmp_path / "out.json")])
    plain = json.loads(done.output)
    assert plain == json.loads((tmp_path / "out.json").read_bytes())
    again = ratio(plain["cases"]["tokenize"]["visits"])
    assert plain["cases"]["tokenize"]["cpu"] == vars(again)
    assert plain["not_compared"] == {"read": "base has no such code"}


def test_an_unknown_revision_is_one_line() -> None:
    done = CliRunner().invoke(main, ["--base", "no-such-revision", "--case", "specs"])
    assert done.exit_code == 2
    assert "Traceback" not in done.output


def test_instructions_are_read_from_a_profile() -> None:
    assert total_of("version: 1\nevents: Ir\nsummary: 1234\n\nfn=a\n1 2\ntotals: 1234\n") == 1234
    assert total_of("version: 1\n") is None


def test_a_worker_measures_the_code_of_its_side(tmp_path: Path) -> None:
    """A whole process of each side, on the cheapest case; and a side that is not what it says."""
    with workloads_of(ROOT) as workloads:
        here = Side("here", ROOT, workloads)
        with Process(here, "specs", tmp_path) as process:
            assert process.hello() == {"amount": 5, "unit": "comparisons"}
            took = process.round()
            assert took.cpu > 0
            assert took.wall > 0
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        # The folder holds no code, so the installed project would be measured in its place.
        with pytest.raises((RuntimeError, NoSuchWork)):
            with Process(Side("there", elsewhere, workloads), "specs", tmp_path) as process:
                process.hello()


def test_a_case_that_cannot_be_built_says_why(tmp_path: Path) -> None:
    with workloads_of(ROOT) as workloads, Process(Side("here", ROOT, workloads), "tokenize", tmp_path) as process:
        # There is no tokenizer in the inputs.
        with pytest.raises(NoSuchWork, match="tokenizer"):
            process.hello()


def test_a_checkout_is_removed() -> None:
    with checkout("HEAD") as folder:
        assert (folder / "specs" / "lock.yaml").is_file()
    assert not folder.exists()


def test_every_case_has_a_tolerance_that_a_tenth_exceeds() -> None:
    assert all(0 < case.tolerance < 0.1 for case in CASES.values())
