"""Hostile and broken input: none crashes a stage, none passes silently."""

import gzip
import importlib
import io
import json
import random
import tarfile
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from data_pipeline.documents.documents import Document, read_documents, write_documents
from data_pipeline.fetching.content_store import copy_out
from data_pipeline.filter import keep
from data_pipeline.ingest import ingest
from specs.common.errors import UserError
from specs.loading.settings import ROOT
from specs.pipeline import stage
from specs.pipeline.stage import Ledger
from specs.schema.data import Augment, Corpus, Ingest
from specs.schema.filters import Filter
from specs.schema.sources import LocalFile, Source

GOOD = b'def area(width, height):\n    """Area of a rectangle."""\n    return width * height\n'
LONG = 100_000_000


def source(path: Path, form: str = "files") -> Source:
    locator = LocalFile(kind="file", path=path.name)
    digest = sha256(path.read_bytes()).hexdigest()
    return Source.model_validate({"name": "s", "locator": locator, "sha256": digest, "licence": "MIT", "format": form})


def run(path: Path, form: str = "files", **limits: int) -> tuple[list[Document], dict[str, list[str]]]:
    """Documents, and examples of drops by reason; every candidate is accounted for."""
    ledger = Ledger()
    documents = list(ingest(source(path, form), path, Ingest(**limits), ledger, path.with_suffix(".runs")))
    counts = ledger.as_json()
    drops = counts["drops"]
    assert isinstance(drops, dict)
    assert counts["documents_in"] == len(documents) + sum(entry["documents"] for entry in drops.values())
    return documents, {reason: entry["examples"] for reason, entry in drops.items()}


def tar(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(f"top/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("top/link.py")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return path


def stages_after_ingest(documents: list[Document], folder: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Paths that the stages behind the filter leave of documents which the filter would have dropped."""
    basics = ROOT / "evaluation" / "basics.jsonl"
    pinned = {
        "locator": {"kind": "file", "path": basics.name},
        "sha256": sha256(basics.read_bytes()).hexdigest(),
    }
    shares = sorted(Augment.model_fields.keys() - {"seed", "fill_in_the_middle"})
    always = {**dict.fromkeys(shares, 1.0), "fill_in_the_middle": {"rate": 1.0}}
    corpus = Corpus.model_validate(
        {
            "name": "c",
            "sources": [{"name": "s", **pinned, "licence": "MIT", "format": "files"}],
            "decontaminate": {"against": [{"name": "b", "problem_schema": "mbpp", "licence": "MIT", "source": pinned}]},
            "augment": always,
        }
    )
    monkeypatch.setattr(stage, "node", lambda address, kind: corpus)
    write_documents(folder / "ingested", documents, ["s"])
    copy_out(basics, folder / "benchmarks" / "b" / basics.name)
    at = {name: str(folder / name) for name in ("ingested", "benchmarks", "filtered", "unique", "clean", "documents")}
    for name, arguments in {
        "filter": ["--documents", at["ingested"], "--out", at["filtered"]],
        "dedup": ["--documents", at["ingested"], "--out", at["unique"]],
        "decontaminate": ["--documents", at["unique"], "--benchmarks", at["benchmarks"], "--out", at["clean"]],
        "augment": ["--documents", at["clean"], "--out", at["documents"]],
    }.items():
        done = CliRunner().invoke(importlib.import_module(f"data_pipeline.{name}").main, ["corpora.c", *arguments])
        assert done.exit_code == 0, (name, done.output, done.exception)
    return {each.path for each in read_documents(folder / "documents")}


def test_a_line_of_100_megabytes_is_refused_or_survived(tmp_path: Path) -> None:
    path = tmp_path / "top.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, data in (("long.py", b"x" * LONG), ("good.py", GOOD)):
            info = tarfile.TarInfo(f"top/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    documents, drops = run(path)
    assert [each.path for each in documents] == ["good.py"]
    assert drops == {"larger than max_document_bytes": ["s/long.py"]}
    # The control: let in, it is the filter that drops it, with a reason of its own.
    documents, drops = run(path, max_document_bytes=2 * LONG)
    assert [each.path for each in documents] == ["good.py", "long.py"] and not drops
    ledger = Ledger()
    assert [each.path for each in keep(documents, Filter(), ledger)] == ["good.py"]
    assert list(ledger.as_json()["drops"]) == ["larger than max_bytes"]  # type: ignore[call-overload]


@pytest.mark.parametrize("form", ["jsonl", "conversations"])
@pytest.mark.parametrize("start", [b"", b"["])
def test_a_row_of_100_megabytes_is_refused(tmp_path: Path, form: str, start: bytes) -> None:
    rows = {
        "jsonl": {"text": "a text that is good enough"},
        "conversations": {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        "instructions": {"instruction": "q", "output": "a"},
        "codesearchnet": {"language": "python", "original_string": GOOD.decode()},
    }
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(start + json.dumps(rows[form]).encode() + (b"," if start else b"\n"))
        file.write(b'{"text": "' + b"x" * LONG + b'"}' + (b"]" if start else b"\n"))
    if start:
        with pytest.raises(UserError, match=r"element 2 of the JSON array is damaged, or larger than max_document"):
            run(path, form)
    else:
        documents, drops = run(path, form)
        assert len(documents) == 1 and drops == {"larger than max_document_bytes": ["s/a.jsonl#2"]}


def odd_texts() -> dict[str, bytes]:
    rng = random.Random(5)
    quotes = b'"""\\' * 50_000
    return {
        "good.py": GOOD,
        "empty.py": b"",
        "blank.py": b"\n\n \t\n",
        "latin.py": b"name = '\xe9'\n",
        "nul.py": b"a = 1\0\n",
        "surrogate.py": b"\xed\xa0\x80",
        "cut.py": "é".encode()[:1],
        "quotes.py": quotes,
        "brackets.py": b"(" * 100_000,
        "deep.py": b"x = " + b"[" * 5_000 + b"]" * 5_000 + b"\n",
        "nested.py": b"\n".join(b" " * depth + b"if x:" for depth in range(300)) + b"\n",
        "minus.py": b"x = " + b"-" * 20_000 + b"1\n",
        "lines.py": b"\n" * 50_000 + b"x = 1\n",
        "escapes.py": b"x = '" + b"\\" * 99_999 + b"\n",
        "separators.py": "x = '\u2028\u2029\x85\x0b\x0c'\n".encode() * 50,
        "marks.md": "\u202e\u0301\ufeff \U0001f468\u200d\U0001f469\u200d\U0001f467 ".encode() * 300,
        "random.txt": bytes(rng.choice(b"abcdef (){}[]'\"#\n\\") for _ in range(100_000)),
        "at.txt": b"a@" * 20_000,
        "dots.txt": b"1." * 20_000,
        "keys.txt": b"-----BEGIN RSA PRIVATE KEY-----" * 5_000,
        "hex.c": b"0x" * 100_000,
    }


def test_odd_texts_are_refused_or_survive_every_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents, drops = run(tar(tmp_path / "top.tar.gz", odd_texts()), max_document_bytes=2_000_000)
    assert drops == {
        "empty": ["s/empty.py", "s/blank.py"],
        "not UTF-8": ["s/latin.py", "s/surrogate.py", "s/cut.py"],
        "binary": ["s/nul.py"],
        "link": ["s/top/link.py"],
        "language c": ["s/hex.c"],
    }
    assert len(documents) == len(odd_texts()) - 7
    left = stages_after_ingest(documents, tmp_path, monkeypatch)
    assert left == {each.path for each in documents}


def pack_tar(folder: Path) -> tuple[Path, str]:
    return tar(folder / "a.tar", {"a.py": GOOD, "b.py": GOOD + b"# b\n"}, "w"), "files"


def pack_tar_gz(folder: Path) -> tuple[Path, str]:
    return tar(folder / "a.tar.gz", {"a.py": GOOD, "b.py": GOOD + b"# b\n"}), "files"


def pack_zip(folder: Path) -> tuple[Path, str]:
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a.py", "b.py"):
            archive.writestr(f"top/{name}", GOOD + name.encode())
    return folder / "a.zip", "files"


def pack_jsonl_gz(folder: Path) -> tuple[Path, str]:
    data = b"".join(json.dumps({"text": f"text {number} that is good"}).encode() + b"\n" for number in range(50))
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(data))
    return folder / "a.jsonl.gz", "jsonl"


def pack_jsonl_zst(folder: Path) -> tuple[Path, str]:
    data = b"".join(json.dumps({"text": f"text {number} that is good"}).encode() + b"\n" for number in range(50))
    (folder / "a.jsonl.zst").write_bytes(pa.compress(data, "zstd", asbytes=True))
    return folder / "a.jsonl.zst", "jsonl"


def pack_parquet(folder: Path) -> tuple[Path, str]:
    table = pa.table({"content": [f"x_{number} = {number}\n" * 9 for number in range(50)], "path": ["a.py"] * 50})
    pq.write_table(table, folder / "a.parquet", write_page_checksum=True)
    return folder / "a.parquet", "jsonl"


PACKERS = [pack_tar, pack_tar_gz, pack_zip, pack_jsonl_gz, pack_jsonl_zst, pack_parquet]


@pytest.mark.parametrize("pack", PACKERS)
def test_a_flipped_bit_is_an_error_a_refusal_or_another_document(
    pack: Callable[[Path], tuple[Path, str]], tmp_path: Path
) -> None:
    path, form = pack(tmp_path)
    whole, rng = path.read_bytes(), random.Random(1)
    intact, _ = run(path, form)
    errors = 0
    for place in sorted(rng.sample(range(len(whole) * 8), 300)):
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(data)
        try:
            run(path, form)
        except UserError as error:
            errors += 1
            assert "source 's'" in str(error)
    assert errors and intact
    # As pinned bytes, every one of them is an error.
    path.write_bytes(whole)
    pinned = source(path, form)
    path.write_bytes(data)
    with pytest.raises(UserError, match="is not the pinned file"):
        list(ingest(pinned, path, Ingest(), Ledger(), tmp_path / "runs"))


@pytest.mark.parametrize("pack", PACKERS)
def test_a_truncated_file_is_always_an_error(pack: Callable[[Path], tuple[Path, str]], tmp_path: Path) -> None:
    path, form = pack(tmp_path)
    whole = path.read_bytes()
    # A tar ends with a kilobyte of zeros or more, and zeros after it: what is cut there holds nothing.
    end = len(whole.rstrip(b"\0")) if form == "files" and path.suffix == ".tar" else len(whole)
    for length in sorted({0, 1, 10, *range(0, end, max(1, end // 60)), end - 1}):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"source 's'"):
            run(path, form)


def test_bombs_of_rows_meet_the_limits(tmp_path: Path) -> None:
    row = json.dumps({"text": "a" * 1_000}).encode() + b"\n"
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(row * 3_000))
    (tmp_path / "a.jsonl.zst").write_bytes(pa.compress(row * 3_000, "zstd", asbytes=True))
    pq.write_table(pa.table({"text": ["a" * 1_000] * 3_000}), tmp_path / "a.parquet", use_dictionary=False)
    for name in ("a.jsonl.gz", "a.jsonl.zst", "a.parquet"):
        assert (tmp_path / name).stat().st_size < 200_000
        assert len(run(tmp_path / name, "jsonl")[0]) == 3_000
        with pytest.raises(UserError, match=r"unpacks to more than .*1,000,000"):
            run(tmp_path / name, "jsonl", max_archive_bytes=1_000_000)
