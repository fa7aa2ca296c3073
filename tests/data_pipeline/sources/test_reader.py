"""What ingest makes of text, whatever file, row or archive holds it."""

import gzip
import json
import zipfile
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline.documents.documents import Document
from data_pipeline.ingest import ingest
from specs.common.errors import UserError
from specs.pipeline.stage import Ledger
from specs.schema.data import Ingest
from specs.schema.sources import LocalFile, Source


def run(path: Path, form: str, limits: Ingest | None = None) -> tuple[list[Document], dict[str, list[str]]]:
    """Documents, and examples of drops by reason."""
    source = Source.model_validate(
        {
            "name": "s",
            "locator": LocalFile(kind="file", path=path.name),
            "sha256": sha256(path.read_bytes()).hexdigest(),
            "licence": "MIT",
            "format": form,
        }
    )
    ledger = Ledger()
    documents = list(ingest(source, path, limits or Ingest(), ledger, path.with_suffix(".runs")))
    drops: dict[str, dict[str, list[str]]] = ledger.as_json()["drops"]  # type: ignore[assignment]
    return documents, {reason: entry["examples"] for reason, entry in drops.items()}


def test_the_same_text_has_one_id_whatever_holds_it(tmp_path: Path) -> None:
    """A file, rows of JSON Lines and of Parquet, with and without a mark and carriage returns."""
    text = "def add(a, b):\n    return a + b  # é\n"
    odd = "\ufeff" + text.replace("\n", "\r\n")
    (tmp_path / "a.py").write_bytes(odd.encode())
    (tmp_path / "b.jsonl").write_text(json.dumps({"content": odd, "path": "a.py"}) + "\n", "utf-8")
    columns = {"content": [text, odd, odd.replace("\n", "")], "path": ["a.py"] * 3}
    pq.write_table(pa.table(columns), tmp_path / "c.parquet")
    kinds = {"a.py": "files", "b.jsonl": "jsonl", "c.parquet": "jsonl"}
    found = [run(tmp_path / name, form)[0] for name, form in kinds.items()]
    assert {document.text for documents in found for document in documents} == {text}
    assert len({document.id for documents in found for document in documents}) == 1
    assert list(map(len, found)) == [1, 1, 3]
    turns = [{"role": "user", "content": "Say é.\r\n"}, {"role": "assistant", "content": "\ufeffé\r\n"}]
    (tmp_path / "d.jsonl").write_text(json.dumps({"messages": turns}), "utf-8")
    [document], _ = run(tmp_path / "d.jsonl", "conversations")
    assert "\\r" not in document.text and "\ufeff" not in document.text


@pytest.mark.parametrize("head", ["\ufeff", "\ufeff \n", " ", ""])
@pytest.mark.parametrize("ending", [".json", ".json.gz", ".json.zst"])
def test_a_mark_before_a_json_array_loses_no_row(tmp_path: Path, head: str, ending: str) -> None:
    rows = [{"content": f"x = {number}\n", "path": "a.py"} for number in range(5)]
    for name, text in (
        ("array", head + json.dumps(rows, indent=1)),
        ("lines", head + "\n".join(map(json.dumps, rows))),
    ):
        path = tmp_path / (name + ending)
        if ending == ".json.zst":
            with pa.CompressedOutputStream(str(path), "zstd") as sink:
                sink.write(text.encode())
        else:
            path.write_bytes(gzip.compress(text.encode()) if ending == ".json.gz" else text.encode())
        kept, drops = run(path, "jsonl")
        assert [document.text for document in kept] == [row["content"] for row in rows] and not drops


def test_an_encoding_is_not_guessed_line_by_line(tmp_path: Path) -> None:
    row = json.dumps({"content": "x = 1\n", "path": "a.py"})
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([row.encode(), row.encode("utf-16-be"), b'{"content": "\xe9"}']))
    kept, drops = run(tmp_path / "a.jsonl", "jsonl")
    assert len(kept) == 1 and drops == {"not a JSON object": ["s/a.jsonl#2"], "not UTF-8": ["s/a.jsonl#3"]}
    (tmp_path / "b.jsonl").write_bytes(row.encode("utf-16"))
    with pytest.raises(UserError, match=r"b.jsonl: b.jsonl is in UTF-16; convert it to UTF-8"):
        run(tmp_path / "b.jsonl", "jsonl")


def test_the_limit_of_a_document_counts_bytes(tmp_path: Path) -> None:
    texts = {"fits": "é" * 50, "long": "é" * 51, "ascii": "x" * 100, "longer": "x" * 101}
    lines = "\n".join(json.dumps({"content": text, "path": "a.py"}, ensure_ascii=False) for text in texts.values())
    (tmp_path / "a.jsonl").write_text(lines, "utf-8")
    columns = {"content": list(texts.values()), "path": ["a.py"] * 4}
    pq.write_table(pa.table(columns), tmp_path / "b.parquet")
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        for name, text in texts.items():
            archive.writestr(f"{name}.py", text)
    for name, form in (("b.parquet", "jsonl"), ("c.zip", "files")):
        kept, drops = run(tmp_path / name, form, Ingest(max_document_bytes=100))
        assert [document.size for document in kept] == [100, 100], name
        assert list(drops) == ["larger than max_document_bytes"] and len(drops["larger than max_document_bytes"]) == 2
