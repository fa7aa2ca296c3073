import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import pack as pack_module
from data_pipeline.documents.documents import (
    Document,
    Message,
    document_id,
    parse_conversation,
    render_conversation,
    write_documents,
)
from data_pipeline.pack import main, pack
from data_pipeline.packing.best_fit import LEAST, best_fit, cut
from data_pipeline.packing.chat_template import Rendered, render
from data_pipeline.packing.epochs import by_times
from data_pipeline.tokens.shuffle import Order
from data_pipeline.tokens.token_store import TokenStore
from data_pipeline.tokens.tokenizer import MODEL, Ids, Special, Tokenizer
from specs.common.errors import UserError
from specs.common.files import tree_digests
from specs.pipeline.nodes import TokenStoreNode
from specs.pipeline.stage import Ledger

MakeDocument = Callable[..., Document]
LENGTH = 64


def make_node(loss: str, weights: dict[str, int], length: int = LENGTH) -> TokenStoreNode:
    return TokenStoreNode(
        corpus="c", tokenizer="t", context_length=length, loss=loss, template="turns-v1", weights=weights
    )


@pytest.fixture(scope="module")
def documents(library: list[Document], document: MakeDocument) -> list[Document]:
    """Three sources: Python, short lines of it, and conversations of which one is longer than a row."""
    lines = [line for module in library[:3] for line in module.text.splitlines() if line.strip()]
    notes = [document(line, "notes", f"{number:05d}.txt") for number, line in enumerate(lines[:700])]
    turns = [Message("system", "s" * 300), Message("user", "question"), Message("assistant", "an answer\n" * 30)]
    chats = [document(render_conversation(turns[start:]), "chats", f"{start}", "conversation") for start in range(3)]
    return [*library[4:9], *notes, *chats]


WEIGHTS = {"chats": 1, "email": 2, "unused": 1, "json": 3, "notes": 1}


@pytest.fixture(scope="module")
def packed(documents: list[Document], tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    out = tmp_path_factory.mktemp("packed") / "store"
    pack(documents, make_node("all", WEIGHTS), tokenizer, out, Ledger())
    return TokenStore.open(out)


def ids_of(document: Document, tokenizer: Tokenizer) -> list[int]:
    """What a document must become: its text or turns, then `<document>`."""
    if document.language == "conversation":
        ids = render([parse_conversation(document.text)], tokenizer)[0].ids
    else:
        ids = tokenizer.encode(document.text)
    return [*ids.tolist(), Special.DOCUMENT]


@given(capacity=st.integers(2, 50), data=st.data())
def test_best_fit_places_each_once_and_within_capacity(capacity: int, data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(LEAST, capacity), max_size=60))
    rows = best_fit(lengths, capacity)
    assert Counter(index for row in rows for index in row) == Counter(range(len(lengths)))
    assert all(0 < sum(lengths[index] for index in row) <= capacity for row in rows)
    assert rows == sorted(sorted(row) for row in rows)
    # A new row is opened only for what fits nowhere, so two rows are never both half empty.
    assert sum(2 * sum(lengths[index] for index in row) <= capacity for row in rows) <= 1


def test_best_fit_chooses_the_tightest_row() -> None:
    assert best_fit([7, 6, 3, 4], 10) == [[0, 2], [1, 3]]


@given(size=st.integers(0, 40), capacity=st.integers(2, 12), first=st.integers(0, 1))
def test_cut_makes_every_id_but_the_first_a_target_once(size: int, capacity: int, first: int) -> None:
    ids = np.arange(size, dtype=np.uint16)
    loss = np.ones(size, np.uint8)
    loss[:1] = first
    pieces = list(cut(Rendered(ids, loss), capacity))
    targets = [number for _, piece in pieces for number in piece.ids[piece.loss == 1].tolist()]
    assert targets == list(range(1, size))
    for offset, piece in pieces:
        assert LEAST <= len(piece.ids) <= capacity and piece.loss[0] == 0
        assert piece.ids.tolist() == list(range(offset, offset + len(piece.ids)))
    assert all(len(piece.ids) == capacity for _, piece in pieces[:-1])


def test_every_document_can_be_put_together_again(
    packed: TokenStore, documents: list[Document], tokenizer: Tokenizer
) -> None:
    rows = packed.rows(range(len(packed)))
    found: dict[tuple[str, str], dict[int, int]] = {}
    for row in range(len(packed)):
        end = 0
        for ordinal, origin in enumerate(packed.origins(row)):
            assert origin.start == end
            end += origin.length
            span = slice(origin.start, end)
            assert (rows.documents[row, span] == ordinal).all()
            assert rows.loss[row, span].tolist() == [0] + [1] * (origin.length - 1)
            ids = found.setdefault((origin.source, origin.path), {})
            for place, token in enumerate(rows.tokens[row, span].tolist(), start=origin.offset):
                assert ids.setdefault(place, token) == token
        assert (rows.tokens[row, end:] == Special.PAD).all()
        assert (rows.documents[row, end:] == len(packed.origins(row))).all()
        assert not rows.loss[row, end:].any()
    expected = {(one.source, one.path): dict(enumerate(ids_of(one, tokenizer))) for one in documents}
    assert found == expected


def test_each_source_has_its_own_rows(packed: TokenStore) -> None:
    ranges = {source.name: (source.start, source.stop) for source in packed.manifest.sources}
    assert list(ranges) == ["email", "notes", "chats", "json", "unused"]
    assert {source.name: source.weight for source in packed.manifest.sources} == WEIGHTS
    for row in range(len(packed)):
        (source,) = {origin.source for origin in packed.origins(row)}
        assert ranges[source][0] <= row < ranges[source][1]
    assert ranges["json"] == ranges["unused"] == (len(packed), len(packed))


def test_hardly_anything_is_padding(packed: TokenStore) -> None:
    tokens = packed.rows(range(len(packed))).tokens
    assert (tokens == Special.PAD).sum() <= 3 * LENGTH + 0.001 * tokens.size


def test_packing_twice_gives_the_same_bytes(
    packed: TokenStore, documents: list[Document], tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # How much text is encoded in one call is no part of the result.
    monkeypatch.setattr(pack_module, "BATCH_CHARACTERS", 5_000)
    pack(documents, make_node("all", WEIGHTS), tokenizer, tmp_path / "again", Ledger())
    assert tree_digests(tmp_path / "again") == tree_digests(packed.path)


def test_small_windows_lose_nothing(
    packed: TokenStore, documents: list[Document], tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_module, "WINDOW", 7)
    pack(documents, make_node("all", WEIGHTS), tokenizer, tmp_path / "store", Ledger())
    other = TokenStore.open(tmp_path / "store")

    def targets(store: TokenStore) -> Ids:
        rows = store.rows(range(len(store)))
        return np.sort(rows.tokens[rows.loss == 1])

    assert targets(other).tolist() == targets(packed).tolist()
    # The control: with so little to choose from, more is padding.
    assert len(other) > len(packed)


def seen(store: TokenStore, seed: int, cycle: int, held_out: int = 0) -> Counter[str]:
    """How often each document is seen in one cycle of training, by its path."""
    order = Order(store.shares, seed, held_out)
    rows = Counter(order.rows(cycle * order.slots, order.slots).tolist())
    found: dict[str, set[int]] = {}
    for row in set(range(len(store))) - set(order.held_out.tolist()):
        for origin in store.origins(row):
            found.setdefault(origin.path, set()).add(rows[row])
    assert all(len(times) == 1 for times in found.values()), "parts of one document are seen unequally often"
    return Counter({path: times.pop() for path, times in found.items()})


@settings(max_examples=15)
@given(st.integers(1, 35), st.integers(1, 2), st.integers(1, 40), st.integers(0, 3), st.integers(0, 2))
def test_every_document_is_seen_as_often_as_its_epochs_say(
    document: MakeDocument, tokenizer: Tokenizer, tenths: int, weight: int, count: int, seed: int, cycle: int
) -> None:
    documents = [document(f"x = {number}\n", "s", f"{number:02d}.py") for number in range(count)]
    others = [document(f"y = {number}\n", "whole", f"w{number}.py") for number in range(5)]
    node = make_node("all", {"s": weight, "whole": 1}).model_copy(update={"epochs": {"s": tenths / 10, "whole": 1.0}})
    whole, extra = tenths // 10, (tenths % 10 * count + 5) // 10
    with TemporaryDirectory() as folder:
        out, ledger = Path(folder) / "store", Ledger()
        if not whole and not extra:
            with pytest.raises(UserError, match=f"source 's': 0.* epochs of {count} documents are none"):
                pack([*documents, *others], node, tokenizer, out, ledger)
            return
        pack([*documents, *others], node, tokenizer, out, ledger)
        times = seen(TokenStore.open(out), seed, cycle)
    expected = Counter({(whole + 1) * weight: extra}) + Counter({whole * weight: count - extra})
    assert Counter(times[each.path] for each in documents) == expected
    assert {times[other.path] for other in others} == {1}
    # Every document is packed, or left out and counted.
    told = ledger.as_json()
    assert told["documents_in"] == count + 5
    assert told["documents_out"] == 5 + (count if whole else extra)


@given(st.permutations(range(30)), st.integers(1, 29))
def test_the_fraction_is_chosen_by_content(document: MakeDocument, order: list[int], count: int) -> None:
    documents = [document(f"x = {number}\n", "s", f"{number:02d}.py") for number in range(30)]

    def chosen(given: list[Document], epochs: float) -> set[str]:
        _, first = next(by_times("s", lambda: given, epochs, 1))
        return {each.path for each in first}

    alone = chosen(documents, count / 30)
    assert len(alone) == count and chosen([documents[place] for place in order], count / 30) == alone
    # More epochs keep what fewer have, and further passes over all add the same ones.
    assert alone <= chosen(documents, (count + 0.5) / 30)
    assert chosen(documents, 2 + count / 30) == alone


def test_answers_only(documents: list[Document], tokenizer: Tokenizer, tmp_path: Path) -> None:
    ledger = Ledger()
    node = make_node("answers", WEIGHTS)
    with pytest.raises(UserError, match=r"source '.*': pack leaves none of its .* documents: nothing to learn"):
        pack(documents, node, tokenizer, tmp_path / "refused", Ledger())
    node = node.model_copy(update={"may_be_empty": tuple(WEIGHTS)})
    pack(documents, node, tokenizer, tmp_path / "store", ledger)
    store = TokenStore.open(tmp_path / "store")
    rows = store.rows(range(len(store)))
    answer = [*tokenizer.encode("an answer\n" * 30).tolist(), Special.END]
    assert sorted(rows.tokens[rows.loss == 1].tolist()) == sorted(3 * answer)
    told = ledger.as_json()
    others = [one for one in documents if one.source != "chats"]
    assert told["documents_in"] == len(documents) and told["documents_out"] == 3
    assert told["drops"]["nothing to learn"]["documents"] == len(others)  # type: ignore[index]
    assert told["facts"]["targets"] == int(rows.loss.sum())  # type: ignore[index]


def test_a_store_with_nothing_to_learn_is_refused(
    library: list[Document], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="no document holds anything to learn under loss 'answers'"):
        pack(library[:1], make_node("answers", WEIGHTS), tokenizer, tmp_path / "store", Ledger())


def test_documents_of_another_corpus_are_refused(library: list[Document], tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'email': it has no weight in 'c'"):
        pack(library[:1], make_node("all", {"json": 1}), tokenizer, tmp_path / "one", Ledger())
    apart = [library[0], library[-1], library[1]]
    with pytest.raises(UserError, match="'email': it comes a second time"):
        pack(apart, make_node("all", WEIGHTS), tokenizer, tmp_path / "two", Ledger())


def test_a_message_that_is_not_unicode_is_named(document: MakeDocument, tokenizer: Tokenizer, tmp_path: Path) -> None:
    bad = document('{"role": "user", "content": "\\ud800"}\n', "chats", "bad.jsonl#4", "conversation")
    with pytest.raises(UserError, match=r"chats/bad\.jsonl#4: .*lone surrogate U\+D800"):
        pack([bad], make_node("all", WEIGHTS), tokenizer, tmp_path / "store", Ledger())


def run_stage(
    folder: Path, weights: dict[str, int], monkeypatch: pytest.MonkeyPatch, epochs: float = 1.0
) -> tuple[int, str]:
    node = make_node("all", weights).model_copy(update={"epochs": dict.fromkeys(weights, epochs)})
    monkeypatch.setattr("specs.pipeline.stage.node", lambda address, kind: node)
    names = {"--documents": "documents", "--tokenizer": "tokenizer", "--out": "store"}
    arguments = [part for option, name in names.items() for part in (option, str(folder / name))]
    result = CliRunner().invoke(main, ["token_stores.c", *arguments])
    return result.exit_code, result.output


def test_the_stage(
    library: list[Document], tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_documents(tmp_path / "documents", library[4:7], ["email"])
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / MODEL).write_bytes(tokenizer.processor.serialized_model_proto())
    assert run_stage(tmp_path, {"email": 1}, monkeypatch)[0] == 0
    before = tree_digests(tmp_path / "store")
    store = TokenStore.open(tmp_path / "store")
    ledger = json.loads((tmp_path / "store" / "ledger.json").read_text("utf-8"))
    assert store.manifest.tokenizer_sha256 == tokenizer.sha256
    assert ledger["documents_out"] == 3 and ledger["facts"]["rows"] == len(store)
    # The same bytes as in one process, also where a source is read more than once.
    for epochs in (1.5, 1.0):
        assert run_stage(tmp_path, {"email": 1}, monkeypatch, epochs)[0] == 0
        node = make_node("all", {"email": 1}).model_copy(update={"epochs": {"email": epochs}})
        pack(library[4:7], node, tokenizer, tmp_path / f"alone-{epochs}", Ledger())
        assert tree_digests(tmp_path / f"alone-{epochs}") == tree_digests(tmp_path / "store")
    assert [share.weight for share in TokenStore.open(tmp_path / "alone-1.5").shares] == [2, 1]
    # Bad input leaves the finished store as it was.
    code, output = run_stage(tmp_path, {"json": 1}, monkeypatch)
    assert code == 2 and output.splitlines()[-1].startswith("error: documents of source 'email'")
    assert tree_digests(tmp_path / "store") == before


def test_a_document_of_one_id_yields_no_row_and_is_dropped(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Nothing precedes its only id, so nothing can be learnt from it."""
    one = Document(document_id(""), "email", "empty.py", "MIT", "python", "")
    two = Document(document_id("x"), "email", "x.py", "MIT", "python", "x")
    ledger = Ledger()
    pack([one, two], make_node("all", {"email": 1}), tokenizer, tmp_path / "store", ledger)
    store = TokenStore.open(tmp_path / "store")
    assert len(store) == 1 and [origin.path for origin in store.origins(0)] == ["x.py"]
    told = ledger.as_json()
    assert (told["documents_in"], told["documents_out"]) == (2, 1)
    assert told["drops"]["nothing to learn"]["examples"] == ["email/empty.py"]  # type: ignore[index]
