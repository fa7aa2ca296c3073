"""JSON Lines as they are, cut short, hostile; and the last line of a file of any length."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specs.common.errors import UserError
from specs.common.json_lines import last_line, parse_json, parse_lines, read_lines

VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=4)


@given(values=st.lists(VALUES), ascii_only=st.booleans())
def test_whatever_json_writes_is_read_back(values: list[object], ascii_only: bool) -> None:
    """Also text that holds U+2028, U+0085 and other characters at which str.splitlines ends a line."""
    lines = [json.dumps(value, ensure_ascii=ascii_only).encode() for value in values]
    assert list(parse_lines(lines, "file", "again")) == list(enumerate(values, 1))


def test_separators_inside_text_end_no_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes('{"a": "one\u2028two\x85three"}\n'.encode())
    assert list(read_lines(tmp_path / "file", "again")) == [(1, {"a": "one\u2028two\x85three"})]


@pytest.mark.parametrize("bad", [b"{", b"\xff", b"[" * 100_000, b"nul", b"1 2"])
def test_a_line_that_is_no_json_is_named(bad: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1\n\n" + bad + b"\n4\n")
    with pytest.raises(UserError, match=r"file:3: not valid JSON \(.*\); run it again$"):
        list(read_lines(tmp_path / "file", "run it again", skip_blank=True))
    with pytest.raises(UserError, match="file:2: not valid JSON"):
        list(read_lines(tmp_path / "file", "run it again"))
    with pytest.raises(ValueError):
        parse_json(bad)


def test_a_line_that_a_kill_cut_short_is_left_out_where_that_is_expected(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b'{"step": 1}\n{"st')
    assert list(read_lines(tmp_path / "file", "again", cut_short=True)) == [(1, {"step": 1})]
    with pytest.raises(UserError, match=":2: not valid JSON"):
        list(read_lines(tmp_path / "file", "again"))


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent: cannot be read \(No such file or directory\); make it$"):
        list(read_lines(tmp_path / "absent", "make it"))


@given(
    lines=st.lists(st.binary(max_size=70_000).map(lambda line: line.replace(b"\n", b"")), max_size=4),
    torn=st.binary(max_size=9),
)
def test_the_last_line_is_the_last_one_with_an_end(
    lines: list[bytes], torn: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("lines") / "file"
    path.write_bytes(b"".join(line + b"\n" for line in lines) + torn.replace(b"\n", b""))
    assert last_line(path) == (lines[-1] if lines else None)


def test_the_last_line_of_a_long_file_is_read_from_its_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(1 << 36)  # a hole of 64 GiB: reading it whole would not end
        file.seek(0, 2)
        file.write(b'\n{"step": 7}\n{"st')
    assert last_line(path) == b'{"step": 7}'


@pytest.mark.parametrize("length", [65_534, 65_535, 65_536, 65_537, 200_000])
def test_a_last_line_longer_than_what_is_read_at_once_is_whole(length: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"first\n" + b"x" * length + b'\n{"st')
    assert last_line(tmp_path / "file") == b"x" * length
