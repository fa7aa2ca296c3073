import io
import json
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import SentencePieceTrainer

from data_pipeline import train_tokenizer as stage_module
from data_pipeline.documents.documents import Document, write_documents
from data_pipeline.tokens.tokenizer import MODEL, WORD_MARK, Special, Tokenizer
from data_pipeline.train_tokenizer import CHUNK_CHARACTERS, main, sample, train
from specs.common.errors import UserError
from specs.common.files import tree_digests
from specs.pipeline.nodes import TokenizerNode
from specs.schema import data

MakeDocument = Callable[..., Document]

HARD = [WORD_MARK, "\u2585", "\0", "\r\n", "\r", "\x1b", "\x85", "\ufeff", "\ufffd", "\u2028", "\t" * 11, "   ", " ",
        "e\u0301", "\U0010ffff", "<document>", "<unk>", "<0x41>", "def f(x):\n\treturn x"]  # fmt: skip
any_text = st.text(st.characters(exclude_categories=["Cs"]))
hard_text = st.lists(st.sampled_from(HARD) | any_text, max_size=8).map("".join)


@given(text=hard_text)
def test_every_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert ids.dtype == np.uint16
    assert tokenizer.decode(ids) == text
    assert not len(ids) or int(ids.min()) >= len(Special), "text produced a control token"


@pytest.mark.parametrize("text", [*HARD, *(special.piece for special in Special)])
def test_every_hard_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert int(tokenizer.encode(text).min()) >= len(Special)


def test_the_word_mark_is_lost_without_the_escape(tokenizer: Tokenizer) -> None:
    bare = tokenizer.processor
    assert bare.decode(bare.encode(f"a{WORD_MARK}b")) == "a b"


@given(texts=st.lists(hard_text, max_size=5))
def test_neighbouring_texts_may_be_joined(tokenizer: Tokenizer, texts: list[str]) -> None:
    batch = tokenizer.encode_batch(texts)
    assert [ids.tolist() for ids in batch] == [tokenizer.encode(text).tolist() for text in texts]
    assert tokenizer.decode([number for ids in batch for number in ids.tolist()]) == "".join(texts)


def test_the_number_of_cores_changes_no_id(
    tokenizer: Tokenizer, library: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [document.text for document in library]
    encoded = []
    for cores in (1, 3):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        encoded.append([ids.tobytes() for ids in tokenizer.encode_batch(texts)])
    assert encoded[0] == encoded[1]


def test_a_lone_surrogate_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"lone surrogate U\+D800 at character 2"):
        tokenizer.encode_batch(["fine", "ab\ud800"])


def test_control_tokens_decode_to_nothing(tokenizer: Tokenizer) -> None:
    inner = tokenizer.encode(" x = 1")
    assert tokenizer.decode([Special.ASSISTANT, *inner, Special.END, Special.PAD]) == " x = 1"
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("number", [-1, 1_024, 65_535])
def test_ids_outside_the_vocabulary_are_refused(tokenizer: Tokenizer, number: int) -> None:
    with pytest.raises(ValueError, match="leave the vocabulary of 1024"):
        tokenizer.decode([20, number])


def test_newlines_are_learnt_within_pieces(tokenizer: Tokenizer) -> None:
    pieces = [tokenizer.processor.id_to_piece(index) for index in range(tokenizer.vocab_size)]
    assert any(piece.endswith(":\n") for piece in pieces)


@given(
    sizes=st.lists(st.integers(1, 30), unique=True, max_size=12),
    wanted=st.integers(1, 200),
    order=st.randoms(use_true_random=False),
)
def test_sample_is_the_shortest_sufficient_prefix_in_hash_order(
    document: MakeDocument, sizes: list[int], wanted: int, order: object
) -> None:
    documents = [document("x" * size, path=f"{size}.py") for size in sizes]
    everything = sample(documents, 10**9)
    expected, total = [], 0
    for candidate in everything:
        if total >= wanted:
            break
        expected.append(candidate)
        total += candidate.size
    shuffled = list(documents)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert sample(shuffled, wanted) == expected
    assert sorted(everything, key=lambda one: one.size) == sorted(documents, key=lambda one: one.size)


@given(lines=st.lists(st.integers(0, 3 * CHUNK_CHARACTERS), max_size=6), ended=st.booleans())
def test_chunks_are_short_and_cut_after_newlines(lines: list[int], ended: bool) -> None:
    text = "\n".join("x" * length for length in lines) + "\n" * ended
    chunks = list(stage_module._chunks(text))
    assert "".join(chunks) == text
    assert all(0 < len(chunk) <= CHUNK_CHARACTERS for chunk in chunks)
    assert all(chunk.endswith("\n") or "\n" not in chunk for chunk in chunks[:-1])


def test_training_reads_messages_without_their_json(document: MakeDocument) -> None:
    lines = [{"role": "user", "content": 'say "hi"\n'}, {"role": "assistant", "content": "hi"}]
    conversation = document("\n".join(map(json.dumps, lines)), language="conversation")
    assert list(stage_module._texts(conversation)) == ['say "hi"\n', "hi"]


def test_training_twice_gives_the_same_model(
    library: list[Document], small_tokenizer: data.Tokenizer, tokenizer: Tokenizer
) -> None:
    assert sha256(train(library, small_tokenizer)).hexdigest() == tokenizer.sha256
    # The control: the order of documents does matter to SentencePiece, which is why `sample` fixes it.
    assert sha256(train(library[::-1], small_tokenizer)).hexdigest() != tokenizer.sha256


def test_too_large_a_vocabulary_names_the_largest(library: list[Document], small_tokenizer: data.Tokenizer) -> None:
    wanted = small_tokenizer.model_copy(update={"vocab_size": 60_000})
    with pytest.raises(UserError, match=r"'small': the sample fills ([\d,]+) pieces at most, not vocab_size 60,000"):
        train(library, wanted)


def test_too_small_a_vocabulary_names_what_is_needed(document: MakeDocument, small_tokenizer: data.Tokenizer) -> None:
    many = document("".join(map(chr, range(0x4E00, 0x5200))))
    wanted = small_tokenizer.model_copy(update={"vocab_size": 512, "character_coverage": 1.0})
    with pytest.raises(UserError, match=r"single characters and bytes alone take 1,\d+ pieces"):
        train([many], wanted)


def test_a_missing_or_damaged_model_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run the tokenizer stage"):
        Tokenizer.load(tmp_path)
    (tmp_path / MODEL).write_bytes(tokenizer.processor.serialized_model_proto()[:5_000])
    with pytest.raises(UserError, match="not a whole SentencePiece model"):
        Tokenizer.load(tmp_path)


def test_a_foreign_model_is_refused(library: list[Document]) -> None:
    model = io.BytesIO()
    lines = (line for document in library for line in document.text.splitlines())
    SentencePieceTrainer.train(sentence_iterator=lines, model_writer=model, vocab_size=500, minloglevel=2)
    with pytest.raises(UserError, match="not this project's control tokens"):
        Tokenizer.from_model(model.getvalue(), "foreign")


def run_stage(node: TokenizerNode, folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    monkeypatch.setattr("specs.pipeline.stage.node", lambda address, kind: node)
    result = CliRunner().invoke(main, ["tokenizers.small", "--documents", str(folder), "--out", str(out)])
    return result.exit_code, result.output


def test_the_stage_depends_on_documents_not_on_their_order(
    library: list[Document], small_tokenizer: data.Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = TokenizerNode(corpus="library", tokenizer=small_tokenizer)
    for name, sources in (("one", ["email", "json"]), ("two", ["json", "email"])):
        write_documents(tmp_path / name, library, sources)
        assert run_stage(node, tmp_path / name, tmp_path / f"{name}-out", monkeypatch)[0] == 0
    first, second = (tree_digests(tmp_path / f"{name}-out") for name in ("one", "two"))
    assert first[MODEL] == second[MODEL]
    ledger = json.loads((tmp_path / "one-out" / "ledger.json").read_text("utf-8"))
    assert ledger["documents_in"] == len(library)
    assert 300_000 <= ledger["bytes_out"] < ledger["bytes_in"]
    assert ledger["facts"] == {"model_sha256": first[MODEL], "vocab_size": 1_024}


def test_a_corpus_without_documents_keeps_the_old_tokenizer(
    small_tokenizer: data.Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_documents(tmp_path / "empty", [], ["email"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MODEL).write_bytes(b"old")
    node = TokenizerNode(corpus="library", tokenizer=small_tokenizer)
    code, output = run_stage(node, tmp_path / "empty", tmp_path / "out", monkeypatch)
    assert code == 2 and "holds no documents" in output
    assert (tmp_path / "out" / MODEL).read_bytes() == b"old"
