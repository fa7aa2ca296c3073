import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from data_pipeline import card as module
from data_pipeline.card import STAGES, main
from data_pipeline.documents.documents import Document, document_id, write_documents
from specs.common.files import tree_digests
from specs.pipeline import stage
from specs.schema.data import Benchmark, Corpus, Decontaminate
from specs.schema.sources import LocalFile, Pinned, Source

PINNED = Pinned(locator=LocalFile(kind="file", path="a.tar"), sha256="1" * 64)
CORPUS = Corpus(
    name="c",
    sources=(Source(**PINNED.model_dump(), name="s", licence="MIT", format="files"),),
    decontaminate=Decontaminate(against=(Benchmark(name="b", problem_schema="mbpp", source=PINNED, licence="MIT"),)),
)
TEXTS = {"a.py": ("python", "MIT", "x = 1\n"), "b.md": ("markdown", "Apache-2.0", "text | with a bar\n")}


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished corpus of two documents, of which one of three was dropped."""
    monkeypatch.setattr(stage, "node", lambda address, kind: CORPUS)
    documents = [
        Document(document_id(text), "s", path, licence, language, text, "quotes" if path == "a.py" else "")
        for path, (language, licence, text) in TEXTS.items()
    ]
    ledger = stage.Ledger()
    for each in documents:
        ledger.take("s", each.size)
        ledger.keep("s", each.size)
    for name in STAGES:
        (tmp_path / "corpus" / name).mkdir(parents=True)
        if name == "filtered":
            ledger.state("redacted", {"documents": 1, "emails": 7, "addresses": 0, "secrets": 2})
            ledger.drop("smaller than | min_bytes", "s/`odd`.py")
        if name == "ingested":
            conflict = {"MIT, but GPL-3.0-only in its header": {"documents": 4, "examples": ["x.c"]}}
            ledger.state("licences", {"s": {"from": {"source": 3}, "conflicts": conflict}})
        if name == "decontaminated":
            ledger.state("matches", [{"document": "s/x.py"}])
        (tmp_path / "corpus" / name / "ledger.json").write_text(json.dumps(ledger.as_json()), "utf-8")
    write_documents(tmp_path / "corpus" / "documents", documents, ["s"])
    return tmp_path / "corpus"


def run(corpus: Path) -> Path:
    done = CliRunner().invoke(main, ["corpora.c", "--corpus", str(corpus), "--out", str(corpus / "card")])
    assert done.exit_code == 0, done.output
    return corpus / "card"


@pytest.mark.filterwarnings("ignore")
def test_croissant_is_valid_and_leads_to_the_documents(corpus: Path, caplog: pytest.LogCaptureFixture) -> None:
    import mlcroissant

    path = run(corpus) / "croissant.json"
    with caplog.at_level(logging.ERROR):
        dataset = mlcroissant.Dataset(jsonld=str(path))
    assert not dataset.metadata.issues.errors, dataset.metadata.issues.errors
    rows = [
        {key.rsplit("/", 1)[-1]: value.decode() for key, value in row.items()}
        for row in dataset.records("documents-00000")
    ]
    assert [(row["path"], row["language"], row["licence"], row["text"]) for row in rows] == [
        (path, *values) for path, values in TEXTS.items()
    ]
    # The control: what is not valid is not accepted.
    broken: dict[str, Any] = json.loads(path.read_text("utf-8"))
    del broken["distribution"][0]["contentUrl"]
    path.write_text(json.dumps(broken), "utf-8")
    with pytest.raises(mlcroissant.ValidationError):
        mlcroissant.Dataset(jsonld=str(path))


def test_the_card_says_what_the_ledgers_say(corpus: Path) -> None:
    text = (run(corpus) / "README.md").read_text("utf-8")
    header = YAML(typ="safe", pure=True).load(text.split("---")[1])
    assert header["size_categories"] == ["n<1K"] and header["pretty_name"] == "c"
    for line in (
        "2 documents of 1 pinned sources in 2 languages",
        "| s | a.tar | `1111111111111111...` | MIT | files | 2 | 2 |",
        "| filtered | smaller than \\| min_bytes | 1 | `s/'odd'.py` |",
        "| markdown | 1 |",
        "| Apache-2.0 | 1 |",
        "| s | MIT, but GPL-3.0-only in its header | 4 | `x.c` |",
        "Replaced in 1 documents: 7 e-mail addresses, 0 network addresses, 2 secrets.",
        "Cleaned of b: 1 documents dropped",
        "1 documents were rewritten",
    ):
        assert line in text, line


def test_the_card_counts_documents_whose_middle_comes_last(corpus: Path) -> None:
    marks = {"a.py": "quotes+fim-psm@1-3", "b.md": "fim-spm@0-4", "c.md": "indent"}
    texts = TEXTS | {"c.md": ("markdown", "MIT", "more\n")}
    documents = [
        Document(document_id(text), "s", path, licence, language, text, marks[path])
        for path, (language, licence, text) in texts.items()
    ]
    write_documents(corpus / "documents", documents, ["s"])
    text = (run(corpus) / "README.md").read_text("utf-8")
    assert "2 documents were rewritten" in text
    assert "2 are to be written with their middle last: 1 prefix first, 1 suffix first." in text


def test_the_same_corpus_gives_the_same_bytes(corpus: Path) -> None:
    first = tree_digests(run(corpus))
    shutil.rmtree(corpus / "card")
    assert tree_digests(run(corpus)) == first


def test_a_missing_ledger_is_one_line(corpus: Path) -> None:
    (corpus / "filtered" / "ledger.json").unlink()
    done = CliRunner().invoke(main, ["corpora.c", "--corpus", str(corpus), "--out", str(corpus / "card")])
    assert done.exit_code == 2 and "filtered/ledger.json: cannot read the ledger" in done.output
    assert not (corpus / "card").exists() and module.STAGES == STAGES
