"""Rows of token ids in random order, beside the formats that training frameworks read."""

import contextlib
import os
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

import click
import numpy as np
import numpy.typing as npt

from benchmarks.measuring.cost import own
from benchmarks.peers import Found, in_turn, tell
from benchmarks.peers.environments import python_of
from benchmarks.workloads.inputs import prepare
from benchmarks.workloads.workloads import MB, packed
from data_pipeline.tokens.shuffle import Order

CONTEXT, AT_A_TIME = 2_048, 8
MOSAIC = "MosaicML Streaming"
Tokens = npt.NDArray[np.uint16]
Read = Callable[[npt.NDArray[np.int64]], object]
_MAGIC, _VERSION, _UINT16 = b"MMIDIDX\x00\x00", 1, 8


def megatron(tokens: Tokens, folder: Path) -> Read:
    """Megatron's indexed dataset, written as its header says: ids end to end in .bin, lengths and offsets in .idx."""
    rows, width = tokens.shape
    (folder / "rows.bin").write_bytes(tokens.tobytes())
    lengths = np.full(rows, width, np.int32)
    offsets = np.arange(rows, dtype=np.int64) * width * 2
    with (folder / "rows.idx").open("wb") as file:
        file.write(_MAGIC + struct.pack("<QBQQ", _VERSION, _UINT16, rows, rows + 1))
        for part in (lengths, offsets, np.arange(rows + 1, dtype=np.int64)):
            file.write(part.tobytes())
    start = len(_MAGIC) + struct.calcsize("<QBQQ")
    index = np.memmap(folder / "rows.idx", np.uint8, "r")
    lengths = index[start : start + 4 * rows].view(np.int32)
    offsets = index[start + 4 * rows : start + 12 * rows].view(np.int64)
    data = np.memmap(folder / "rows.bin", np.uint8, "r")

    def read(chosen: npt.NDArray[np.int64]) -> object:
        return np.stack([np.frombuffer(data, np.uint16, lengths[row], offsets[row]) for row in chosen])

    return read


def litdata(tokens: Tokens, folder: Path) -> Read:
    """litdata's chunks, read by index."""
    from litdata import StreamingDataset
    from litdata.streaming.cache import Cache

    out = folder / "litdata"
    out.mkdir()
    cache = Cache(str(out), chunk_bytes="64MB")
    for row in range(len(tokens)):
        cache[row] = tokens[row]
    cache.done()
    cache.merge()
    dataset = StreamingDataset(str(out))
    return lambda chosen: np.stack([dataset[int(row)] for row in chosen])


def arrow(tokens: Tokens, folder: Path) -> Read:
    """Hugging Face's Arrow files, read as numpy."""
    from datasets import Dataset, load_from_disk

    Dataset.from_dict({"tokens": list(tokens)}).save_to_disk(str(folder / "arrow"))
    dataset = load_from_disk(str(folder / "arrow")).with_format("numpy")
    return lambda chosen: np.asarray(dataset[chosen.tolist()]["tokens"])


@contextlib.contextmanager
def streaming(tokens: Tokens, batches: Sequence[npt.NDArray[np.int64]], folder: Path) -> Iterator[Callable[[], float]]:
    """MosaicML Streaming's shards, which cannot be installed beside `datasets`: processor seconds of a round there."""
    place = folder / "streaming"
    place.mkdir()
    np.save(place / "tokens.npy", tokens)
    np.save(place / "batches.npy", np.stack(batches))
    command = [str(python_of("streaming")), "-m", "benchmarks.peers.streaming", str(place)]
    with (
        (place / "log").open("w+", encoding="utf-8") as log,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, encoding="utf-8"
        ) as process,
    ):
        assert process.stdin and process.stdout

        def answer() -> str:
            assert process.stdout
            if line := process.stdout.readline():
                return line
            raise SystemExit(f"streaming ended: {(place / 'log').read_text('utf-8')[-2_000:]}")

        def round_there() -> float:
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
            return float(answer())

        answer()
        yield round_there
        process.stdin.close()


@click.command(epilog="Example: python -m benchmarks.peers.reading")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Rounds that count.")
def main(rounds: int) -> None:
    """Read rows of the same ids in the same order from each, eight at a time, and compare processor time."""
    os.environ["HF_DATASETS_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = packed(prepare(), folder, CONTEXT, 6 * MB)
        order = Order(store.shares, seed=1).rows(0, 1_024)
        batches = [order[at : at + AT_A_TIME] for at in range(0, len(order), AT_A_TIME)]
        tokens = store.rows(range(len(store))).tokens
        readers: dict[str, Read] = {
            "twice": lambda chosen: store.rows(chosen).tokens,
            "memmap, Megatron's layout": megatron(tokens, folder),
            "litdata": litdata(tokens, folder),
            "Hugging Face datasets": arrow(tokens, folder),
        }
        for who, read in readers.items():
            if not np.array_equal(np.asarray(read(batches[0])), tokens[batches[0]]):
                raise SystemExit(f"{who} reads other ids than were written")

        def rate(read: Read) -> Callable[[], float]:
            return lambda: len(order) / own(lambda: [read(batch) for batch in batches])

        # As many bytes as a row of the store has, five for each id.
        flat = np.memmap(folder / "flat", np.uint8, "w+", shape=(len(tokens), 5 * tokens.shape[1]))
        flat[:] = 1
        notes = dict.fromkeys([*list(readers)[1:], MOSAIC], "ids alone, no checksum")
        with streaming(tokens, batches, folder) as there:
            timed = {who: rate(read) for who, read in readers.items()}
            timed |= {MOSAIC: lambda: len(order) / there(), "limit": rate(lambda chosen: flat[chosen])}
            rates = in_turn(rounds, timed)
        limit = ("memmap of all five bytes an id", median(rates.pop("limit")))
        tell(Found("random reads, rows of 2,049 ids", "rows", rates, limit, notes))


if __name__ == "__main__":
    main()
