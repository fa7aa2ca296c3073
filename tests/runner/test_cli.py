import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from runner.cli import main
from specs.loading.settings import ROOT
from specs.loading.yaml_reader import read_document

SPECS = ROOT / "specs" / "experiments"


def twice(*arguments: str) -> tuple[int, str]:
    """Exit code and everything that the command prints."""
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_check_prints_what_the_published_setup_implies() -> None:
    code, output = twice("check", str(SPECS / "code-34b.yaml"))
    assert code == 0
    for number in ("34,000,573,440", "2,097,152", "333,787", "flops per sequence", "d_ff", "met"):
        assert number in output


def test_check_tells_how_often_a_source_is_seen(tmp_path: Path) -> None:
    value = read_document(SPECS / "smoke.yaml").value
    value["corpus"]["sources"][0] |= {"epochs": "2.5", "weight": 3}
    value["corpus"]["sources"][1] |= {"epochs": "10%"}
    spec = tmp_path / "smoke.yaml"
    spec.write_text(json.dumps(value), "utf-8")
    code, output = twice("check", str(spec))
    assert code == 0, output
    told = output.partition("Sources of pretraining, seen other than once in a pass over the store\n")[2].splitlines()
    assert [line.split() for line in told[:3]] == [["flask", "7.5"], ["flask-previous", "0.1"], []]
    assert "Sources of finetuning" not in output


def test_check_answers_no_to_a_missed_claim(tmp_path: Path) -> None:
    text = (SPECS / "code-34b.yaml").read_text("utf-8").replace("../", f"../{'../' * 20}{ROOT}/specs/")
    spec = tmp_path / "changed.yaml"
    spec.write_text(text.replace("d_ff: 38_400", "d_ff: 20_480"), "utf-8")
    code, output = twice("check", str(spec), "--format", "json")
    assert code == 1
    missed = [claim for claim in json.loads(output)["claims"] if not claim["met"]]
    assert [(claim["name"], claim["implied"]) for claim in missed] == [("parameters", 20_788_515_840)]


@pytest.mark.parametrize("command", [[], ["check"], ["diff"], ["lock"], ["plan"], ["results"], ["schema"]])
def test_every_command_has_help_with_an_example(command: list[str]) -> None:
    code, output = twice(*command, "--help")
    assert code == 0
    assert "Example" in output


@pytest.mark.parametrize("form", ["text", "markdown", "json"])
def test_diff_in_every_form_says_what_changed_and_what_runs_again(tmp_path: Path, form: str) -> None:
    old = SPECS / "smoke.yaml"
    text = old.read_text("utf-8").replace("../", f"../{'../' * 20}{ROOT}/specs/")
    new = tmp_path / "changed.yaml"
    new.write_text(text.replace("warmup_steps: 20", "warmup_steps: 2k"), "utf-8")
    code, output = twice("diff", str(old), str(new), "--format", form, "--exit-code")
    assert code == 1
    for words in ("pretraining.schedule.warmup_steps", "pretrain@smoke", "finetune@smoke"):
        assert words in output
    assert ("2,000" in output) or form == "json"
    code, output = twice("diff", str(old), str(old), "--exit-code")
    assert code == 0
    assert "no difference" in output


def test_git_calls_diff_as_its_driver(tmp_path: Path) -> None:
    path = SPECS / "smoke.yaml"
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text(path.read_text("utf-8"), "utf-8")
    new.write_text(path.read_text("utf-8").replace("warmup_steps: 20", "warmup_steps: 21"), "utf-8")
    code, output = twice("diff", "--git", str(path), str(old), "hex", "100644", str(new), "hex", "100644")
    assert code == 0
    assert "pretraining.schedule.warmup_steps: 20 -> 21" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["diff", "one"], "give two states"),
        (["check", "absent.yaml"], "there is no file absent.yaml"),
        (["lock", "absent"], "there is no experiment 'absent'"),
        (["lock", "--check", "code-34b"], "the lock holds smoke"),
        (["results", "specs"], "there are no scores yet"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    code, output = twice(*arguments)
    assert code == 2
    assert message in output
    assert output.startswith("error: ")
    assert output.count("\n") == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("licence: MIT OR Apache-2.0", "licence: Apache 2", "no SPDX expression"),
        (
            "licence: MIT OR Apache-2.0",
            "licence: GPL-3.0-only",
            "source 'trio': its licence GPL-3.0-only is not allowed",
        ),
        ("languages: [python,", "languages: [pyton,", "no language is called 'pyton'"),
        ("decontaminate:", "filter: {prose: {min_words: 9, max_words: 8}}\ndecontaminate:", "min_words (9) is above"),
    ],
)
def test_check_refuses_a_corpus_that_is_certain_to_lose_a_source(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    elsewhere = f"../{'../' * 20}{ROOT}/specs/"
    corpus = (ROOT / "specs" / "corpora" / "smoke-code.yaml").read_text("utf-8").replace("../", elsewhere)
    assert old in corpus
    (tmp_path / "smoke-code.yaml").write_text(corpus.replace(old, new), "utf-8")
    text = (SPECS / "smoke.yaml").read_text("utf-8")
    text = text.replace("../corpora/smoke-code.yaml", "./smoke-code.yaml").replace("../", elsewhere)
    (tmp_path / "smoke.yaml").write_text(text, "utf-8")
    code, output = twice("check", str(tmp_path / "smoke.yaml"))
    assert code == 2 and message in output and "Traceback" not in output, output
