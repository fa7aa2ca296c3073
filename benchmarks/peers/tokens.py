"""Tokenizing beside a bare SentencePiece loop, and random reads of a token store with checksums, in one run.

python -m benchmarks.peers.tokens artifacts/corpora/smoke-code/documents artifacts/tokenizers/unigram-8k \
    artifacts/token-stores/smoke-code-unigram-8k-512
"""

import json
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import median

import click
import numpy as np

from data_pipeline.documents.documents import plain_text, read_documents
from data_pipeline.tokens.token_store import TokenStore
from data_pipeline.tokens.tokenizer import Tokenizer


def seconds(work: Callable[[], object]) -> float:
    """Processor seconds of a call, over all threads."""
    started = time.process_time()
    work()
    return time.process_time() - started


@click.command(epilog="Example: python -m benchmarks.peers.tokens documents tokenizer store --megabytes 8 --rounds 5")
@click.argument("documents", type=click.Path(path_type=Path, exists=True))
@click.argument("tokenizer", type=click.Path(path_type=Path, exists=True))
@click.argument("store", type=click.Path(path_type=Path, exists=True))
@click.option("--megabytes", default=8, help="Text that is encoded in each round.")
@click.option("--rounds", default=5, help="How often both run, in turn.")
def main(documents: Path, tokenizer: Path, store: Path, megabytes: int, rounds: int) -> None:
    """Print one line of JSON."""
    loaded, texts, size = Tokenizer.load(tokenizer), [], 0
    for document in read_documents(documents):
        texts.append(plain_text(document.language, document.text))
        size += len(texts[-1].encode())
        if size > megabytes * 10**6:
            break
    encode = loaded.processor.encode
    ours, bare = [], []
    for _ in range(rounds):
        ours.append(seconds(lambda: loaded.encode_batch(texts, threads=1)))
        bare.append(seconds(lambda: [encode(text, out_type="numpy") for text in texts]))
    opened = TokenStore.open(store)
    places = np.random.default_rng(1).integers(0, len(opened), 20_000)
    reading = seconds(lambda: [opened.rows(batch) for batch in np.array_split(places, 200)])
    single = seconds(lambda: [opened.rows([place]) for place in islice(places, 2_000)])
    figures = {
        "encode_mb_per_cpu_second": round(size / 1e6 / median(ours), 2),
        "bare_mb_per_cpu_second": round(size / 1e6 / median(bare), 2),
        "encode_over_bare": round(median(a / b for a, b in zip(ours, bare, strict=True)), 3),
        "rows_per_cpu_second_in_hundreds": round(len(places) / reading),
        "rows_per_cpu_second_one_by_one": round(2_000 / single),
        "ids_in_a_row": opened.manifest.context_length + 1,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
