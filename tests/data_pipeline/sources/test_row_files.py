import gzip
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.sources import row_files as module
from data_pipeline.sources.archives import Member, members
from data_pipeline.sources.row_files import rows
from specs.common.errors import UserError
from specs.schema.data import Ingest

LIMITS = Ingest(max_document_bytes=100, max_archive_bytes=10**6)


def member(path: str, data: bytes, file: Path | None = None) -> Member:
    return Member(path, 0, "x.zip", io.BytesIO(data), file)


def read(path: str, data: bytes, limits: Ingest = LIMITS) -> list[tuple[int, Any]]:
    return list(rows(member(path, data), limits, ("text",)))


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.zst", "json.gz"])
def test_compressed_members_are_unpacked_within_limits(ending: str) -> None:
    data = b"".join(b'{"n": %d}\n' % number for number in range(5_000)) + b"y" * 1_000 + b"\n7\n\n[1]"
    pack = {"jsonl": bytes, "json.gz": gzip.compress, "jsonl.gz": gzip.compress}
    packed = pack.get(ending, lambda raw: pa.compress(raw, "zstd", asbytes=True))(data)
    expected = [(number + 1, {"n": number}) for number in range(5_000)]
    odd = [(5_001, "larger than max_document_bytes"), (5_002, "not a JSON object"), (5_004, "not a JSON object")]
    assert read(f"a.{ending}", packed) == expected + odd
    if ending != "jsonl":
        with pytest.raises(UserError, match=r"x\.zip: unpacks to more than 9,999 bytes"):
            read(f"a.{ending}", packed, Ingest(max_document_bytes=100, max_archive_bytes=9_999))
        for part in (len(packed) // 2, len(packed) - 1):
            with pytest.raises(UserError, match=r"x\.zip: the archive is damaged"):
                read(f"a.{ending}", packed[:part])


def test_a_gzip_member_of_a_zip_is_read_in_place(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "python.zip", "w") as archive:
        archive.writestr("python/train_0.jsonl.gz", gzip.compress(b'{"a": 1}\n'))
    [found] = members(tmp_path / "python.zip", LIMITS, lambda reason, path: None)
    with pytest.raises(StopIteration), zipfile.ZipFile(tmp_path / "python.zip") as archive:
        with archive.open("python/train_0.jsonl.gz") as file:
            reading = rows(Member(found.path, 0, "python.zip", file), LIMITS, ())
            assert next(reading) == (1, {"a": 1})
            next(reading)


VALUES = st.dictionaries(st.text(max_size=3), st.one_of(st.text(max_size=9), st.integers(), st.none()), max_size=3)


@given(st.lists(st.one_of(VALUES, st.integers(), st.text(max_size=5))), st.sampled_from([None, 2]), st.integers(1, 40))
def test_a_json_array_gives_its_elements(elements: list[object], indent: int | None, chunk: int) -> None:
    data = json.dumps(elements, indent=indent, ensure_ascii=False).encode() + b"\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", chunk)
        found = read("a.json", data)
    expected = [element if isinstance(element, dict) else "not a JSON object" for element in elements]
    assert found == list(enumerate(expected, start=1))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'[{"a": 1}, {"a": ', "ends inside element 2"),
        (b'[{"a": 1}', "ends inside element 1"),
        (b'[{"a": \xff}]', "damaged or ends inside element 1"),
        (b'[{"a": 1}] {"b": 2}', "text follows the JSON array"),
        (
            b"[" + b'{"a": "' + b"x" * 300,
            "element 1 of the JSON array is damaged, or larger than max_document_bytes = 100",
        ),
        (b'[{"a": nope' + b" " * 300 + b"}]", "element 1 of the JSON array is damaged"),
    ],
)
def test_a_broken_array_is_an_error(data: bytes, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 50)
    with pytest.raises(UserError, match=message):
        read("a.json", data)


def test_a_large_element_is_reported_and_the_rest_is_read() -> None:
    assert read("a.json", json.dumps([{"a": "x" * 120}, {"b": 1}]).encode()) == [
        (1, "larger than max_document_bytes"),
        (2, {"b": 1}),
    ]


def test_parquet_gives_the_columns_asked_for(tmp_path: Path) -> None:
    table = pa.table({"text": [f"t{n}" for n in range(600)], "other": list(range(600))})
    pq.write_table(table, tmp_path / "a.parquet")
    [found] = members(tmp_path / "a.parquet", LIMITS, lambda reason, path: None)
    assert list(rows(found, LIMITS, ("text", "absent"))) == [(n + 1, {"text": f"t{n}"}) for n in range(600)]
    with pytest.raises(UserError, match="max_archive_bytes = 1,000"):
        list(rows(found, Ingest(max_archive_bytes=1_000), ("text",)))
    with pytest.raises(UserError, match="Parquet file is damaged"):
        list(rows(member("b.parquet", b""), LIMITS, ()))


def test_a_damaged_parquet_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"text {n}" * 9 for n in range(600)]}), path, write_page_checksum=True)
    whole = path.read_bytes()
    for damaged in (whole[:-9], whole[: len(whole) // 2], whole[:500] + bytes([whole[500] ^ 4]) + whole[501:], b""):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"a\.parquet: the Parquet file is damaged"):
            list(rows(replace(member("a.parquet", b"", path), archive="a.parquet"), LIMITS, ("text",)))
