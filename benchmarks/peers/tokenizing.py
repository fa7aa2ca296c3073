"""Text to ids, beside Hugging Face's tokenizers with the same vocabulary and scores, and bare SentencePiece."""

import os
from collections.abc import Callable

import click

from benchmarks.measuring.cost import cost
from benchmarks.peers import Found, in_turn, tell
from benchmarks.workloads.inputs import library, prepare

MEGABYTES = 3


def hugging_face(pieces: list[tuple[str, float]], unknown: int) -> Callable[[list[str]], list[list[int]]]:
    """Its Unigram model over the same pieces, spaces marked in the same way, bytes as the fallback."""
    from tokenizers import Tokenizer
    from tokenizers.models import Unigram
    from tokenizers.pre_tokenizers import Metaspace

    model = Tokenizer(Unigram(pieces, unk_id=unknown, byte_fallback=True))
    model.pre_tokenizer = Metaspace(prepend_scheme="never", split=False)

    def encode(texts: list[str]) -> list[list[int]]:
        return [each.ids for each in model.encode_batch(texts, add_special_tokens=False)]

    return encode


@click.command(epilog="Example: python -m benchmarks.peers.tokenizing")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Rounds that count.")
def main(rounds: int) -> None:
    """Encode the standard library with both, and compare processor time."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    tokenizer = prepare().tokenizer
    processor = tokenizer.processor
    documents = library(MEGABYTES * 1_000_000)
    texts = [document.text for document in documents]
    size = sum(document.size for document in documents) / 1e6
    pieces = [(processor.id_to_piece(index), processor.get_score(index)) for index in range(tokenizer.vocab_size)]
    theirs = hugging_face(pieces, processor.unk_id())
    threads = len(os.sched_getaffinity(0))
    ours = [ids.tolist() for ids in tokenizer.encode_batch(texts)]
    equal = sum(left == right for left, right in zip(ours, theirs(texts), strict=True))
    rates = in_turn(
        rounds,
        {
            "twice": lambda: size / cost(lambda: tokenizer.encode_batch(texts)).cpu,
            "Hugging Face tokenizers": lambda: size / cost(lambda: theirs(texts)).cpu,
            "bare": lambda: size / cost(lambda: processor.encode(texts, out_type="numpy", num_threads=threads)).cpu,
        },
    )
    bare = sorted(rates.pop("bare"))[rounds // 2]
    notes = {"Hugging Face tokenizers": f"the same ids for {equal} of {len(texts)} texts"}
    tell(Found("tokenizing, unigram 4,096", "MB", rates, ("bare SentencePiece", bare), notes))


if __name__ == "__main__":
    main()
