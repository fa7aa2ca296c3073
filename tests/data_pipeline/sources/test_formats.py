"""Each row of the tables of formats in docs/data.md: a small file in the true layout, and the documents of it."""

import bz2
import gzip
import io
import json
import lzma
import re
import tarfile
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from data_pipeline.documents.documents import Document, parse_conversation
from data_pipeline.fetching.reproducible_tar import folder_chunks
from data_pipeline.ingest import ingest
from specs.common.errors import UserError
from specs.loading.settings import ROOT
from specs.pipeline.stage import Ledger
from specs.schema.data import Ingest
from specs.schema.sources import LocalFile, Source

CODE = "def add(a, b):\n    return a + b\n"
ROWS = [{"content": f"{CODE}# {n}\n", "path": f"src/m{n}.py", "license": "MIT", "repo_name": "o/r"} for n in range(3)]
LIMITS = Ingest(languages=("python", "ruby", "rust", "java", "markdown", "text", "conversation"))


def run(path: Path, form: str, limits: Ingest = LIMITS, **values: object) -> tuple[list[Document], dict[str, Any]]:
    locator = LocalFile(kind="file", path=path.name)
    pinned = {"name": "s", "locator": locator, "sha256": sha256(path.read_bytes()).hexdigest(), "licence": "MIT"}
    source = Source.model_validate(pinned | {"format": form} | values)
    ledger = Ledger()
    documents = list(ingest(source, path, limits, ledger, path.with_suffix(".runs")))
    drops: Any = ledger.as_json()["drops"]
    return documents, {reason: entry["documents"] for reason, entry in drops.items()}


def packed(data: bytes, ending: str) -> bytes:
    match ending:
        case ".gz":
            return gzip.compress(data)
        case ".bz2":
            return bz2.compress(data)
        case ".xz":
            return lzma.compress(data)
        case ".zst":
            return pa.compress(data, "zstd", asbytes=True)  # type: ignore[no-any-return]
    return data


def tar(files: dict[str, bytes], top: str = "p-1/") -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(top + name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


FILES = {"src/a.py": CODE.encode(), "lib/b.rb": b"def add(a, b)\n  a + b\nend\n", "image.png": b"\x89PNG"}


@pytest.mark.parametrize(
    "name",
    [
        "a.tar",
        "a.tar.gz",
        "a.tgz",
        "a.tar.bz2",
        "a.tar.xz",
        "a.txz",
        "a.tar.zst",
        "serde-1.0.crate",
        "x_1.0.orig.tar.xz",
    ],
)
def test_archives(tmp_path: Path, name: str) -> None:
    endings = {".tgz": ".gz", ".crate": ".gz", ".txz": ".xz"}
    (tmp_path / name).write_bytes(packed(tar(FILES), endings.get(Path(name).suffix, Path(name).suffix)))
    documents, drops = run(tmp_path / name, "files")
    assert [(each.path, each.language) for each in documents] == [("lib/b.rb", "ruby"), ("src/a.py", "python")]
    assert drops == {"language other": 1}
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:700] if name == "a.tar" else whole[:-20])
    with pytest.raises(UserError, match="damaged or ends early"):
        run(tmp_path / name, "files")


@pytest.mark.parametrize("name", ["a.zip", "a-1.0-py3-none-any.whl"])
def test_zips_and_wheels(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        for path, data in FILES.items():
            archive.writestr(path, data)
    assert {each.path for each in run(tmp_path / name, "files")[0]} == {"lib/b.rb", "src/a.py"}


def test_gems(tmp_path: Path) -> None:
    inner = gzip.compress(tar(FILES, top=""))
    (tmp_path / "a-1.0.gem").write_bytes(
        tar({"metadata.gz": b"", "data.tar.gz": inner, "checksums.yaml.gz": b""}, top="")
    )
    assert {each.path for each in run(tmp_path / "a-1.0.gem", "files")[0]} == {"lib/b.rb", "src/a.py"}
    (tmp_path / "a-1.0.gem").write_bytes(tar({"metadata.gz": b""}, top=""))
    with pytest.raises(UserError, match=r"a-1.0.gem: the archive is damaged .*no data.tar.gz"):
        run(tmp_path / "a-1.0.gem", "files")


@pytest.mark.parametrize("ending", ["", ".gz", ".bz2", ".xz", ".zst"])
def test_single_files(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"a.py{ending}").write_bytes(packed(CODE.encode(), ending))
    [document], _ = run(tmp_path / f"a.py{ending}", "files")
    assert (document.path, document.text) == ("a.py", CODE)
    limits = Ingest(max_archive_bytes=20)
    with pytest.raises(UserError, match="20 bytes" if ending else "gives no document|20 bytes"):
        run(tmp_path / f"a.py{ending}", "files", limits)


@pytest.mark.parametrize("ending", ["", ".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("kind", [".jsonl", ".ndjson", ".json"])
@pytest.mark.parametrize("inside", [False, True])
def test_rows_of_json(tmp_path: Path, ending: str, kind: str, inside: bool) -> None:
    text = json.dumps(ROWS) if kind == ".json" else "\n".join(map(json.dumps, ROWS))
    path = tmp_path / f"train{kind}{ending}"
    path.write_bytes(packed(text.encode(), ending))
    if inside:
        data = tar({path.name: path.read_bytes(), "other.txt": b"x"})
        path = tmp_path / "all.tar"
        path.write_bytes(data)
    documents, drops = run(path, "jsonl")
    assert [(each.text, each.language, each.repository, each.file) for each in documents] == [
        (row["content"], "python", "o/r", row["path"]) for row in ROWS
    ]
    assert drops == ({"neither JSON, Parquet nor Arrow": 1} if inside else {})


def as_parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), path)


def as_arrow_file(path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def as_arrow_stream(path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def as_feather(path: Path) -> None:
    feather.write_feather(pa.Table.from_pylist(ROWS), str(path), compression="zstd")


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("train.parquet", as_parquet),
        ("train.arrow", as_arrow_file),
        ("data-00000-of-00001.arrow", as_arrow_stream),
        ("train.feather", as_feather),
    ],
)
def test_columns_on_disk(tmp_path: Path, name: str, write: Callable[[Path], None]) -> None:
    path = tmp_path / name
    write(path)
    whole, drops = run(path, "jsonl")
    assert [each.text for each in whole] == [row["content"] for row in ROWS] and not drops
    # In an archive too: a folder, or a dataset as `save_to_disk` leaves it.
    (tmp_path / "set.tar").write_bytes(
        tar({name: path.read_bytes(), "dataset_info.json": b"{\n}", "state.json": b"{}"})
    )
    documents, drops = run(tmp_path / "set.tar", "jsonl")
    assert [each.id for each in documents] == [each.id for each in whole] and drops == {"about the dataset": 2}
    for each in (path, tmp_path / "set.tar"):
        with pytest.raises(UserError, match=r"max_archive_bytes = 50\b|50 bytes"):
            run(each, "jsonl", Ingest(max_archive_bytes=50))
    path.write_bytes(path.read_bytes()[:-50])
    if write is not as_arrow_stream:
        with pytest.raises(UserError, match="damaged"):
            run(path, "jsonl")


def test_a_snapshot_of_the_hub_is_read_through_its_links(tmp_path: Path) -> None:
    home = tmp_path / "datasets--o--d"
    snapshot = home / "snapshots" / ("1" * 40) / "data"
    snapshot.mkdir(parents=True)
    (home / "blobs").mkdir()
    as_parquet(home / "blobs" / ("2" * 64))
    (snapshot / "train.parquet").symlink_to(f"../../../blobs/{'2' * 64}")
    (snapshot / "passwd.parquet").symlink_to("/etc/passwd")
    (snapshot / "loop.parquet").symlink_to("loop.parquet")
    path = tmp_path / "set.tar"
    path.write_bytes(b"".join(folder_chunks(snapshot.parent, lambda length: None)))
    documents, drops = run(path, "jsonl")
    assert [each.text for each in documents] == [row["content"] for row in ROWS] and drops == {"link": 2}


def test_shards_of_webdataset(tmp_path: Path) -> None:
    members = {f"{n:05d}.{ending}": data for n in range(3) for ending, data in (("txt", b"Text.\n"), ("json", b"{}"))}
    (tmp_path / "shard-000.tar").write_bytes(tar(members, top=""))
    documents, _ = run(tmp_path / "shard-000.tar", "files", include=["*.txt"])
    assert [each.path for each in documents] == ["00000.txt", "00001.txt", "00002.txt"]


NOTEBOOK = {
    "nbformat": 4,
    "metadata": {"kernelspec": {"language": "python"}, "language_info": {"name": "python"}},
    "cells": [
        {"cell_type": "markdown", "source": ["# Title\n", "\n", "Some text."]},
        {
            "cell_type": "code",
            "source": ["%matplotlib inline\n", "import os\n", "!ls"],
            "outputs": [{"data": {"image/png": "iVBO"}}],
        },
        {"cell_type": "code", "source": "%%bash\nls"},
        {"cell_type": "code", "source": []},
        {"cell_type": "code", "source": "x = 1 % 2"},
    ],
}
SCRIPT = """\
# %% [markdown]
# # Title
#
# Some text.

# %%
# %matplotlib inline
import os
# !ls

# %%
# %%bash
# ls

# %%
x = 1 % 2
"""


def test_notebooks_become_scripts(tmp_path: Path) -> None:
    other = NOTEBOOK | {"metadata": {"kernelspec": {"language": "prolog"}}}
    files = {"a.ipynb": json.dumps(NOTEBOOK), "b.ipynb": json.dumps(other), "c.ipynb": "{", "d.ipynb": "[]"}
    (tmp_path / "a.tar").write_bytes(tar({name: text.encode() for name, text in files.items()}))
    [document], drops = run(tmp_path / "a.tar", "files")
    assert (document.path, document.language, document.text) == ("a.ipynb", "python", SCRIPT)
    compile(document.text, "a.ipynb", "exec")
    assert drops == {"notebook that makes no script": 3}
    # As they are, where a spec asks for notebooks.
    [document], _ = run(tmp_path / "a.tar", "files", Ingest(languages=("notebook",)), include=["a.ipynb"])
    assert json.loads(document.text) == NOTEBOOK


TREE = {
    "message_tree_id": "1",
    "prompt": {
        "role": "prompter",
        "text": "Hello?",
        "replies": [
            {"role": "assistant", "text": "Worse.", "rank": 1, "replies": []},
            {
                "role": "assistant",
                "text": "Better.",
                "rank": 0,
                "replies": [{"role": "prompter", "text": "Thanks.", "replies": []}],
            },
        ],
    },
}
TURNS = [("user", "Hello?"), ("assistant", "Better.")]


@pytest.mark.parametrize(
    ("layout", "form", "row", "expected"),
    [
        (
            "The Stack v1",
            "jsonl",
            {
                "content": CODE,
                "lang": "Python",
                "ext": "py",
                "max_stars_repo_path": "a/b.py",
                "max_stars_repo_name": "o/r",
                "max_stars_repo_licenses": ["MIT", "Apache-2.0"],
            },
            ("python", "MIT AND Apache-2.0", "o/r", "a/b.py"),
        ),
        (
            "StarCoder",
            "jsonl",
            {"content": CODE, "max_stars_repo_path": "a/b.py", "max_stars_repo_name": "o/r", "id": "7"},
            ("python", "MIT", "o/r", "a/b.py"),
        ),
        (
            "CodeParrot",
            "jsonl",
            {"repo_name": "o/r", "path": "b.py", "copies": "2", "size": "31", "content": CODE, "license": "apache-2.0"},
            ("python", "Apache-2.0", "o/r", "b.py"),
        ),
        (
            "the Pile",
            "jsonl",
            {"text": CODE, "meta": {"pile_set_name": "Github", "repo_name": "o/r", "file_name": "b.py"}},
            ("python", "MIT", "o/r", "b.py"),
        ),
        (
            "OpenCoder",
            "jsonl",
            {"text": CODE, "lang": "python", "programming_language": "Python", "repo_name": "o/r", "file": "b"},
            ("python", "MIT", "o/r", ""),
        ),
        (
            "CodeSearchNet",
            "codesearchnet",
            {"repo": "o/r", "path": "b.py", "original_string": CODE, "language": "python", "docstring": "Add."},
            ("python", "MIT", "o/r", "b.py"),
        ),
        (
            "OpenAI",
            "conversations",
            {"messages": [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Better."}]},
            TURNS,
        ),
        (
            "ShareGPT",
            "conversations",
            {"id": "x", "conversations": [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Better."}]},
            TURNS,
        ),
        ("Alpaca", "instructions", {"instruction": "Hello?", "input": "", "output": "Better.", "text": "all"}, TURNS),
        (
            "Dolly",
            "instructions",
            {"instruction": "Hello?", "context": "", "response": "Better.", "category": "qa"},
            TURNS,
        ),
        ("OASST", "conversations", TREE, TURNS),
    ],
)
def test_layouts_known_by_name(tmp_path: Path, layout: str, form: str, row: dict[str, Any], expected: Any) -> None:
    assert layout in (ROOT / "docs" / "data.md").read_text("utf-8")
    (tmp_path / "a.jsonl").write_text(json.dumps(row), "utf-8")
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "b.parquet")
    for name in ("a.jsonl", "b.parquet"):
        [document], drops = run(tmp_path / name, form)
        assert not drops
        if document.language == "conversation":
            assert [(turn.role, turn.content) for turn in parse_conversation(document.text)] == expected
        else:
            assert (document.language, document.licence, document.repository, document.file) == expected
            assert document.text == CODE


def test_columns_of_any_layout(tmp_path: Path) -> None:
    rows = [
        {"body": CODE, "where": {"file": "a.py", "repo": "o/r"}, "terms": ["MIT"], "kind": "Python", "text": "other"},
        {"body": "class A {}\n", "where": {"file": "A.java"}, "terms": None, "kind": None, "text": "other"},
        {"body": None, "where": None, "terms": None, "kind": None, "text": "other"},
    ]
    columns = {"text": "body", "path": "where.file", "licence": "terms", "language": "kind", "repository": "where.repo"}
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    for name in ("a.jsonl", "b.parquet"):
        documents, drops = run(tmp_path / name, "jsonl", licence="Apache-2.0", columns=columns)
        assert [(each.text, each.language, each.licence, each.repository, each.file) for each in documents] == [
            (CODE, "python", "MIT", "o/r", "a.py"),
            ("class A {}\n", "java", "Apache-2.0", "", "A.java"),
        ]
        assert drops == {"no text under `text` or `content`": 1}
    (tmp_path / "c.jsonl").write_text(json.dumps({"q": "Hello?", "a": "Better."}), "utf-8")
    [document], _ = run(tmp_path / "c.jsonl", "instructions", columns={"instruction": "q", "response": "a"})
    assert [(turn.role, turn.content) for turn in parse_conversation(document.text)] == TURNS
    with pytest.raises(ValidationError, match="takes no columns"):
        run(tmp_path / "c.jsonl", "files", columns=columns)


def test_the_page_names_every_ending_that_is_read() -> None:
    page = (ROOT / "docs" / "data.md").read_text("utf-8")
    named = set(re.findall(r"`(\.[a-z0-9.]+)`", page))
    for ending in (".tar", ".gz", ".bz2", ".xz", ".zst", ".zip", ".whl", ".crate", ".gem", ".ipynb"):
        assert ending in named, ending
    for ending in (".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".feather"):
        assert ending in named, ending
