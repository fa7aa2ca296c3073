"""Documents as ids, on their way from encoding to packing, and the files that hold them meanwhile."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_pipeline.documents.blocks import LZ4
from data_pipeline.packing.chat_template import Rendered
from specs.common.files import replacing

_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("id", "source", "path", "licence", "repository", "file")),
        pa.field("size", pa.int64()),
        pa.field("ids", pa.large_binary()),
        pa.field("loss", pa.large_binary()),
    ]
)


@dataclass(frozen=True)
class Encoded:
    """A document as ids, and what its provenance says of it."""

    id: str
    source: str
    path: str
    licence: str
    repository: str
    file: str
    size: int
    """UTF-8 bytes of its text."""
    rendered: Rendered


def write_encoded(path: Path, encoded: Sequence[Encoded]) -> None:
    """Write encoded documents to a file, whole or not at all."""
    values = [[getattr(document, name) for document in encoded] for name in _SCHEMA.names[:-2]]
    values += [[getattr(document.rendered, name).tobytes() for document in encoded] for name in _SCHEMA.names[-2:]]
    with replacing(path) as temporary, pa.ipc.new_file(str(temporary), _SCHEMA, options=LZ4) as writer:
        writer.write_batch(pa.record_batch(values, schema=_SCHEMA))


def read_encoded(path: Path) -> Iterator[Encoded]:
    """Encoded documents of a file, in their order."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        for row in reader.get_batch(0).to_pylist():
            ids, loss = np.frombuffer(row.pop("ids"), np.uint16), np.frombuffer(row.pop("loss"), np.uint8)
            yield Encoded(**row, rendered=Rendered(ids, loss))
