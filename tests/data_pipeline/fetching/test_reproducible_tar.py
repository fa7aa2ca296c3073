import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from data_pipeline.fetching.reproducible_tar import UnreadableError, commit_chunks, folder_chunks
from data_pipeline.sources.archives import members
from specs.schema.data import Ingest

FILES = {"a.py": b"a = 1\n", "docs/ü.md": b"x" * 700, "docs/z/empty.txt": b"", "B.txt": b"crlf\r\n$Id$\n"}


def quiet(length: int) -> None:
    pass


def git(folder: Path, *arguments: str) -> str:
    names = {f"GIT_{who}_{what}": "x@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], env=os.environ | names, capture_output=True, check=True, text=True
    )
    return done.stdout.strip()


def fill(folder: Path) -> Path:
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "link").symlink_to("../../etc/passwd")
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository whose attributes would change what a checkout or `git archive` gives."""
    folder = fill(tmp_path / "tool")
    (folder / ".gitattributes").write_text("B.txt text eol=lf ident\na.py export-ignore\n", "utf-8")
    git(tmp_path, "init", "--quiet", "tool")
    git(folder, "-c", "core.autocrlf=false", "add", ".")
    git(folder, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},vendored")
    git(folder, "commit", "--quiet", "-m", "first")
    (folder / "a.py").write_text("changed\n", "utf-8")
    git(folder, "add", "a.py")
    git(folder, "commit", "--quiet", "-m", "second")
    return folder


def unpack(data: bytes, path: Path) -> tuple[dict[str, bytes | None], list[tuple[str, str]]]:
    path.write_bytes(data)
    refused: list[tuple[str, str]] = []
    found = members(path, Ingest(), lambda reason, name: refused.append((reason, name)))
    return {member.path: member.read(1_000) for member in found}, refused


def test_a_folder_is_the_same_bytes_whatever_its_times_and_modes(tmp_path: Path) -> None:
    one, two = fill(tmp_path / "one" / "notes"), fill(tmp_path / "two" / "other-name")
    os.utime(two / "a.py", (1, 1))
    (two / "a.py").chmod(0o755)
    (two / "docs" / "nothing").mkdir()
    first, second = (b"".join(folder_chunks(folder, quiet)) for folder in (one, two))
    assert first == second
    assert unpack(first, tmp_path / "notes.tar") == (FILES, [("link", "files/link")])
    (two / "a.py").write_bytes(b"a = 2\n")
    assert b"".join(folder_chunks(two, quiet)) != first


def test_a_commit_is_what_git_stores_however_it_is_had(repository: Path, tmp_path: Path) -> None:
    first, head = git(repository, "rev-parse", "HEAD~1"), git(repository, "rev-parse", "HEAD")
    git(repository, "bundle", "create", "--quiet", str(tmp_path / "tool.bundle"), "HEAD", "--all")
    for commit, text in ((first, b"a = 1\n"), (head, b"changed\n")):
        counted: list[int] = []
        clone = b"".join(commit_chunks(str(repository), commit, counted.append))
        assert clone == b"".join(commit_chunks(str(tmp_path / "tool.bundle"), commit, quiet))
        # Neither the name of the clone nor where it lies is part of it.
        elsewhere = tmp_path / "else" / commit[:4]
        shutil.copytree(repository, elsewhere, symlinks=True)
        assert clone == b"".join(commit_chunks(str(elsewhere), commit, quiet))
        found, refused = unpack(clone, tmp_path / "tool.tar")
        # The blob of B.txt is what `git add` made of it; nothing on the way out changes it.
        blob = git(repository, "cat-file", "-p", f"{commit}:B.txt").encode() + b"\n"
        assert found.pop(".gitattributes")
        assert found == FILES | {"a.py": text, "B.txt": blob}
        assert refused == [("link", "files/link"), ("link", "files/vendored")]
        assert (
            sum(counted)
            == sum(map(len, (text, blob, FILES["docs/ü.md"]))) + (repository / ".gitattributes").stat().st_size
        )


def test_what_cannot_be_had_says_why(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match=f"no commit {'0' * 40}"):
        list(commit_chunks(str(repository), "0" * 40, quiet))
    (tmp_path / "broken.bundle").write_bytes(b"no bundle")
    with pytest.raises(UnreadableError, match="git fetch fails: "):
        list(commit_chunks(str(tmp_path / "broken.bundle"), "0" * 40, quiet))
    with pytest.raises(UnreadableError, match="no folder absent"):
        folder_chunks(tmp_path / "absent", quiet)


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    folder = fill(tmp_path / "notes")
    chunks = folder_chunks(folder, quiet)
    next(chunks)
    with pytest.raises(UnreadableError, match="changed while it was read"):
        for path in ("B.txt", "a.py", "docs/ü.md"):
            (folder / path).write_bytes(b"other, and longer than it was\n" * 40)
        list(chunks)


def test_names_that_are_not_unicode_survive(tmp_path: Path) -> None:
    (tmp_path / "n").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "n") + b"/\xff.py")).write_bytes(b"x")
    data = b"".join(folder_chunks(tmp_path / "n", quiet))
    with tarfile.open(fileobj=BytesIO(data)) as archive:
        assert archive.getnames() == ["files/\udcff.py"]
    assert unpack(data, tmp_path / "n.tar") == ({}, [("path is not printable UTF-8", "files/\\udcff.py")])


@pytest.mark.parametrize(
    "locale", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONUTF8": "1"}]
)
def test_the_bytes_do_not_depend_on_the_locale(tmp_path: Path, locale: dict[str, str]) -> None:
    folder = fill(tmp_path / "notes")
    (folder / "lié").symlink_to("privé")
    code = (
        "import sys, hashlib; from pathlib import Path;"
        "from data_pipeline.fetching.reproducible_tar import folder_chunks;"
        "print(hashlib.sha256(b''.join(folder_chunks(Path(sys.argv[1]), lambda n: None))).hexdigest())"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    told = subprocess.run(
        [sys.executable, "-c", code, str(folder)], env=environment | locale, capture_output=True, check=True
    )
    assert told.stdout.decode().strip() == hashlib.sha256(b"".join(folder_chunks(folder, quiet))).hexdigest()
