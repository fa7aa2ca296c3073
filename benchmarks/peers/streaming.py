"""MosaicML Streaming reads rows of ids, in a process of its own environment, for `benchmarks.peers.reading`.

    python -m benchmarks.peers.streaming FOLDER

FOLDER holds `tokens.npy`, rows of ids, and `batches.npy`, the rows to read, batch by batch. Says on standard output
that it is ready, then, for each line on standard input, how many processor seconds a round of all batches took.
"""

import sys
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from benchmarks.measuring.cost import own


@click.command(epilog="Example: python -m benchmarks.peers.streaming FOLDER")
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
def main(folder: Path) -> None:
    """Write shards of the rows in FOLDER, then read batches of them whenever a line comes."""
    import torch

    # It imports torchvision, whose wheels on the index are built for CUDA; beside torch for the CPU their operators are
    # missing, and importing fails at these two. Rows of ids need none.
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    from streaming import MDSWriter, StreamingDataset

    tokens, batches = np.load(folder / "tokens.npy"), np.load(folder / "batches.npy")
    out = str(folder / "mds")
    with MDSWriter(out=out, columns={"tokens": f"ndarray:uint16:{tokens.shape[1]}"}) as writer:
        for row in tokens:
            writer.write({"tokens": row})
    dataset = StreamingDataset(local=out, shuffle=False, batch_size=batches.shape[1])

    def read(rows: list[int]) -> npt.NDArray[np.uint16]:
        return np.stack([dataset[row]["tokens"] for row in rows])

    for chosen in batches:
        if not np.array_equal(read(chosen.tolist()), tokens[chosen]):
            raise SystemExit("streaming reads other ids than were written")
    plain = batches.tolist()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(own(lambda: [read(rows) for rows in plain]), flush=True)


if __name__ == "__main__":
    main()
