import gc
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from runner import answers, parsed
from runner.cli import main
from runner.parsed import Shelf, remembering
from specs import reading
from specs.reading import read_document
from specs.settings import ROOT

SPECS = sorted((ROOT / "specs").glob("*/*.yaml"))


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that are parsed from now on."""
    seen: list[str] = []
    parse = reading._composed

    def composed(text: str) -> Any:
        seen.append(text)
        return parse(text)

    monkeypatch.setattr(reading, "_composed", composed)
    return seen


@pytest.fixture
def specs(tmp_path: Path) -> Path:
    """A copy of all specs, to be edited."""
    return Path(shutil.copytree(ROOT / "specs", tmp_path / "specs", ignore=shutil.ignore_patterns("*.py")))


def anew() -> None:
    """Forget what this process knows: as the next one begins."""
    reading._tree.cache_clear()


def check(spec: Path) -> str:
    anew()
    result = CliRunner().invoke(main, ["check", str(spec)])
    assert result.exit_code in (0, 1), result.output
    return result.output


def test_after_an_edit_of_one_file_that_file_alone_is_parsed(specs: Path, texts: list[str]) -> None:
    spec = specs / "experiments" / "code-34b.yaml"
    check(spec)
    assert len(texts) == len(set(texts)) > 4
    texts.clear()
    spec.write_text(spec.read_text() + "\n# another comment\n")
    check(spec)
    assert texts == [spec.read_text()]
    texts.clear()
    tokenizer = specs / "tokenizers" / "unigram-64k.yaml"
    tokenizer.write_text(tokenizer.read_text() + "\nmax_piece_length: 15\n")
    check(spec)
    assert texts == [tokenizer.read_text()]


@pytest.mark.parametrize("way", ["", "/../other"], ids=["plain", "winding"])
def test_an_answer_does_not_depend_on_what_was_parsed_before(
    way: str, specs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TWICE_SCRATCH", f"{tmp_path}/scratch{way}")
    spec = specs / "experiments" / "code-34b.yaml"
    said = []
    for removed in ("answers", "parsed"):
        said.append(check(spec))
        shutil.rmtree(answers.folder(removed))
    assert said[0] == said[1] == check(spec)
    # What lies on the shelf is no input of the answer: without it, the answer is known all the same.
    (kept,) = answers.folder().glob("*.json")
    assert "parsed" not in kept.read_text()


def test_errors_in_a_file_are_placed_in_the_file_that_was_asked_for(specs: Path, texts: list[str]) -> None:
    """The text is the same, the name of its file is not."""
    for name in ("one.yaml", "two.yaml"):
        path = specs / "experiments" / name
        path.write_text("name: [x\n")
        anew()
        result = CliRunner().invoke(main, ["check", str(path)])
        assert result.exit_code == 2
        assert f"{name}:2:1: " in result.output
    assert len(texts) == 1


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_what_is_kept_reads_as_it_did(path: Path, tmp_path: Path, texts: list[str]) -> None:
    anew()
    first = read_document(path)
    for _ in range(2):
        texts.clear()
        anew()
        with remembering(tmp_path, "state"):
            document = read_document(path)
        assert document == first
        assert repr(document.value) == repr(first.value)
    # A control: the second time nothing was parsed, but for texts whose anchors could make them long.
    assert all("&" in text for text in texts)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner),
)


@given(value=PLAIN)
def test_whatever_is_kept_comes_back_as_it_was(value: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("shelf")
    for _ in range(2):
        shelf = Shelf(folder, "state")
        assert repr(shelf.recall("value", "text", lambda: value)) == repr(value)
        shelf.save()


def damaged(path: Path) -> None:
    held = path.read_bytes()
    path.write_bytes(held[:-3] + b"9" + held[-2:])


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [damaged, shortened, emptied], ids=lambda each: each.__name__)
def test_what_is_damaged_is_worked_out_anew(harm: Callable[[Path], None], tmp_path: Path) -> None:
    def recall(state: str, what: str, text: str, value: Any) -> Any:
        shelf = Shelf(tmp_path, state)
        found = shelf.recall(what, text, lambda: value)
        shelf.save()
        return found

    assert recall("state", "tree", "text", [1, 2, 3]) == [1, 2, 3]
    assert recall("state", "tree", "text", "other") == [1, 2, 3]
    (path,) = tmp_path.iterdir()
    harm(path)
    assert recall("state", "tree", "text", "new") == "new"
    # Other code, another kind of work and another text are each something else; an anchor is never kept.
    assert recall("other state", "tree", "text", 1) == 1
    assert recall("state", "values", "text", 2) == 2
    assert recall("state", "tree", "texts", 3) == 3
    assert [recall("state", "tree", "a: &a", number) for number in (4, 5)] == [4, 5]


def test_the_oldest_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsed, "KEPT", 3)
    shelf = Shelf(tmp_path, "state")
    for number in range(6):
        shelf.recall("value", str(number), lambda: 1)
    shelf.save()
    assert len(list(tmp_path.iterdir())) == 3


def test_where_nothing_can_be_written_nothing_is_lost(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with remembering(tmp_path / "file", "state"):
        assert reading.recall("value", "text", lambda: 1) == 1
    assert reading.recall("value", "text", lambda: 2) == 2


def test_collection_of_memory_goes_on_afterwards() -> None:
    assert gc.isenabled()
    assert answers.repeat(["a"], lambda: (str(gc.isenabled()), 0)) == ("False", 0)
    assert gc.isenabled()
