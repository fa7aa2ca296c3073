import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.documents import documents
from data_pipeline.documents.documents import (
    ROLES,
    Document,
    Message,
    count_documents,
    document_id,
    parse_conversation,
    plain_text,
    read_documents,
    render_conversation,
    shards,
    write_documents,
)
from specs.common.errors import UserError

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def make(text: str, source: str = "a", path: str = "x.py") -> Document:
    return Document(document_id(text), source, path, "MIT", "python", text)


MANY = [make(f"text {number} é", "ab"[number % 2], f"{number % 7}/{number}.py") for number in range(200)]


def digests(folder: Path) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())]


@given(st.permutations(range(len(MANY))))
def test_bytes_do_not_depend_on_the_order_of_arrival(order: list[int]) -> None:
    ordered = sorted(MANY, key=lambda document: ("ba".index(document.source), document.path, document.id))
    shuffled = [MANY[place] for place in order]
    assert documents.priorities("ba") == {"b": 0, "a": 1}
    assert sorted(shuffled, key=lambda each: documents.rank(each, documents.priorities("ba"))) == ordered


def test_what_is_written_is_read_back_in_total_order(tmp_path: Path) -> None:
    write_documents(tmp_path / "one", MANY, ["b", "a"])
    write_documents(tmp_path / "two", MANY[::-1], ["b", "a"])
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    read = list(read_documents(tmp_path / "one"))
    assert sorted(read, key=lambda each: each.text) == sorted(MANY, key=lambda each: each.text)
    assert [each.source for each in read] == ["b"] * 100 + ["a"] * 100
    assert count_documents(tmp_path / "one") == 200


def by_shard(folder: Path) -> list[list[Document]]:
    rows = [pq.read_table(path).to_pylist() for path in shards(folder)]
    return [[Document(**row) for row in shard] for shard in rows]


def test_shards_are_cut_by_rows_and_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "SHARD_ROWS", 80)
    write_documents(tmp_path / "rows", MANY, "ab")
    assert [pq.read_metadata(path).num_rows for path in shards(tmp_path / "rows")] == [80, 80, 40]
    monkeypatch.setattr(documents, "SHARD_BYTES", 130)
    monkeypatch.setattr(documents, "GROUP_ROWS", 3)
    write_documents(tmp_path / "bytes", MANY, "ab")
    sizes = [sum(each.size for each in read) for read in by_shard(tmp_path / "bytes")]
    assert max(sizes) <= 130 and len(sizes) > 3
    assert list(read_documents(tmp_path / "rows")) == list(read_documents(tmp_path / "bytes"))


def test_no_document_is_still_a_folder_to_read(tmp_path: Path) -> None:
    write_documents(tmp_path, [], ["a"])
    assert list(read_documents(tmp_path)) == []


def test_a_document_out_of_order_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="out of order"),
        documents.DocumentWriter(tmp_path, ["a", "b"]) as writer,
    ):
        writer.write(make("x", "b"))
        writer.write(make("y", "a"))


def test_a_damaged_missing_or_foreign_shard_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"holds no documents-\*\.parquet"):
        list(read_documents(tmp_path))
    monkeypatch.setattr(documents, "SHARD_ROWS", 80)
    write_documents(tmp_path, MANY, "ab")
    first, second, _ = shards(tmp_path)
    second.unlink()
    with pytest.raises(UserError, match=r"documents-00001\.parquet is missing"):
        list(read_documents(tmp_path))
    write_documents(tmp_path / "foreign", MANY, "ab")
    for path in shards(tmp_path / "foreign"):
        pq.write_table(pa.table({"id": ["a"]}), path)
    with pytest.raises(UserError, match="not a shard of documents"):
        count_documents(tmp_path / "foreign")
    first.write_bytes(first.read_bytes()[:-9])
    with pytest.raises(UserError, match="damaged"):
        count_documents(tmp_path)


def test_no_flipped_bit_is_read_as_other_documents(tmp_path: Path) -> None:
    write_documents(tmp_path, MANY, "ab")
    [shard] = shards(tmp_path)
    intact = shard.read_bytes()
    caught = 0
    for place in range(0, len(intact), 37):
        shard.write_bytes(intact[:place] + bytes([intact[place] ^ 4]) + intact[place + 1 :])
        try:
            # Bits that mean nothing, as in the name of the writer, may pass: what is read must be what was written.
            assert list(read_documents(tmp_path)) == sorted(MANY, key=lambda each: (each.source, each.path))
        except UserError:
            caught += 1
    assert caught > 50


def test_the_id_is_the_hash_of_the_text() -> None:
    assert document_id("é\n") == hashlib.blake2b("é\n".encode(), digest_size=16).hexdigest()
    assert document_id("") == "cae66941d9efbd404e4d88758ea67670"


@given(st.lists(st.builds(Message, st.sampled_from(ROLES), TEXT), min_size=1))
def test_conversations_survive_the_round_trip(messages: list[Message]) -> None:
    assert parse_conversation(render_conversation(messages)) == tuple(messages)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("{", "line 1: not valid JSON"),
        ('{"role": "user", "content": "x"}\n[]', "line 2: a message is an object"),
        ('{"role": "robot", "content": "x"}', "not 'robot'"),
        ('{"role": "user", "content": 1}', "a message has text"),
        ('{"role": "user", "content": "x", "more": 1}', "nothing else"),
    ],
)
def test_a_broken_conversation_names_its_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_conversation(text, "here")


def test_plain_text_leaves_roles_out() -> None:
    text = render_conversation([Message("system", "s"), Message("user", "u"), Message("assistant", "a")])
    assert plain_text("conversation", text) == "s\n\nu\n\na"
    assert plain_text("conversation", text, ["user"]) == "u"
    assert plain_text("python", text) == text
