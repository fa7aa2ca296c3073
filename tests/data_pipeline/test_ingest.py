import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from data_pipeline import ingest as module
from data_pipeline.documents import external_sort
from data_pipeline.documents.documents import Document, document_id, read_documents
from data_pipeline.ingest import ingest
from specs.common.errors import UserError
from specs.common.files import tree_digests
from specs.loading import settings
from specs.pipeline import stage
from specs.pipeline.stage import Ledger
from specs.schema.data import Corpus, Ingest
from specs.schema.sources import LocalFile, Source

FILES = {
    "b.py": b"b = 1\n",
    "a.py": b"\xef\xbb\xbfa = 1\r\nb = 2\r",
    "docs/guide.rst": b"Guide\n=====\n",
    "LICENSE": b"licence",
    "logo.png": b"\x89PNG",
    "latin.py": b"name = '\xe9'\n",
    "nul.txt": b"a\0b",
    "junk.md": b"\xff\0",
    "blank.txt": b" \n\n",
    "large.txt": b"x" * 2_000,
    "tests/test_a.py": b"test = 1\n",
    "bin/tool": b"#!/usr/bin/env python3\ntool = 1\n",
    "bin/core": b"\x7fELF\xff\0",
}


def source(path: Path, **values: object) -> Source:
    return Source(
        locator=LocalFile(kind="file", path=path.name),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        licence="MIT",
        **{"name": "s", "format": "files"} | values,  # type: ignore[arg-type]
    )


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as target:
        for name, data in files.items():
            info = tarfile.TarInfo(f"p-1/{name}")
            info.size = len(data)
            target.addfile(info, io.BytesIO(data))
    return path


def run(path: Path, limits: Ingest | None = None, **values: object) -> tuple[list[Document], dict]:
    ledger = Ledger()
    documents = list(ingest(source(path, **values), path, limits or Ingest(), ledger, path.with_suffix(".runs")))
    counts = ledger.as_json()
    # What came in is what went out and what was dropped: nothing is lost without a reason.
    dropped = sum(entry["documents"] for entry in counts["drops"].values())
    assert counts["documents_in"] == counts["documents_out"] + dropped
    assert counts["documents_out"] == len(documents)
    assert counts["bytes_out"] == sum(document.size for document in documents)
    return documents, {reason: entry["examples"] for reason, entry in counts["drops"].items()}


def test_files_become_documents_and_the_rest_has_a_reason(tmp_path: Path) -> None:
    documents, drops = run(archive(tmp_path / "p-1.tar.gz", FILES), Ingest(max_document_bytes=1_000))
    assert [(each.path, each.language, each.text) for each in documents] == [
        ("LICENSE", "text", "licence"),
        ("a.py", "python", "a = 1\nb = 2\n"),
        ("b.py", "python", "b = 1\n"),
        ("bin/tool", "python", "#!/usr/bin/env python3\ntool = 1\n"),
        ("docs/guide.rst", "restructuredtext", "Guide\n=====\n"),
        ("tests/test_a.py", "python", "test = 1\n"),
    ]
    assert all(each.id == document_id(each.text) and each.licence == "MIT" for each in documents)
    assert drops == {
        "language other": ["s/logo.png", "s/bin/core"],
        "not UTF-8": ["s/latin.py"],
        "binary": ["s/nul.txt", "s/junk.md"],
        "empty": ["s/blank.txt"],
        "larger than max_document_bytes": ["s/large.txt"],
    }


def test_globs_choose_members(tmp_path: Path) -> None:
    path = archive(tmp_path / "p-1.tar.gz", FILES)
    documents, drops = run(path, include=["**/*.py"], exclude=["tests/**", "latin.py"])
    assert [each.path for each in documents] == ["a.py", "b.py"]
    assert set(drops) == {"left out by include or exclude"}


def test_a_limit_does_not_depend_on_the_order_of_members(tmp_path: Path) -> None:
    files = {f"{number}.txt": f"text {number}".encode() for number in range(40)}
    first, _ = run(archive(tmp_path / "a.tar.gz", files), limit=7)
    second, drops = run(archive(tmp_path / "b.tar.gz", dict(reversed(files.items()))), limit=7)
    assert first == second and len(first) == 7
    assert {each.id for each in first} == set(sorted(document_id(text.decode()) for text in files.values())[:7])
    assert set(drops) == {"over the limit of the source"}


def test_a_source_that_gives_nothing_is_an_error(tmp_path: Path) -> None:
    path = archive(tmp_path / "p-1.tar.gz", FILES)
    with pytest.raises(UserError, match=r"source 's' gives no document.*left out by include or exclude"):
        run(path, include=["srcc/**"])
    documents, drops = run(path, include=["srcc/**"], may_be_empty=True)
    assert not documents and set(drops) == {"left out by include or exclude"}
    with pytest.raises(UserError, match="glob '\\[z-a\\]' is not valid"):
        run(path, include=["[z-a]"])


def test_only_the_pinned_bytes_are_read(tmp_path: Path) -> None:
    path = archive(tmp_path / "p-1.tar.gz", FILES)
    pinned = source(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"source 's': p-1\.tar\.gz is not the pinned file"):
        list(ingest(pinned, path, Ingest(), Ledger(), tmp_path / "runs"))
    with pytest.raises(UserError, match=r"source 's': p-1\.tar\.gz: the archive is damaged or ends early"):
        run(path)
    path.unlink()
    with pytest.raises(UserError, match="run the fetch stage again"):
        list(ingest(pinned, path, Ingest(), Ledger(), tmp_path / "runs"))


def test_conversations_are_read_line_by_line(tmp_path: Path) -> None:
    good = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "group": "x"}
    surrogate = {"messages": [{"role": "user", "content": "\ud800"}, {"role": "assistant", "content": "a"}]}
    lines = [json.dumps(good), "", "{", json.dumps(surrogate), json.dumps(good | {"pad": "x" * 900})]
    (tmp_path / "c.jsonl").write_text("\n".join(lines), "utf-8")
    documents, drops = run(tmp_path / "c.jsonl", Ingest(max_document_bytes=500), format="conversations")
    [document] = documents
    assert (document.path, document.language) == ("c.jsonl#1", "conversation")
    assert document.text == '{"role": "user", "content": "q"}\n{"role": "assistant", "content": "a"}\n'
    assert drops == {
        "not a JSON object": ["s/c.jsonl#3"],
        "not UTF-8": ["s/c.jsonl#4"],
        "larger than max_document_bytes": ["s/c.jsonl#5"],
    }


def test_docstring_pairs_become_conversations(tmp_path: Path) -> None:
    code = b'x = 1\n\ndef double(x):\n    """Return twice the number."""\n    return 2 * x\n\ndef f():\n    """No."""\n'
    path = archive(tmp_path / "p-1.tar.gz", {"a.py": code, "bad.py": b"def", "a.md": b"# x"})
    [document], drops = run(path, format="docstring-pairs")
    assert (document.path, document.language) == ("a.py#3", "conversation")
    assert drops == {
        "docstring is too short": ["s/a.py#7"],
        "Python that does not parse": ["s/bad.py"],
        "not Python": ["s/a.md"],
    }


def test_the_limit_is_chosen_by_content_and_the_rest_counted(tmp_path: Path) -> None:
    files = {f"{number:03d}.py": f"x = {number}\n".encode() for number in range(200)}
    ids = sorted((document_id(text.decode()), path) for path, text in files.items())
    for limit in (1, 7, 150, 197, 200, 300):
        # Little is kept in mind, so that the choice is made while reading.
        path = archive(tmp_path / f"{limit}.tar.gz", files)
        documents, drops = run(path, limit=limit)
        assert [each.path for each in documents] == sorted(name for _, name in ids[:limit])
        examples = [f"s/{name}" for _, name in ids[limit:][:5]]
        assert drops == ({"over the limit of the source": examples} if examples else {})


class Killed(Exception):
    pass


def test_the_stage_goes_on_where_it_was_killed_and_its_bytes_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sources that were finished are not read again; partitions, workers and memory change nothing."""
    monkeypatch.setattr(settings, "ROOT", tmp_path)
    sources = []
    for name, count in (("second", 3), ("first", 40), ("third", 11)):
        (tmp_path / "sources" / name).mkdir(parents=True)
        files = {f"{name}/{number:02d}.py": f"x = '{name}{number}'\n".encode() * 40 for number in range(count)}
        path = archive(tmp_path / "sources" / name / f"{name}.tar.gz", files | {"odd.png": b"1"})
        sources.append(source(path, name=name, limit=30))
    corpus = Corpus(name="c", sources=tuple(sources))
    monkeypatch.setattr(stage, "node", lambda address, kind: corpus)
    read: list[str] = []
    original = module.ingest

    def counting(source: Source, *rest: object) -> Iterator[Document]:
        read.append(source.name)
        if read[-2:] == ["first", killed]:
            raise Killed
        yield from original(source, *rest)  # type: ignore[arg-type]

    def ingested(out: str, *options: str) -> Result:
        arguments = ["corpora.c", "--sources", str(tmp_path / "sources"), "--out", str(tmp_path / out), *options]
        return CliRunner().invoke(module.main, arguments)

    monkeypatch.setattr(module, "ingest", counting)
    killed = "third"
    assert isinstance(ingested("out", "--workers", "1").exception, Killed)
    assert not (tmp_path / "out").exists()
    killed = "nobody"
    assert ingested("out", "--workers", "1").exit_code == 0
    # The largest comes first; it was finished before the kill.
    assert read == ["first", "third", "third", "second"]
    expected = tree_digests(tmp_path / "out")
    assert [each.source for each in read_documents(tmp_path / "out")] == ["second"] * 3 + ["first"] * 30 + [
        "third"
    ] * 11
    ledger = json.loads((tmp_path / "out" / "ledger.json").read_text("utf-8"))
    assert ledger["documents_in"] == 57 and ledger["documents_out"] == 44
    monkeypatch.setattr(external_sort, "RUN_BYTES", 1_000)
    monkeypatch.setattr(module, "GROUP_BYTES", 3_000)
    assert ingested("small", "--partitions", "7", "--workers", "1").exit_code == 0
    assert tree_digests(tmp_path / "small") == expected
