"""Filter and duplicate removal beside datatrove, and beside datasketch with Polars, on one corpus in one run.

    python -m benchmarks.peers.corpus corpus --megabytes 150
    python -m benchmarks.peers.dedup corpus --peers /tmp/peers/bin/python

Every contender runs in a process of its own, one core's work at a time, in turn; its processor seconds (user and
system) and its peak memory are taken, from the start of Python to the last file. All read the same Parquet files, ask
the same rules of each document (`data_pipeline.filter.judge`), take the same secrets and personal data out of what they
keep (`data_pipeline.filters.redact.redact`), compare the same words in shingles of the same length with as many bands
of as many rows, and write Parquet. What differs is what each makes of it:

- `twice` runs its two stages as they are: ledgers with examples, resumable parts, exact duplicates by hash, and near
  ones that exact Jaccard similarity confirms.
- datatrove gets the rules as a filter and the redaction as a formatter, each called with one document, as its pipeline
  does; then the four steps of its MinHash, which drops all that its clusters hold, exact duplicates among them, and
  confirms nothing.
- datasketch with Polars gets the same functions in the form for many texts at once, since Polars has columns; exact
  duplicates go by `unique`, near ones by sets of shingles that confirm what `MinHashLSH` proposes.

The limit is a process that reads the texts and looks for their words once.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.peers import OURS, Found, tell
from benchmarks.peers.corpus import LIMITS, SECTION, corpus_of, write
from specs.loading.settings import ROOT, load_settings

DATATROVE, DATASKETCH, LIMIT = "datatrove", "datasketch + Polars", "reading, and one scan for words"


def run_ours(corpus: Path, out: Path, workers: int) -> int:
    """Both stages as they are; answers how many documents are left."""
    from data_pipeline import filter as filters
    from data_pipeline.dedup import dedup
    from data_pipeline.documents.blocks import blocks, read_columns
    from data_pipeline.documents.document_stage import pass_over
    from data_pipeline.documents.documents import count_documents
    from data_pipeline.documents.engine import Engine

    os.environ |= {"TWICE_SCRATCH": str(out / "scratch"), "TWICE_MEASURED": str(out / "measured")}
    spec = corpus_of(
        list(dict.fromkeys(name for block in blocks(corpus) for name in read_columns(block, ["source"])["source"]))
    )
    engine = Engine(workers=workers, partitions=workers)
    kept = out / "filtered"
    pass_over("filter", "peers", spec, corpus, kept, lambda given, ledger: filters.keep(given, LIMITS, ledger), engine)
    dedup("peers", spec, kept, out / "unique", engine)
    return count_documents(out / "unique")


def run_datatrove(corpus: Path, out: Path) -> int:
    """The four steps of its MinHash example, with its reader and writer of Parquet, and a plain word splitter."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.filters import LambdaFilter
    from datatrove.pipeline.formatters.base import BaseFormatter
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import ParquetWriter
    from datatrove.utils.hashing import HashConfig
    from datatrove.utils.word_tokenizers import WordTokenizer

    from data_pipeline.documents.documents import Document
    from data_pipeline.filter import judge
    from data_pipeline.filters.redact import redact

    class Redaction(BaseFormatter):  # type: ignore[misc]
        """In the place of its own for personal data."""

        name = "redaction"

        def format(self, text: str) -> str:
            raise NotImplementedError("the language of the document matters: see run")

        def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
            for document in data:
                document.text = redact(document.text, str(document.metadata["language"]), LIMITS.redact)[0]
                yield document

    class Words(WordTokenizer):  # type: ignore[misc]
        """As ours splits: its own splitters for English are several times slower."""

        def word_tokenize(self, text: str) -> list[str]:
            return re.findall(r"\w+", text.lower())

        def sent_tokenize(self, text: str) -> list[str]:
            return [text]

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            return [(0, len(text))]

    def kept(document: Any) -> bool:
        row = document.metadata
        path, language = str(row["path"]), str(row["language"])
        return judge(Document(document.id, row["source"], path, row["licence"], language, document.text), LIMITS)[0]

    config = MinhashConfig(
        hash_config=HashConfig(precision=32),
        num_buckets=SECTION.bands,
        hashes_per_bucket=SECTION.rows,
        n_grams=SECTION.shingle_words,
        seed=SECTION.seed,
    )
    filtered, steps = str(out / "filtered"), [str(out / name) for name in ("signatures", "buckets", "remove")]
    reader = ParquetReader(filtered, glob_pattern="*.parquet")
    read = ParquetReader(str(corpus), glob_pattern="*.parquet")
    pipelines: list[list[Any]] = [
        [read, LambdaFilter(kept), Redaction(), ParquetWriter(filtered)],
        [reader, MinhashDedupSignature(steps[0], config, language=Words())],
        [MinhashDedupBuckets(steps[0], steps[1], config=config)],
        [MinhashDedupCluster(steps[1], steps[2], config=config)],
        [reader, MinhashDedupFilter(steps[2]), ParquetWriter(str(out / "unique"))],
    ]
    for number, pipeline in enumerate(pipelines):
        tasks = SECTION.bands if number == 2 else 1
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=str(out / f"logs-{number}")).run()
    return rows_of(out / "unique")


def run_datasketch(corpus: Path, out: Path) -> int:
    """Polars reads and writes; datasketch proposes; sets of shingles confirm."""
    import polars
    from datasketch import MinHash, MinHashLSH
    from xxhash import xxh32_intdigest

    from data_pipeline.documents.documents import Document
    from data_pipeline.filter import judge
    from data_pipeline.filters.quality import may_be_encoded
    from data_pipeline.filters.redact import redact, suspicions

    table = polars.read_parquet(corpus / "*.parquet")
    chosen = []
    for piece in table.iter_slices(2_000):
        texts = piece["text"].to_list()
        hints = zip(piece.iter_rows(), may_be_encoded(texts), suspicions(texts), strict=True)
        kept = [
            redact(row[5], row[4], LIMITS.redact, suspicion)[0] if judge(Document(*row), LIMITS, odd)[0] else None
            for row, odd, suspicion in hints
        ]
        chosen.append(piece.with_columns(polars.Series("text", kept, polars.String)).drop_nulls("text"))
    table = polars.concat(chosen).unique(["text"], keep="first", maintain_order=True)
    lsh = MinHashLSH(num_perm=SECTION.bands * SECTION.rows, params=(SECTION.bands, SECTION.rows))
    sets: dict[int, set[bytes]] = {}
    dropped: set[int] = set()
    length = SECTION.shingle_words
    for place, text in enumerate(table["text"]):
        found = re.findall(r"\w+", text.lower())
        if len(found) < max(length, SECTION.min_words):
            continue
        runs = {" ".join(found[start : start + length]).encode() for start in range(len(found) - length + 1)}
        signature = MinHash(SECTION.bands * SECTION.rows, seed=SECTION.seed, hashfunc=xxh32_intdigest)
        signature.update_batch(list(runs))
        near = (sets[other] for other in lsh.query(signature))
        if any(len(runs & other) >= SECTION.threshold * len(runs | other) for other in near):
            dropped.add(place)
        else:
            lsh.insert(place, signature)
            sets[place] = runs
    (out / "unique").mkdir(parents=True)
    table = table.filter(polars.Series([place not in dropped for place in range(len(table))]))
    table.write_parquet(out / "unique" / "kept.parquet")
    return len(table)


def run_limit(corpus: Path) -> int:
    """Read every text, and find its words."""
    from data_pipeline.documents.documents import read_documents

    word = re.compile(r"\w+")
    return sum(bool(word.findall(document.text)) for document in read_documents(corpus))


def rows_of(folder: Path) -> int:
    """Rows of all Parquet files below a folder."""
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(path).num_rows for path in folder.rglob("*.parquet"))


def measured(python: Path, name: str, corpus: Path, workers: int) -> dict[str, Any]:
    """Processor seconds, peak memory of all its processes, and what is left, of one contender."""
    import psutil

    with tempfile.TemporaryDirectory() as folder:
        command = [str(python), "-m", "benchmarks.peers.dedup", str(corpus), "--only", name, "--out", folder]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        log = Path(folder) / "log"
        with log.open("wb") as sink:
            started = time.monotonic()
            process = subprocess.Popen(
                [*command, "--workers", str(workers)], env=environment, stdout=subprocess.PIPE, stderr=sink
            )
        peak, ended = 0, threading.Event()

        def watch() -> None:
            nonlocal peak
            while not ended.wait(0.2):
                try:
                    own = psutil.Process(process.pid)
                    peak = max(peak, sum(each.memory_full_info().pss for each in (own, *own.children(recursive=True))))
                except psutil.Error:
                    continue

        watcher = threading.Thread(target=watch)
        watcher.start()
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        ended.set()
        watcher.join()
        if process.returncode:
            raise click.ClickException(f"{name} failed: {log.read_text('utf-8')[-2_000:]}")
        return {
            "name": name,
            "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
            "seconds": round(time.monotonic() - started, 1),
            "peak_memory_mb": round(peak / 1e6),
            "documents_left": int(output.split()[-1]),
        }


@click.command(epilog="Example: python -m benchmarks.peers.dedup corpus --peers /tmp/peers/bin/python --rounds 2")
@click.argument("corpus", type=click.Path(path_type=Path), required=False)
@click.option(
    "--peers",
    type=click.Path(path_type=Path, exists=True),
    default=sys.executable,
    help="Python that has the peers, unless this one does.",
)
@click.option("--rounds", type=click.IntRange(1), default=1, show_default=True, help="How often all run, in turn.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes of ours.")
@click.option("--only", type=click.Choice([OURS, DATATROVE, DATASKETCH, LIMIT]), hidden=True)
@click.option("--out", type=click.Path(path_type=Path), hidden=True)
def main(corpus: Path | None, peers: Path, rounds: int, workers: int, only: str | None, out: Path | None) -> None:
    """Filter and deduplicate the documents in a folder; MB count text read, seconds those of a core.

    Without a folder it is the 150 MB of `benchmarks.peers.corpus`, made in the scratch folder where they are not there.
    """
    if corpus is None:
        corpus = load_settings().folder("scratch") / "peers-corpus"
        if not corpus.exists():
            print(write(corpus, 150), flush=True)
    if only is not None and out is not None:
        match only:
            case "twice":
                print(run_ours(corpus, out, workers))
            case "datatrove":
                print(run_datatrove(corpus, out))
            case "datasketch + Polars":
                print(run_datasketch(corpus, out))
            case _:
                print(run_limit(corpus))
        return
    megabytes = sum(size_of(path) for path in sorted(corpus.glob("*.parquet"))) / 1e6
    if not megabytes:
        raise click.BadParameter(f"{corpus} holds no documents; make some with `python -m benchmarks.peers.corpus`")
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in (OURS, DATASKETCH, DATATROVE, LIMIT)}
    for _ in range(rounds):
        for name, taken in results.items():
            taken.append(measured(Path(sys.executable) if name in (OURS, LIMIT) else peers, name, corpus, workers))
            print(json.dumps(taken[-1]), flush=True)
    notes = {
        name: f"{told[-1]['documents_left']:,} documents left, {told[-1]['peak_memory_mb']:,} MB"
        for name, told in results.items()
    }
    rates = {name: [megabytes / each["cpu_seconds"] for each in taken] for name, taken in results.items()}
    limit = (LIMIT, statistics.median(rates.pop(LIMIT)))
    del notes[LIMIT]
    tell(Found(f"filter and dedup, {megabytes:.0f} MB", "MB", rates, limit, notes))


def size_of(path: Path) -> int:
    """UTF-8 bytes of the texts of a shard."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    texts = pq.read_table(path, columns=["text"])["text"]
    return int(pc.sum(pc.binary_length(texts.cast("binary"))).as_py() or 0)


if __name__ == "__main__":
    main()
