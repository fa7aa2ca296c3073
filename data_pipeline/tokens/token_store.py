"""The token store: Zarr v3 arrays of fixed-length sequences, their provenance, and a manifest that names every file.

Each array has one chunk for each row, so that a row is read alone and its checksum verified, and one file (shard) for
2,048 rows. A missing shard would read as fill value everywhere: hence the manifest, checked on open.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import tensorstore as ts
from pydantic import ValidationError

from data_pipeline.tokens.shuffle import Share
from data_pipeline.tokens.tokenizer import Ids
from specs.common.errors import UserError
from specs.common.files import sha256_file, tree_digests, write_json
from specs.schema.base import Section, Sha256, SomeItems
from specs.schema.quantities import Natural, Positive

SHARD_ROWS = 2_048
"""Rows in one file."""
DTYPES = {"tokens": "uint16", "documents": "uint16", "loss": "uint8"}
FILL = {"tokens": 65_535, "documents": 65_535, "loss": 255}
"""What each array reads as where nothing was written; no real value is equal to it."""
MANIFEST = "manifest.json"
PROVENANCE = "provenance.parquet"
PROVENANCE_GROUP = 65_536
"""Rows of a Parquet row group: fixed, so that equal stores have equal bytes."""
_PROVENANCE_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("start", pa.int32(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        *(pa.field(name, pa.string(), nullable=False) for name in ("id", "source", "path", "licence")),
        pa.field("offset", pa.int64(), nullable=False),
        *(pa.field(name, pa.string(), nullable=False) for name in ("repository", "file")),
    ]
)


@dataclass(frozen=True)
class Origin:
    """Where a run of ids in a row comes from."""

    row: int
    start: int
    """First column of the run."""
    length: int
    id: str
    """Of the document."""
    source: str
    path: str
    licence: str
    offset: int
    """Of the run's first id among the document's ids."""
    repository: str = ""
    """Repository that the document's row states; empty where its source is one."""
    file: str = ""
    """Path within the repository, where it is not `path`."""


@dataclass(frozen=True)
class Rows:
    """Sequences of a store, one for each row asked for; L is the context length."""

    tokens: Ids
    """uint16 `[n, L+1]`: ids, padded with `<pad>`."""
    documents: Ids
    """uint16 `[n, L+1]`: ordinal of the document within its row, from 0; padding has the ordinal after the last."""
    loss: npt.NDArray[np.uint8]
    """uint8 `[n, L+1]`: 1 where the id is a target, to be predicted from what precedes it in its document."""


class SourceRows(Section):
    """Rows of one source."""

    name: str
    start: Natural
    stop: Natural
    weight: Positive


class FileDigest(Section):
    """What one file of the store must be."""

    sha256: Sha256
    size: Natural


class Manifest(Section):
    """What a store holds."""

    format: Literal[1] = 1
    rows: Positive
    context_length: Positive
    """A row holds one id more."""
    vocab_size: Positive
    tokenizer_sha256: Sha256
    loss: str
    template: str
    sources: SomeItems[SourceRows]
    """In the order of their rows, which follow on one another and cover the store."""
    files: dict[str, FileDigest]
    """By path below the store's folder; all but the manifest."""


class TokenStore:
    """A finished token store, open for reading."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        # The cache keeps shard indexes, 32 KiB each; rows are small and rarely read twice.
        context = ts.Context({"cache_pool": {"total_bytes_limit": 64 * 2**20}})
        self._arrays = {name: _open(path / name, context) for name in DTYPES}
        shape = (manifest.rows, manifest.context_length + 1)
        for name, array in self._arrays.items():
            if tuple(array.shape) != shape:
                raise UserError(f"{path / name}: has the shape {tuple(array.shape)}, not {shape}; pack it again")

    @classmethod
    def open(cls, path: Path, verify: bool = True) -> Self:
        """Open a store after checking that each file of its manifest is there, and has its size and its sha256.

        `verify=False` leaves out the sha256, for stores that are too large to be read whole on every start: damage is
        then found by checksum when the row is read. Raises UserError that names the first file that is not as it was.
        """
        manifest = _read_manifest(path / MANIFEST)
        for name, expected in manifest.files.items():
            file = path / name
            if not file.is_file():
                raise UserError(f"{file}: is missing; restore it (dvc checkout) or run the pack stage again")
            if (size := file.stat().st_size) != expected.size:
                raise UserError(f"{file}: has {size:,} bytes, not {expected.size:,}; restore it or pack again")
            if verify and sha256_file(file) != expected.sha256:
                raise UserError(f"{file}: was altered (its sha256 is not the manifest's); restore it or pack again")
        return cls(path, manifest)

    def __len__(self) -> int:
        return self.manifest.rows

    @property
    def shares(self) -> tuple[Share, ...]:
        """Rows and weight of each source, as `order.Order` takes them."""
        return tuple(Share(source.start, source.stop, source.weight) for source in self.manifest.sources)

    def rows(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Rows:
        """Rows at the indices `[n]`, in their order; the checksum of each is verified.

        Raises IndexError outside the store, UserError where a row is damaged.
        """
        chosen = np.asarray(indices, np.int64).reshape(-1)
        if chosen.size and not 0 <= chosen.min() <= chosen.max() < len(self):
            raise IndexError(f"rows {chosen.min()} to {chosen.max()} are not all in a store of {len(self)}")
        with ts.Batch() as batch:
            reads = {name: array[chosen].read(batch=batch) for name, array in self._arrays.items()}
        values = {name: self._result(name, read) for name, read in reads.items()}
        return Rows(**values)

    def origins(self, row: int) -> list[Origin]:
        """Documents of one row, from left to right."""
        table = pq.read_table(self.path / PROVENANCE, filters=[("row", "=", row)])
        return [Origin(**values) for values in table.to_pylist()]

    def _result(self, name: str, read: Any) -> npt.NDArray[Any]:
        try:
            values: npt.NDArray[Any] = read.result()
        except Exception as error:  # tensorstore has no narrower type for what it finds on disk
            raise UserError(f"{self.path / name}: {_reason(error)}; restore it or run the pack stage again") from error
        if (values == FILL[name]).any():
            raise UserError(f"{self.path / name}: a shard has vanished since the store was opened; restore it")
        return values


class StoreWriter:
    """Writes a store row by row into a new folder, then its manifest. Memory holds one shard.

    Use as a context manager. tensorstore writes the bytes that zarr-python writes, thirty times as fast.
    """

    def __init__(self, path: Path, context_length: int) -> None:
        self.path, self.rows = path, 0
        self._width = context_length + 1
        path.mkdir(parents=True)
        write_json(path / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": {}})
        self._arrays = {name: _create(path / name, DTYPES[name], FILL[name], self._width) for name in DTYPES}
        self._shard = {name: np.empty((SHARD_ROWS, self._width), dtype) for name, dtype in DTYPES.items()}
        self._origins: list[Origin] = []
        self._provenance = pq.ParquetWriter(path / PROVENANCE, _PROVENANCE_SCHEMA, compression="zstd")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._provenance.close()

    def append(self, row: Rows, origins: Sequence[Origin]) -> None:
        """Add one row, each array `[L+1]` or `[1, L+1]`, and what it is made of."""
        row_of_shard = self.rows % SHARD_ROWS
        for name, shard in self._shard.items():
            shard[row_of_shard] = getattr(row, name)
        self.rows += 1
        if row_of_shard + 1 == SHARD_ROWS:
            self._write_shard()
        self._origins.extend(origins)
        while len(self._origins) >= PROVENANCE_GROUP:
            self._write_origins()

    def finish(self, **facts: Any) -> Manifest:
        """Write what is left, then the manifest; `facts` are its fields but `rows`, `context_length` and `files`."""
        if self.rows % SHARD_ROWS:
            self._write_shard()
        if self._origins:
            self._write_origins()
        self._provenance.close()
        files = {
            name: {"sha256": digest, "size": (self.path / name).stat().st_size}
            for name, digest in tree_digests(self.path).items()
        }
        own = {"rows": self.rows, "context_length": self._width - 1, "files": files}
        manifest = Manifest.model_validate(own | facts)
        write_json(self.path / MANIFEST, manifest.model_dump(mode="json"))
        return manifest

    def _write_shard(self) -> None:
        start = (self.rows - 1) // SHARD_ROWS * SHARD_ROWS
        for name, shard in self._shard.items():
            array = self._arrays[name].resize(exclusive_max=[self.rows, self._width]).result()
            array[start : self.rows].write(shard[: self.rows - start]).result()
            self._arrays[name] = array

    def _write_origins(self) -> None:
        group, self._origins = self._origins[:PROVENANCE_GROUP], self._origins[PROVENANCE_GROUP:]
        columns = {name: [getattr(origin, name) for origin in group] for name in _PROVENANCE_SCHEMA.names}
        self._provenance.write_table(pa.table(columns, schema=_PROVENANCE_SCHEMA), row_group_size=PROVENANCE_GROUP)


def _read_manifest(file: Path) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); run the pack stage") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(f"{file}: {place}: {first['msg']}; run the pack stage again") from error
    ends = [0, *(source.stop for source in manifest.sources)]
    if [source.start for source in manifest.sources] != ends[:-1] or ends[-1] != manifest.rows:
        raise UserError(f"{file}: the rows of its sources do not cover the store; run the pack stage again")
    return manifest


def _reason(error: Exception) -> str:
    # tensorstore appends its own source locations in brackets.
    return str(error).split(" [")[0].replace("\n", " ")


def _open(path: Path, context: Any) -> Any:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}, "recheck_cached_data": "open"}
    try:
        return ts.open(spec, context=context, open=True, read=True).result()
    except Exception as error:  # as for reads
        raise UserError(f"{path}: {_reason(error)}; restore it or run the pack stage again") from error


def _create(path: Path, dtype: str, fill: int, width: int) -> Any:
    raw = {"name": "bytes", "configuration": {"endian": "little"}}
    zstd = {"name": "zstd", "configuration": {"level": 1, "checksum": False}}
    crc = {"name": "crc32c"}
    sharding = {
        "chunk_shape": [1, width],
        "codecs": [{"name": "bytes"} if dtype == "uint8" else raw, zstd, crc],
        "index_codecs": [raw, crc],
        "index_location": "end",
    }
    metadata = {
        "shape": [0, width],
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [SHARD_ROWS, width]}},
        "fill_value": fill,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    }
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(path)},
        "metadata": metadata,
        # An absent chunk then always means damage.
        "store_data_equal_to_fill_value": True,
    }
    return ts.open(spec, create=True).result()
