"""The corpus of docs/data.md, as a user would bring it."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from data_pipeline.fetch import PinnedFile, from_this_machine, write
from data_pipeline.filter import keep
from data_pipeline.ingest import ingest
from data_pipeline.pin import parse_locator, pin
from specs.loading import settings
from specs.loading.settings import ROOT
from specs.pipeline.stage import Ledger
from specs.schema.data import Corpus


def test_ten_lines_of_yaml_bring_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "data.md").read_text("utf-8").split("## Your own corpus")[1]
    block = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert block is not None and len(block[1].splitlines()) == 10
    notes = tmp_path / "data" / "notes"
    (notes / "old").mkdir(parents=True)
    text = "The notes that we have are for those who read them, and this is what they say. "
    (notes / "a.md").write_text("# Notes\n\n" + text * 5, "utf-8")
    (notes / "old" / "tool.py").write_text(
        '"""Tool."""\n\n\ndef run(argument):\n    return argument + 1\n', encoding="utf-8"
    )
    (notes / "image.png").write_bytes(b"\x89PNG")
    monkeypatch.setattr(settings, "ROOT", tmp_path)
    pinned = pin(parse_locator("data/notes"), tmp_path)
    values = YAML(typ="safe", pure=True).load(block[1].replace("0" * 64, pinned.sha256))
    values["decontaminate"]["against"] = []
    corpus = Corpus.model_validate(values)
    [source] = corpus.sources
    assert source.locator == pinned.locator
    files = [PinnedFile("source", source.name, source)]
    write(files, from_this_machine(files), tmp_path)
    found = list(ingest(source, tmp_path / source.name / source.filename, corpus.ingest, Ledger(), tmp_path / "runs"))
    kept = list(keep(found, corpus.filter, Ledger()))
    assert [(each.path, each.licence) for each in kept] == [
        ("a.md", "LicenseRef-internal"),
        ("old/tool.py", "LicenseRef-internal"),
    ]
