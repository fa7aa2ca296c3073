import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from data_pipeline.tokens.shuffle import Share
from data_pipeline.tokens.token_store import SHARD_ROWS, Origin, Rows, StoreWriter, TokenStore
from specs.common.errors import UserError
from specs.common.files import tree_digests

WIDTH = 9
COUNT = SHARD_ROWS + 5
FACTS = {
    "vocab_size": 600,
    "tokenizer_sha256": "0" * 64,
    "loss": "all",
    "template": "turns-v1",
    "sources": [
        {"name": "first", "start": 0, "stop": 5, "weight": 2},
        {"name": "none", "start": 5, "stop": 5, "weight": 1},
        {"name": "second", "start": 5, "stop": COUNT, "weight": 1},
    ],
}


def make_rows() -> Rows:
    # Knuth's multiplicative hash: irregular, and the same under every version of every library.
    noise = (np.arange(COUNT * WIDTH, dtype=np.uint64) * np.uint64(2_654_435_761) % np.uint64(2**32)).reshape(
        COUNT, WIDTH
    )
    tokens = (16 + noise % np.uint64(584)).astype(np.uint16)
    documents = np.sort(noise % np.uint64(3), axis=1).astype(np.uint16)
    return Rows(tokens, documents, (noise >> np.uint64(31)).astype(np.uint8))


def write(path: Path) -> Path:
    rows = make_rows()
    with StoreWriter(path, WIDTH - 1) as writer:
        for index in range(COUNT):
            row = Rows(rows.tokens[index], rows.documents[index], rows.loss[index])
            writer.append(
                row, [Origin(index, start, 3, f"id{index}", "s", f"{start}.py", "MIT", 7) for start in (0, 3)]
            )
        writer.finish(**FACTS)
    return path


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("written") / "store")


@pytest.fixture
def store(written: Path, tmp_path: Path) -> Path:
    """A store that a test may damage."""
    return Path(shutil.copytree(written, tmp_path / "store"))


def test_rows_come_back_in_the_order_asked_for(written: Path) -> None:
    store, rows = TokenStore.open(written), make_rows()
    chosen = [COUNT - 1, 0, SHARD_ROWS - 1, SHARD_ROWS, 0, 17]
    read = store.rows(chosen)
    for name in ("tokens", "documents", "loss"):
        expected = getattr(rows, name)[chosen]
        assert getattr(read, name).dtype == expected.dtype
        assert getattr(read, name).tolist() == expected.tolist()
    assert len(store) == COUNT
    assert store.rows([]).tokens.shape == (0, WIDTH)
    assert store.shares == (Share(0, 5, 2), Share(5, 5, 1), Share(5, COUNT, 1))


@pytest.mark.parametrize("count", [1, 2, SHARD_ROWS, SHARD_ROWS + 1])
def test_a_store_of_any_length_has_all_its_rows(count: int, tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store", 3) as writer:
        for row in range(count):
            same = np.full(4, row % 500, np.uint16)
            writer.append(Rows(same, same, np.ones(4, np.uint8)), [])
        writer.finish(**FACTS | {"sources": [{"name": "s", "start": 0, "stop": count, "weight": 1}]})
    read = TokenStore.open(tmp_path / "store").rows(range(count))
    assert read.tokens[:, 0].tolist() == [row % 500 for row in range(count)]


def test_origins_of_a_row(written: Path) -> None:
    found = TokenStore.open(written).origins(SHARD_ROWS + 1)
    row = SHARD_ROWS + 1
    assert found == [Origin(row, start, 3, f"id{row}", "s", f"{start}.py", "MIT", 7) for start in (0, 3)]


@pytest.mark.parametrize("index", [-1, COUNT])
def test_rows_outside_the_store_are_refused(written: Path, index: int) -> None:
    with pytest.raises(IndexError, match=f"not all in a store of {COUNT}"):
        TokenStore.open(written).rows([0, index])


def test_writing_twice_gives_the_same_bytes(written: Path, tmp_path: Path) -> None:
    assert tree_digests(write(tmp_path / "again")) == tree_digests(written)


def test_the_manifest_names_every_file_but_itself(written: Path) -> None:
    named = {name: entry.sha256 for name, entry in TokenStore.open(written).manifest.files.items()}
    assert named == {name: digest for name, digest in tree_digests(written).items() if name != "manifest.json"}


def test_golden_shards(written: Path) -> None:
    digests = tree_digests(written)
    shards = {name: digest for name, digest in digests.items() if "/c/" in name}
    assert len(shards) == 6
    summary = sha256("\n".join(f"{name} {digest}" for name, digest in shards.items()).encode())
    assert summary.hexdigest() == "2f30030d70e3ae09b9894dd911c38e8d3c6bc9d4395d96dc423ec29c6c1337a4"


@pytest.mark.parametrize("name", ["tokens", "loss"])
def test_zarr_python_reads_and_writes_the_same_bytes(written: Path, tmp_path: Path, name: str) -> None:
    group = zarr.open_group(written, mode="r")
    array, expected = group[name], getattr(make_rows(), name)
    assert isinstance(array, zarr.Array)
    assert np.array_equal(np.asarray(array[:]), expected)
    twin = zarr.create_array(
        tmp_path / name,
        shape=expected.shape,
        chunks=(1, WIDTH),
        shards=(SHARD_ROWS, WIDTH),
        dtype=expected.dtype,
        fill_value=array.fill_value,
        compressors=[ZstdCodec(level=1), Crc32cCodec()],
        config={"write_empty_chunks": True},
    )
    twin[:] = expected
    ours, theirs = tree_digests(written / name), tree_digests(tmp_path / name)
    assert {k: v for k, v in ours.items() if k != "zarr.json"} == {k: v for k, v in theirs.items() if k != "zarr.json"}


def remove(file: Path) -> None:
    file.unlink()


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("file", ["tokens/c/0/0", "documents/c/1/0", "loss/zarr.json", "provenance.parquet"])
@pytest.mark.parametrize(
    ("damage", "complaint"),
    [(remove, "is missing"), (truncate, "bytes, not"), (flip_a_bit, "was altered")],
    ids=["missing", "truncated", "altered"],
)
def test_damage_is_found_on_open_and_named(
    store: Path, file: str, damage: Callable[[Path], None], complaint: str
) -> None:
    damage(store / file)
    with pytest.raises(UserError, match=f"{file}.*{complaint}"):
        TokenStore.open(store)


def test_zarr_reads_a_missing_shard_without_complaint(store: Path) -> None:
    # The control: this is why there is a manifest.
    (store / "tokens/c/1/0").unlink()
    array = zarr.open_group(store, mode="r")["tokens"]
    assert isinstance(array, zarr.Array)
    assert (np.asarray(array[SHARD_ROWS:]) == 65_535).all()


def test_an_altered_row_is_found_when_read(store: Path) -> None:
    flip_a_bit(store / "tokens/c/0/0")
    opened = TokenStore.open(store, verify=False)
    with pytest.raises(UserError, match=r"tokens: .*restore it"):
        opened.rows(range(SHARD_ROWS))


@pytest.mark.parametrize("damage", [remove, truncate])
def test_a_shard_that_is_not_whole_is_found_without_reading_it(store: Path, damage: Callable[[Path], None]) -> None:
    damage(store / "loss/c/1/0")
    with pytest.raises(UserError, match="loss/c/1/0"):
        TokenStore.open(store, verify=False)


def test_a_shard_that_vanishes_later_is_found_when_read(store: Path) -> None:
    opened = TokenStore.open(store)
    (store / "tokens/c/1/0").unlink()
    for rows in ([SHARD_ROWS], [0, SHARD_ROWS]):
        with pytest.raises(UserError, match="tokens: a shard has vanished"):
            opened.rows(rows)
    assert opened.rows([0]).tokens.shape == (1, WIDTH), "the other shard is still read"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('"format": 1', '"format": 2', "format"),
        ('"rows": 2053', '"rows": 2052', "do not cover the store"),
        ('"stop": 5,', '"stop": 6,', "do not cover the store"),
        ('"context_length": 8', '"context_length": 9', r"has the shape \(2053, 9\), not \(2053, 10\)"),
        ("{", "", "Invalid JSON"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(store: Path, old: str, new: str, complaint: str) -> None:
    manifest = store / "manifest.json"
    text = manifest.read_text("utf-8")
    assert old in text
    manifest.write_text(text.replace(old, new, 1), "utf-8")
    with pytest.raises(UserError, match=complaint):
        TokenStore.open(store)


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"manifest\.json: cannot be read .*; run the pack stage"):
        TokenStore.open(tmp_path)
