import hashlib
from pathlib import Path

import pytest

from data_pipeline.fetching.content_store import Mirrors, Store, WrongBytesError, copy_out, read_chunks
from specs.common.errors import UserError

DATA = b"pinned bytes"
SHA = hashlib.sha256(DATA).hexdigest()


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_what_is_added_is_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.find(SHA) is None
    assert store.add(SHA, [DATA[:5], DATA[5:]], len(DATA)) == store.path(SHA)
    assert store.find(SHA) == store.path(SHA) == tmp_path / "sha256" / SHA[:2] / SHA


def test_wrong_bytes_leave_no_trace(tmp_path: Path) -> None:
    with pytest.raises(WrongBytesError, match=f"its sha256 is {hashlib.sha256(b'x').hexdigest()}"):
        Store(tmp_path).add(SHA, [b"x"])
    assert files(tmp_path) == []


def test_an_overlong_stream_is_refused_before_it_ends(tmp_path: Path) -> None:
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield b"x" * 10

    with pytest.raises(WrongBytesError, match="longer than the 25 bytes"):
        Store(tmp_path).add(SHA, endless(), 25)
    assert len(taken) == 3
    assert files(tmp_path) == []


def test_an_interrupted_stream_leaves_no_trace(tmp_path: Path) -> None:
    def broken():
        yield DATA[:5]
        raise ConnectionError

    with pytest.raises(ConnectionError):
        Store(tmp_path).add(SHA, broken())
    assert files(tmp_path) == []


def test_a_damaged_entry_is_reported_and_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path)
    store.add(SHA, [DATA]).write_bytes(b"pinned bytez")
    assert store.find(SHA) is None
    assert "is damaged" in capsys.readouterr().err
    assert files(tmp_path) == []


@pytest.mark.parametrize("size", [None, len(DATA)])
def test_mirrors_are_searched_by_digest_whatever_the_name(tmp_path: Path, size: int | None) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two" / "deep").mkdir(parents=True)
    (tmp_path / "one" / "file.tar").write_bytes(b"other bytes!")
    (tmp_path / "two" / "deep" / "renamed").write_bytes(DATA)
    mirrors = Mirrors([tmp_path / "one", tmp_path / "two"])
    assert mirrors.find(SHA, "file.tar", size) == tmp_path / "two" / "deep" / "renamed"
    assert mirrors.find("0" * 64, "file.tar", size) is None
    if size is not None:
        assert mirrors.find(SHA, "file.tar", size + 1) is None


def test_a_mirror_that_is_no_folder_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        Mirrors([tmp_path / "absent"]).find(SHA, "x")


def test_a_copy_never_shares_its_bytes_with_the_store(tmp_path: Path) -> None:
    stored = Store(tmp_path / "store").add(SHA, [DATA])
    copy_out(stored, tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_ino != stored.stat().st_ino
    (tmp_path / "a" / "b").write_bytes(b"changed")
    assert b"".join(read_chunks(stored)) == DATA
