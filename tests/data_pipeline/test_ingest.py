import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from data_pipeline.documents import Document, document_id
from data_pipeline.ingest import _pattern, ingest
from specs.data import Ingest
from specs.errors import UserError
from specs.sources import LocalFile, Source
from specs.stage import Ledger

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
}


def source(path: Path, **values: object) -> Source:
    return Source(
        name="s",
        locator=LocalFile(kind="file", path=path.name),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        licence="MIT",
        **{"format": "files"} | values,  # type: ignore[arg-type]
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
    documents = ingest(source(path, **values), path, limits or Ingest(), ledger)
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
        ("a.py", "python", "a = 1\nb = 2\n"),
        ("b.py", "python", "b = 1\n"),
        ("docs/guide.rst", "restructuredtext", "Guide\n=====\n"),
        ("tests/test_a.py", "python", "test = 1\n"),
    ]
    assert all(each.id == document_id(each.text) and each.licence == "MIT" for each in documents)
    assert drops == {
        "language other": ["s/LICENSE", "s/logo.png"],
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


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("**", ["a", "a/b/c.py"], []),
        ("*.py", ["a.py"], ["a/b.py", "a.pyx", "apy"]),
        ("**/*.py", ["a.py", "a/b/c.py"], ["a.txt"]),
        ("a/**", ["a/b", "a/b/c"], ["ab/c", "a"]),
        ("**/tests/**", ["tests/x", "a/tests/b/c"], ["a/mytests/x", "tests"]),
        ("a?[bc].md", ["a1b.md", "axc.md"], ["a/b.md", "a1d.md", "ab.md"]),
        ("[!a]*", ["b", "ba"], ["a", "ab"]),
        ("a.(b)+", ["a.(b)+"], ["axb"]),
    ],
)
def test_globs_read_as_people_write_them(glob: str, yes: list[str], no: list[str]) -> None:
    assert all(_pattern(glob).fullmatch(path) for path in yes)
    assert not any(_pattern(glob).fullmatch(path) for path in no)


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
    with pytest.raises(UserError, match="glob '\\[z-a\\]' is not valid"):
        run(path, include=["[z-a]"])


def test_only_the_pinned_bytes_are_read(tmp_path: Path) -> None:
    path = archive(tmp_path / "p-1.tar.gz", FILES)
    pinned = source(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"source 's': p-1\.tar\.gz is not the pinned file"):
        ingest(pinned, path, Ingest(), Ledger())
    with pytest.raises(UserError, match=r"source 's': p-1\.tar\.gz: the archive is damaged or ends early"):
        run(path)
    path.unlink()
    with pytest.raises(UserError, match="run the fetch stage again"):
        ingest(pinned, path, Ingest(), Ledger())


def test_conversations_are_read_line_by_line(tmp_path: Path) -> None:
    good = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "group": "x"}
    surrogate = {"messages": [{"role": "user", "content": "\ud800"}, {"role": "assistant", "content": "a"}]}
    lines = [json.dumps(good), "", "{", json.dumps(surrogate), json.dumps(good | {"pad": "x" * 900})]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
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
