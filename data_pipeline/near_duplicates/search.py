"""The search for near-duplicates: signatures block by block, candidates by equal bands, then exact verification."""

import functools
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_pipeline.documents.blocks import Block, finish, parts, read_block
from data_pipeline.documents.engine import Buckets, Engine
from data_pipeline.near_duplicates.candidates import Pairs, Places, merged
from data_pipeline.near_duplicates.candidates import pairs as pairs_of
from data_pipeline.near_duplicates.matches import MATCH, Matches, separators
from data_pipeline.near_duplicates.minhash import band_keys
from data_pipeline.near_duplicates.verification import PairFiles, Similarities, resolved, save, similar, write_shingles
from specs.common.progress import Progress
from specs.schema.data import Dedup, MinHash


def near_duplicates(
    blocks: list[Block], gone: Places, section: Dedup, near: MinHash, engine: Engine, scratch: Path
) -> Matches:
    """The near-duplicates among the documents of blocks, those at the places `gone` aside."""
    save(scratch / "exact.npy", gone)
    signing = functools.partial(_sign, section.apart, near, (scratch / "exact.npy").resolve())
    signed = sum(finish(engine, scratch / "signatures", "dedup: signatures", signing, blocks))
    tables = parts(scratch / "signatures", len(blocks))
    with Progress("dedup: candidates", unit="exchanges") as progress:
        # A place and a key, of 8 bytes each, for each band.
        several = engine.exchange(_split_bands, _equal_bands, tables, 16 * near.bands * signed, progress.advance)
        candidates = merged(several)
    sizes = _sizes(tables, candidates)
    smaller, larger = np.minimum(*sizes), np.maximum(*sizes)
    # Sets whose sizes differ more cannot be as similar.
    possible = smaller / np.maximum(1, larger) >= near.threshold
    chosen = np.stack([candidates["later"], candidates["earlier"]], axis=1)[possible]
    travelling = 8 * int(smaller[possible].sum() + larger[possible].sum())
    return _verified(blocks, chosen, travelling, near, engine, scratch)


def _verified(
    blocks: list[Block], candidates: Places, travelling: int, near: MinHash, engine: Engine, scratch: Path
) -> Matches:
    wanted = np.unique(candidates)
    save(scratch / "candidates.npy", wanted)
    # Blocks without a candidate are not read again.
    holding = [block for block in blocks if np.diff(np.searchsorted(wanted, block.ends))[0]]
    shingle = functools.partial(write_shingles, near.shingle_words, (scratch / "candidates.npy").resolve())
    finish(engine, scratch / "shingles", "dedup: shingles", shingle, holding)
    shingled = parts(scratch / "shingles", len(holding))
    mean = travelling // max(1, len(candidates))
    all_pairs = PairFiles.write(candidates, scratch / "pairs")
    with Progress("dedup: verification", unit="buckets") as progress:

        def compare(chosen: Places) -> Similarities:
            pairs = all_pairs if chosen is candidates else PairFiles.write(chosen, scratch / f"pairs-{len(chosen)}")
            size = mean * len(chosen)
            return similar(engine, shingled, pairs, all_pairs, size, near.threshold, progress.advance)

        found = resolved(compare(candidates), compare)
    return np.array([(dropped, survivor, similarity, 1) for dropped, survivor, similarity in found], MATCH)


def _sign(apart: tuple[str, ...], section: MinHash, exact: Path, block: Block, path: Path) -> int:
    """Write place, number of shingles and bands of the documents of a block that are compared, uint64 `[n, 2 + bands]`.

    Returns n.
    """
    gone = np.load(exact, mmap_mode="r")
    first, last = np.searchsorted(gone, block.ends)
    left = np.setdiff1d(np.arange(block.rows), gone[first:last] - block.start)
    documents = read_block(block)
    chosen = [documents[row] for row in left.tolist()]
    counts, bands = band_keys(chosen, section)
    bands ^= separators([document.source for document in chosen], apart)[:, None]
    places = left.astype(np.uint64) + np.uint64(block.start)
    save(path, np.column_stack([places, counts.astype(np.uint64), bands])[counts > 0])
    return int((counts > 0).sum())


def _split_bands(path: Path, buckets: Buckets) -> dict[int, bytes]:
    table = np.load(path, mmap_mode="r")
    keys = table[:, 2:].ravel()
    rows = np.column_stack([keys, np.repeat(table[:, 0], table.shape[1] - 2)])
    return {bucket: rows[chosen].tobytes() for bucket, chosen in buckets.of(keys)}


def _equal_bands(pieces: list[bytes]) -> Pairs:
    rows = np.frombuffer(b"".join(pieces), np.uint64).reshape(-1, 2)
    return pairs_of(rows[:, 0], rows[:, 1].astype(np.int64))


def _sizes(tables: list[Path], candidates: Pairs) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Of both documents of each candidate `[n]`, how many shingles they have."""
    columns = [np.load(path, mmap_mode="r")[:, :2].astype(np.int64) for path in tables]
    places, counts = np.concatenate([np.empty((0, 2), np.int64), *columns]).T
    later, earlier = (counts[np.searchsorted(places, candidates[name])] for name in ("later", "earlier"))
    return later, earlier
