import gzip
import hashlib
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from data_pipeline import fetch
from data_pipeline.documents.documents import Document
from data_pipeline.ingest import ingest
from data_pipeline.pin import pin
from data_pipeline.sources.stack_v2 import MISSING, UNASKED
from specs.common.errors import UserError
from specs.common.files import sha256_file
from specs.loading import settings
from specs.pipeline import stage
from specs.pipeline.stage import Ledger
from specs.schema.data import Corpus, Ingest
from specs.schema.sources import LocalFile, LocalFolder, Pinned, Source

TEXTS = {
    "a.py": ("UTF-8", "print('grüße')\r\nx = 1\n"),
    "b.py": ("ISO-8859-1", "name = 'é'\n"),
    "c.py": ("GB18030", "# 注释\ny = 2\n"),
    "lib/d.go": ("UTF-8", "package main\n"),
    "e.md": ("UTF-16", "# Title\n"),
}
"""By path: encoding and text, as Software Heritage holds them."""
LIMITS = Ingest(languages=("python", "markdown"), max_document_bytes=5_000)


def blob_id(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


CONTENTS = {path: text.encode(encoding) for path, (encoding, text) in TEXTS.items()}


def row(path: str, content: bytes, **more: object) -> dict[str, Any]:
    """A row with every column of the published files, in their order."""
    encoding = TEXTS[path][0] if path in TEXTS else "UTF-8"
    moment = datetime(2023, 9, 6)
    return {
        "blob_id": blob_id(content),
        "directory_id": "1" * 40,
        "path": f"/{path}",
        "content_id": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(),
        "detected_licenses": ["MIT"],
        "license_type": "permissive",
        "repo_name": "someone/something",
        "snapshot_id": "2" * 40,
        "revision_id": "3" * 40,
        "branch_name": "refs/heads/main",
        "visit_date": moment,
        "revision_date": moment,
        "committer_date": moment,
        "github_id": None,
        "star_events_count": 7,
        "fork_events_count": 0,
        "gha_license_id": None,
        "gha_event_created_at": None,
        "gha_created_at": None,
        "gha_language": None,
        "src_encoding": encoding,
        "language": {".go": "Go", ".md": "Markdown"}.get(Path(path).suffix, "Python"),
        "is_vendor": False,
        "is_generated": False,
        "length_bytes": len(content),
        "extension": path.rsplit(".", 1)[-1],
    } | more


ROWS = [row(path, content) for path, content in CONTENTS.items()]


def flat(path: Path, rows: list[dict[str, Any]]) -> Path:
    """`the-stack-v2` and `-dedup`: a row for each file."""
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def grouped(path: Path, rows: list[dict[str, Any]]) -> Path:
    """`the-stack-v2-train-*-ids`: a row for each repository, with its files."""
    inner = ("blob_id", "path", "content_id", "language", "length_bytes", "detected_licenses", "src_encoding")
    files = [{name: each[name] for name in inner} for each in rows]
    repositories = [{"repo_name": "a/b", "files": files[:2]}, {"repo_name": "c/d", "files": files[2:]}]
    pq.write_table(pa.Table.from_pylist(repositories), path)
    return path


def as_folder(folder: Path, contents: dict[str, bytes]) -> Pinned:
    """As `aws s3 cp` leaves them: gzipped, without an ending."""
    (folder / "blobs" / "content").mkdir(parents=True)
    for name, content in contents.items():
        (folder / "blobs" / "content" / name).write_bytes(gzip.compress(content))
    return pin(LocalFolder(kind="folder", path="blobs"), folder)


def as_parquet(folder: Path, contents: dict[str, bytes], column: pa.DataType) -> Pinned:
    path = folder / "blobs.parquet"
    values = [TEXTS[name][1] for name in TEXTS] if column == pa.string() else list(contents.values())
    pq.write_table(pa.table({"blob_id": list(contents), "content": pa.array(values, column)}), path)
    return Pinned(locator=LocalFile(kind="file", path=path.name), sha256=sha256_file(path))


def ingested(
    folder: Path, rows: Path, contents: Pinned, monkeypatch: pytest.MonkeyPatch, **values: object
) -> tuple[list[Document], dict[str, list[str]]]:
    """What fetch, then ingest, make of rows and contents below the project root; and the ledger's drops."""
    source = Source(
        name="s",
        locator=LocalFile(kind="file", path=rows.name),
        sha256=sha256_file(rows),
        licence="NOASSERTION",
        format="stack-v2",
        contents=contents,
        **values,  # type: ignore[arg-type]
    )
    corpus = Corpus(name="c", sources=(source,))
    monkeypatch.setattr(stage, "node", lambda address, kind: corpus)
    arguments = ["corpora.c", "--out", str(folder / "sources"), "--benchmarks-out", str(folder / "benchmarks")]
    done = CliRunner().invoke(fetch.main, arguments)
    assert done.exit_code == 0, done.output
    ledger = Ledger()
    path = folder / "sources" / "s" / rows.name
    documents = list(ingest(source, path, LIMITS, ledger, folder / "runs"))
    told = ledger.as_json()
    dropped = sum(entry["documents"] for entry in told["drops"].values())
    assert told["documents_in"] == told["documents_out"] + dropped
    return documents, {reason: entry["examples"] for reason, entry in told["drops"].items()}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(settings, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize("layout", [flat, grouped])
@pytest.mark.parametrize("kind", ["folder", "binary", "text"])
def test_rows_are_joined_with_their_contents(
    project: Path, monkeypatch: pytest.MonkeyPatch, layout: Callable[..., Path], kind: str
) -> None:
    contents = {blob_id(content): content for content in CONTENTS.values()}
    given = (
        as_folder(project, contents)
        if kind == "folder"
        else as_parquet(project, contents, pa.binary() if kind == "binary" else pa.string())
    )
    rows = layout(project / "train-00000-of-00001.parquet", ROWS)
    documents, drops = ingested(project, rows, given, monkeypatch)
    places = ["1", "2", "3", "4", "5"] if layout is flat else ["1.1", "1.2", "2.1", "2.2", "2.3"]
    names = dict(zip(TEXTS, (f"train-00000-of-00001.parquet#{place}" for place in places), strict=True))
    assert {(each.path, each.language, each.licence, each.text) for each in documents} == {
        (names["a.py"], "python", "MIT", "print('grüße')\nx = 1\n"),
        (names["b.py"], "python", "MIT", TEXTS["b.py"][1]),
        (names["c.py"], "python", "MIT", TEXTS["c.py"][1]),
        (names["e.md"], "markdown", "MIT", TEXTS["e.md"][1]),
    }
    unasked = blob_id(CONTENTS["lib/d.go"])
    assert drops == {"language go": [f"s/{names['lib/d.go']}"], UNASKED: [f"s/contents/{unasked}"]}


def test_whatever_cannot_be_joined_has_a_reason(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    latin = "é".encode("latin-1")
    odd = {
        "missing": row("m.py", b"missing = 1\n"),
        "other": row("o.py", b"other = 1\n"),
        "damaged": row("d.py", b"damaged = 1\n"),
        "large": row("l.py", b"x" * 6_000),
        "latin": row("u.py", latin),
        "codec": row("k.py", b"codec = 1\n", src_encoding="EBCDIC-0"),
        "nameless": row("n.py", b"n", blob_id=None),
        "unlicensed": row("f.py", b"free = 1\n", detected_licenses=[], license_type="no_license"),
        "twice": row("g.py", b"free = 1\n", detected_licenses=["Apache-2.0"]),
    }
    rows = flat(project / "rows.parquet", list(odd.values()))
    folder = project / "blobs" / "content"
    given = as_folder(
        project,
        {
            str(odd["large"]["blob_id"]): b"x" * 6_000,
            str(odd["latin"]["blob_id"]): latin,
            str(odd["codec"]["blob_id"]): b"codec = 1\n",
            str(odd["twice"]["blob_id"]): b"free = 1\n",
            str(odd["other"]["blob_id"]): b"not the same\n",
        },
    )
    # Not every tool leaves them gzipped, and a download may end early.
    (folder / str(odd["codec"]["blob_id"])).write_bytes(b"codec = 1\n")
    (folder / str(odd["damaged"]["blob_id"])).write_bytes(gzip.compress(b"damaged = 1\n")[:-9])
    given = pin(given.locator, project)
    documents, drops = ingested(project, rows, given, monkeypatch)
    place = {name: f"s/rows.parquet#{number}" for number, name in enumerate(odd, start=1)}
    assert drops == {
        MISSING: [place["missing"]],
        "contents are not those of the blob": [place["other"]],
        "contents are damaged": [place["damaged"]],
        "larger than max_document_bytes": [place["large"]],
        "contents are not in their src_encoding": sorted([place["latin"], place["codec"]], key=drops_order(odd)),
        "no `blob_id`": [place["nameless"]],
    }
    # Two rows may name one file; each has a licence of its own.
    assert [(each.path, each.licence) for each in documents] == [
        ("rows.parquet#8", "NOASSERTION"),
        ("rows.parquet#9", "Apache-2.0"),
    ]


def drops_order(odd: dict[str, dict[str, Any]]) -> Callable[[str], str]:
    """Contents come in the order of their names."""
    ids = {f"s/rows.parquet#{number}": str(each["blob_id"]) for number, each in enumerate(odd.values(), start=1)}
    return lambda place: ids[place]


def test_without_any_contents_the_source_says_so(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = as_folder(project, {"0" * 40: b"unrelated\n"})
    rows = flat(project / "rows.parquet", ROWS)
    with pytest.raises(UserError, match=r"source 's' gives no document: .*contents are missing"):
        ingested(project, rows, given, monkeypatch)


def test_contents_are_held_to_their_digest(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = as_parquet(project, {blob_id(content): content for content in CONTENTS.values()}, pa.binary())
    rows = flat(project / "rows.parquet", ROWS)
    ingested(project, rows, given, monkeypatch)
    fetched = project / "sources" / "s" / "contents" / "blobs.parquet"
    fetched.write_bytes(fetched.read_bytes() + b"x")
    source = stage.node("corpora.c", Corpus).sources[0]
    with pytest.raises(UserError, match=r"'s': blobs\.parquet is not the pinned file; run the fetch stage again"):
        list(ingest(source, project / "sources" / "s" / rows.name, LIMITS, Ledger(), project / "runs"))


def test_contents_belong_to_rows_that_hold_ids() -> None:
    file = {"locator": {"kind": "file", "path": "a.jsonl"}, "sha256": "1" * 64}
    source = {**file, "name": "s", "licence": "MIT"}
    with pytest.raises(ValidationError, match="format 'stack-v2' needs contents"):
        Source.model_validate({**source, "format": "stack-v2"})
    with pytest.raises(ValidationError, match="format 'jsonl' takes no contents"):
        Source.model_validate({**source, "format": "jsonl", "contents": file})
    assert json.loads(Source.model_validate({**source, "format": "jsonl"}).model_dump_json())["contents"] is None
