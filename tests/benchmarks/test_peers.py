"""What peer scripts tell, and the table made of it."""

import json
import sysconfig
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.peers import MARK, Found, environments, heard, in_turn, tell
from benchmarks.peers.__main__ import main
from benchmarks.peers.page import BEGIN, END, PLOT, write_into
from specs.common.errors import UserError

FOUND = Found(
    "packing",
    "MB",
    {"twice": [10.0, 12.0, 11.0], "other": [5.0, 4.0, 5.5]},
    ("memcpy", 100.0),
    {"other": "no checksum"},
)
RESULTS = {"packing": {"date": "2026-11-22"}}


def test_what_is_told_is_heard(capsys: pytest.CaptureFixture[str]) -> None:
    tell(FOUND)
    printed = capsys.readouterr().out
    assert heard(f"noise\n{printed}noise\n") == [FOUND]
    assert "2.00x" in printed and "11.0%" in printed


def test_the_ratio_is_that_of_rounds_taken_together() -> None:
    # By medians alone it would be 11 / 5.
    assert FOUND.ratio("other") == 2.0


def test_rounds_are_taken_in_turn_after_one_that_does_not_count() -> None:
    order: list[str] = []

    def rate(name: str) -> float:
        order.append(name)
        return float(len(order))

    taken = in_turn(2, {"a": lambda: rate("a"), "b": lambda: rate("b")})
    assert order == ["a", "b"] * 3
    assert taken == {"a": [3.0, 5.0], "b": [4.0, 6.0]}


def test_the_page_keeps_what_is_around_the_table(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", "utf-8")
    write_into(page, RESULTS, {"packing": [FOUND]})
    text, picture = page.read_text("utf-8"), (tmp_path / PLOT).read_bytes()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| | other (no checksum) | 5 MB | 2.00x | | |" in text
    write_into(page, RESULTS, {"packing": [FOUND]})
    assert (page.read_text("utf-8"), (tmp_path / PLOT).read_bytes()) == (text, picture)


def test_a_page_without_markers_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing\n", "utf-8")
    with pytest.raises(UserError, match="peers"):
        write_into(page, RESULTS, {"packing": [FOUND]})
    assert page.read_text("utf-8") == "nothing\n"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Environments of two scripts, whose interpreters say what a script would."""
    monkeypatch.setenv(environments.VARIABLE, str(tmp_path / "peers"))
    (tmp_path / "told").write_text("noise\n" + MARK + json.dumps(asdict(FOUND)) + "\n", "utf-8")
    for name, code in (("tokenizing", 0), ("sampling", 3)):
        folder = environments.folder_of(name)
        packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
        packages.mkdir(parents=True)
        (folder / "bin").mkdir()
        (folder / "bin" / "python").write_text(f"#!/bin/sh\ncat {tmp_path / 'told'}\nexit {code}\n", "utf-8")
        (folder / "bin" / "python").chmod(0o755)
        (folder / "installed.txt").write_text("\n".join(environments.ENVIRONMENTS[name]), "utf-8")
    return tmp_path


def test_one_that_fails_is_named_and_the_others_results_stay(installed: Path) -> None:
    out = installed / "out.json"
    done = CliRunner().invoke(main, ["run", "sampling", "tokenizing", "--json", str(out)])
    assert done.exit_code == 2
    assert "sampling: ended with code 3" in done.output and "tokenizing: done" in done.output
    told = json.loads(out.read_bytes())
    assert list(told) == ["tokenizing"] and told["tokenizing"]["versions"] == ["tokenizers==0.23.3"]
    again = CliRunner().invoke(main, ["run", "tokenizing", "--json", str(out)])
    assert again.exit_code == 0 and json.loads(out.read_bytes())["tokenizing"]["found"] == [
        json.loads(json.dumps(asdict(FOUND)))
    ]


def test_an_environment_with_other_pins_must_be_installed_again(installed: Path) -> None:
    (environments.folder_of("tokenizing") / "installed.txt").write_text("tokenizers==0.1\n", "utf-8")
    with pytest.raises(UserError, match="peers install tokenizing"):
        environments.ready("tokenizing")
    # What a script starts beside its own must be there too.
    with pytest.raises(UserError, match="reading"):
        environments.ready("reading")


def test_an_unknown_script_is_refused() -> None:
    done = CliRunner().invoke(main, ["run", "tokenising"])
    assert done.exit_code == 2 and "there is no peer script 'tokenising'" in done.output
