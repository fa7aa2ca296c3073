import hashlib
import importlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from data_pipeline.documents.outcome import conclude
from specs.common.errors import UserError
from specs.loading import settings
from specs.pipeline import stage
from specs.pipeline.stage import Ledger
from specs.schema.data import Corpus, Dedup
from specs.schema.filters import Filter
from specs.schema.sources import LocalFile, Source

STAGES = {
    "ingest": ["--sources", "sources", "--out", "ingested"],
    "filter": ["--documents", "ingested", "--out", "filtered"],
    "dedup": ["--documents", "filtered", "--out", "unique"],
}


def test_the_line_tells_what_came_and_went_and_the_reasons_by_their_number(capsys: pytest.CaptureFixture[str]) -> None:
    ledger = Ledger()
    ledger.take("a", 10, 1_200)
    ledger.keep("a", 5, 1_000)
    for reason, documents in (("short", 7), ("long", 150), ("odd", 7), ("copy", 36)):
        ledger.drop(reason, "a/x.py", documents)
    conclude("filter", ledger, ["a"])
    assert capsys.readouterr().err == (
        "filter: 1,200 documents in, 1,000 out; 200 dropped: long (150), copy (36), odd (7) and 1 more reason\n"
    )


def test_every_source_has_all_its_counts() -> None:
    ledger = Ledger()
    ledger.take("a", 10)
    ledger.keep("a", 10)
    ledger.take("lost", 10)
    ledger.drop("short", "lost/x.py")
    conclude("filter", ledger, ["a", "absent"], may_be_empty=["lost"])
    nothing = {"documents_in": 0, "documents_out": 0, "bytes_in": 0, "bytes_out": 0}
    assert ledger.as_json()["sources"] == {
        "a": {"documents_in": 1, "documents_out": 1, "bytes_in": 10, "bytes_out": 10},
        "lost": nothing | {"documents_in": 1, "bytes_in": 10},
        "absent": nothing,
    }


def test_a_source_that_is_lost_is_an_error_that_names_reason_and_example() -> None:
    ledger = Ledger()
    for source in ("a", "ab"):
        ledger.take(source, 10, 2)
    ledger.keep("a", 10, 2)
    ledger.drop("short", "a/kept.py", 0)
    ledger.drop("short", "ab/x.py", 2)
    conclude("filter", ledger, ["a", "ab"], may_be_empty=["ab"])
    with pytest.raises(
        UserError, match=r"source 'ab': filter leaves none of its 2 documents: short \(2\), such as ab/x"
    ):
        conclude("filter", ledger, ["a", "ab"], may_be_empty=["a"])


def rows(path: Path, start: int, licence: str, text: str = "") -> None:
    texts = [
        text or f"def function_{n}(value):\n    return value + {n}  # {n * n}\n" for n in range(start, start + 145)
    ]
    columns = {"content": texts, "license": [licence] * 145, "path": [f"m{n}.py" for n in range(145)]}
    pq.write_table(pa.table(columns), path)


def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: dict[str, object], **sections: object) -> Corpus:
    """Two files of rows: the second, `lost`, says BSD-3-Clause of itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(settings, "ROOT", tmp_path)
    rows(tmp_path / "kept.parquet", 0, "MIT")
    rows(tmp_path / "lost.parquet", 1_000, "BSD-3-Clause")
    return section(tmp_path, monkeypatch, lost, **sections)


def section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: dict[str, object], **sections: object) -> Corpus:
    sources = []
    for name, own in (("kept", {}), ("lost", lost)):
        file = tmp_path / f"{name}.parquet"
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        locator = LocalFile(kind="file", path=file.name)
        values = {"name": name, "licence": "MIT", "format": "jsonl"} | own
        sources.append(Source(locator=locator, sha256=digest, **values))  # type: ignore[arg-type]
        (tmp_path / "sources" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "sources" / name / file.name).write_bytes(file.read_bytes())
    result = Corpus(name="c", sources=tuple(sources), **sections)  # type: ignore[arg-type]
    monkeypatch.setattr(stage, "node", lambda address, kind: result)
    return result


def run(name: str) -> Result:
    main = importlib.import_module(f"data_pipeline.{name}").main
    return CliRunner().invoke(main, ["corpora.c", *STAGES[name]])


def test_rows_of_a_licence_that_is_not_allowed_do_not_vanish_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = {"filter": Filter(licences=("MIT",))}
    corpus(tmp_path, monkeypatch, {}, **allowed)
    result = run("ingest")
    assert result.exit_code == 0 and "ingest: 290 documents in, 290 out\n" in result.stderr, result.output
    result = run("filter")
    assert result.exit_code == 2 and not (tmp_path / "filtered").exists()
    assert "filter: 290 documents in, 145 out; 145 dropped: licence BSD-3-Clause (145)" in result.stderr
    assert (
        "source 'lost': filter leaves none of its 145 documents: licence BSD-3-Clause (145), such as "
        "lost/lost.parquet#1;" in result.stderr
    )
    section(tmp_path, monkeypatch, {"may_be_empty": True}, **allowed)
    assert run("filter").exit_code == 0
    ledger = json.loads((tmp_path / "filtered" / "ledger.json").read_text("utf-8"))
    assert ledger["sources"]["lost"]["documents_in"] == 145 and ledger["sources"]["lost"]["documents_out"] == 0
    # The stages that follow have nothing of the source, and say 0.
    assert run("dedup").exit_code == 0
    ledger = json.loads((tmp_path / "unique" / "ledger.json").read_text("utf-8"))
    assert ledger["sources"]["lost"] == {"documents_in": 0, "documents_out": 0, "bytes_in": 0, "bytes_out": 0}


def test_a_source_of_nothing_but_duplicates_is_lost_to_dedup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(settings, "ROOT", tmp_path)
    for name in ("kept", "lost"):
        rows(tmp_path / f"{name}.parquet", 0, "MIT")
    section(tmp_path, monkeypatch, {})
    assert [run(name).exit_code for name in ("ingest", "filter")] == [0, 0]
    result = run("dedup")
    assert result.exit_code == 2
    assert "source 'lost': dedup leaves none of its 145 documents: exact duplicate" in result.stderr, result.stderr
    # What says how to keep them: a comparison of the source with itself alone.
    section(tmp_path, monkeypatch, {}, dedup=Dedup(apart=("lost",)))
    assert run("dedup").exit_code == 0


def test_a_source_whose_rows_are_all_of_another_language_is_lost_to_ingest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus(tmp_path, monkeypatch, {})
    columns = {"content": ["int main() { return 0; }\n"] * 9, "path": [f"m{n}.c" for n in range(9)]}
    pq.write_table(pa.table(columns), tmp_path / "lost.parquet")
    section(tmp_path, monkeypatch, {})
    result = run("ingest")
    assert result.exit_code == 2 and "source 'lost' gives no document: its 9 members" in result.stderr, result.stderr
    assert "language c" in result.stderr and "may_be_empty" in result.stderr
