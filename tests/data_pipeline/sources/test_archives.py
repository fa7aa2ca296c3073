import gzip
import io
import random
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from data_pipeline.sources.archives import members
from specs.common.errors import UserError
from specs.schema.data import Ingest

FILES = {"p-1/a.py": b"a = 1\n", "p-1/docs/b.rst": b"text\n" * 50, "p-1/empty.txt": b""}


def tar(path: Path, files: dict[str, bytes], odd: tuple[tarfile.TarInfo, ...] = (), mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in odd:
            archive.addfile(info)
    return path


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def read(path: Path, **limits: int) -> tuple[dict[str, bytes | None], list[tuple[str, str]]]:
    refused: list[tuple[str, str]] = []
    section = Ingest(**limits)  # type: ignore[arg-type]
    found = members(path, section, lambda reason, name: refused.append((reason, name)))
    return {member.path: member.read(section.max_document_bytes) for member in found}, refused


def test_every_container_gives_its_members(tmp_path: Path) -> None:
    inner = {name.removeprefix("p-1/"): data for name, data in FILES.items()}
    for path in (
        tar(tmp_path / "p-1.tar.gz", FILES),
        tar(tmp_path / "p-1.tgz", FILES),
        tar(tmp_path / "p-1.tar", FILES, mode="w"),
        zipped(tmp_path / "p-1.zip", FILES),
    ):
        assert read(path) == (inner, []), path
    assert read(zipped(tmp_path / "p-1.whl", FILES)) == (FILES, [])
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"{}\n"))
    assert read(tmp_path / "a.jsonl.gz") == ({"a.jsonl": b"{}\n"}, [])
    (tmp_path / "a.txt").write_bytes(b"x")
    assert read(tmp_path / "a.txt") == ({"a.txt": b"x"}, [])


def test_only_a_folder_around_everything_is_dropped(tmp_path: Path) -> None:
    files = FILES | {"README.md": b"outside"}
    assert set(read(tar(tmp_path / "a.tar.gz", files))[0]) == set(files)


@pytest.mark.parametrize("name", ["../x.py", "/etc/x.py", "p-1/../../x.py", "..", "C:/x.py", "p-1\\x.py"])
def test_a_path_that_leaves_the_archive_is_refused(tmp_path: Path, name: str) -> None:
    for path in (tar(tmp_path / "a.tar.gz", FILES | {name: b"x"}), zipped(tmp_path / "a.zip", FILES | {name: b"x"})):
        found, refused = read(path)
        assert set(found) == {"a.py", "docs/b.rst", "empty.txt"}
        assert refused == [("path leaves the archive", name)]


def test_odd_members_are_refused_with_a_reason(tmp_path: Path) -> None:
    odd = (
        special("p-1/link", tarfile.SYMTYPE, "/etc/passwd"),
        special("p-1/hard", tarfile.LNKTYPE, "p-1/a.py"),
        special("p-1/device", tarfile.CHRTYPE),
        special("p-1/pipe", tarfile.FIFOTYPE),
        special("p-1/folder", tarfile.DIRTYPE),
        special("p-1/bell\a.py", tarfile.REGTYPE),
        special("p-1/latin\udce9.py", tarfile.REGTYPE),
        special("p-1/a.py", tarfile.REGTYPE),
    )
    found, refused = read(tar(tmp_path / "a.tar.gz", FILES, odd))
    assert len(found) == 3
    assert refused == [
        ("link", "p-1/link"),
        ("link", "p-1/hard"),
        ("not a plain file", "p-1/device"),
        ("not a plain file", "p-1/pipe"),
        ("path is not printable UTF-8", "p-1/bell\a.py"),
        ("path is not printable UTF-8", "p-1/latin\\udce9.py"),
        ("path occurs twice", "p-1/a.py"),
    ]


def test_odd_members_of_a_zip_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("p-1/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    pipe = zipfile.ZipInfo("p-1/pipe")
    pipe.external_attr = (stat.S_IFIFO | 0o600) << 16
    path = zipped(tmp_path / "a.zip", FILES)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr(pipe, "")
        archive.writestr("p-1/secret", "x")
    data = bytearray(path.read_bytes())
    entry = data.rfind(b"PK\x01\x02")
    data[entry + 8] |= 1
    path.write_bytes(data)
    found, refused = read(path)
    assert len(found) == 3
    assert refused == [("link", "p-1/link"), ("not a plain file", "p-1/pipe"), ("encrypted", "p-1/secret")]


def test_bombs_meet_the_limits(tmp_path: Path) -> None:
    zeros = {"p-1/zeros.txt": bytes(3_000_000)}
    for path in (tar(tmp_path / "a.tar.gz", zeros), zipped(tmp_path / "a.zip", zeros)):
        assert path.stat().st_size < 10_000
        with pytest.raises(UserError, match="max_archive_bytes = 1,000,000"):
            read(path, max_archive_bytes=1_000_000)
        assert read(path, max_document_bytes=1_000) == ({"zeros.txt": None}, [])
    for path in (tar(tmp_path / "many.tar.gz", FILES), zipped(tmp_path / "many.zip", FILES)):
        with pytest.raises(UserError, match="max_members = 2"):
            read(path, max_members=2)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(bytes(3_000_000)))
    with pytest.raises(UserError, match="unpacks to more than 1,000,000 bytes"):
        read(tmp_path / "a.txt.gz", max_archive_bytes=1_000_000, max_document_bytes=2_000_000)


def test_a_header_cannot_fill_the_memory(tmp_path: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 2**33
    (tmp_path / "a.tar").write_bytes(header.tobuf() + bytes(1024))
    with pytest.raises(UserError, match="damaged"):
        read(tmp_path / "a.tar")


@pytest.mark.parametrize("ending", ["tar.gz", "zip"])
def test_a_truncated_archive_is_never_taken_for_a_whole_one(tmp_path: Path, ending: str) -> None:
    noise = {f"p-1/{n}.txt": random.Random(n).randbytes(700) for n in range(5)}
    path = tmp_path / f"a.{ending}"
    (tar if ending == "tar.gz" else zipped)(path, noise)
    whole = path.read_bytes()
    assert len(read(path)[0]) == 5
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=rf"a\.{ending}: the archive is damaged or ends early"):
            read(path)
    path.write_bytes(whole[:-1])
    with pytest.raises(UserError, match="damaged"):
        read(path)


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", FILES, mode="w")
    data = bytearray(path.read_bytes())
    data[2 * 512 + 148] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="no header at byte"):
        read(path)


def test_lines_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"short\n" + b"x" * 5_000 + b"\nlast")
    found = members(tmp_path / "a.jsonl", Ingest(), lambda reason, name: None)
    assert list(next(found).lines(10)) == [b"short", None, b"last"]
    found.close()
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "absent.tar.gz")


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_archives_one_after_the_other_are_read_like_one(tmp_path: Path, ending: str) -> None:
    mode = "w:gz" if ending == ".tar.gz" else "w"
    one = tar(tmp_path / f"one{ending}", {"a.py": b"a"}, mode=mode).read_bytes()
    two = tar(tmp_path / f"two{ending}", {"b.py": b"b", "c.py": b"c" * 20_000}, mode=mode).read_bytes()
    both = tmp_path / f"both{ending}"
    both.write_bytes(one + two + one)
    members, refused = read(both)
    assert {name.rsplit("/", 1)[-1] for name in members} == {"a.py", "b.py", "c.py"}
    assert [reason for reason, _ in refused] == ["path occurs twice"]
    if ending == ".tar":
        # Zeros between them, of any number, and what is no archive behind them.
        both.write_bytes(one + bytes(3 * 512) + two)
        assert len(read(both)[0]) == 3
        both.write_bytes(one + b"not a header" * 60)
        with pytest.raises(UserError, match="damaged"):
            read(both)
        both.write_bytes(one + two[:300])
        with pytest.raises(UserError, match="damaged"):
            read(both)
    with pytest.raises(UserError, match="max_members"):
        both.write_bytes(one + two)
        read(both, max_members=2)


def test_limits_are_inclusive_to_the_byte(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"a.py": b"x" * 100, "b.py": b"y" * 20})
    assert len(read(path, max_archive_bytes=120, max_members=2)[0]) == 2
    with pytest.raises(UserError, match="max_archive_bytes"):
        read(path, max_archive_bytes=119)
    with pytest.raises(UserError, match="max_members"):
        read(path, max_members=1)
    for limit, data in ((100, b"x" * 100), (99, None)):
        found = members(zipped(tmp_path / "b.zip", {"a.py": b"x" * 100}), Ingest(), lambda reason, name: None)
        assert next(found).read(limit) == data
