import importlib.util
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from specs.loading.settings import ROOT

_spec = importlib.util.spec_from_file_location("accept_messages", Path(__file__).with_name("accept_messages.py"))
assert _spec and _spec.loader
_accept = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_accept)
said = _accept.said
CASES: list[dict[str, Any]] = YAML(typ="safe", pure=True).load(
    (Path(__file__).parents[1] / "messages.yaml").read_text("utf-8")
)
# Words of the library, of the parser and of regular expressions, that mean nothing to who writes a spec.
FOREIGN = re.compile(
    r"tuple|discriminator|\btag\b|<block|pydantic|\bNone\b|\bTrue\b|\bFalse\b|\^\[|\$'|validation|input should"
)


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "specs", folder / "specs", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    return folder


@pytest.mark.parametrize("case", CASES, ids=[f"{number}: {case['by']!r:.40}" for number, case in enumerate(CASES)])
def test_a_mistake_is_told_as_a_person_has_read_it(
    case: dict[str, Any], specs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(specs)
    assert said(case, specs) == case["says"] != []


def test_messages_are_placed_and_in_the_words_of_the_spec() -> None:
    assert len(CASES) >= 120
    lines = [line for case in CASES for line in case["says"]]
    assert [line for line in lines if not re.match(r"specs/\S+\.yaml:\d+:\d+: \S", line)] == []
    assert [line for line in lines if FOREIGN.search(line)] == []


def test_one_mistake_is_one_line() -> None:
    two = [case["by"] for case in CASES if len(case["says"]) > 1]
    # Each of these edits makes two mistakes.
    assert two == [
        by for by in two if by.startswith(("architecture: big", "sources: []", "locator: {kind: hugging-face"))
    ]
