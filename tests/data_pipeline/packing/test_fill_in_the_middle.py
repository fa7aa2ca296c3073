import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.augment import augment, rewrite
from data_pipeline.documents.documents import Document, document_id
from data_pipeline.pack import encode, pack
from data_pipeline.packing.fill_in_the_middle import Cut, arranged, cut_of, parts
from data_pipeline.tokens.token_store import TokenStore
from data_pipeline.tokens.tokenizer import Special, Tokenizer
from specs.common.errors import UserError
from specs.pipeline.nodes import TokenStoreNode
from specs.pipeline.stage import Ledger
from specs.schema.data import Augment, FillInTheMiddle

MakeDocument = Callable[..., Document]
ALL = Augment(fill_in_the_middle=FillInTheMiddle(rate=1.0))
SENTINELS = [special for special in Special if special.name.startswith("FIM_")]
ANY_TEXT = st.text(st.characters(codec="utf-8"), max_size=60) | st.lists(
    st.sampled_from([*(special.piece for special in SENTINELS), "fim-psm@0-1", "+", "\u2581", "\r\n", "é", "x = 1\n"])
).map("".join)


def make(text: str, language: str = "python", path: str = "a.py") -> Document:
    return Document(document_id(text), "s", path, "MIT", language, text)


def original(ids: Iterable[int], tokenizer: Tokenizer) -> str:
    """The text of a document whose middle comes last, from its ids alone."""
    parts: dict[int, list[int]] = {}
    for token in ids:
        if token in SENTINELS:
            assert token not in parts, "a control token occurs twice"
            parts[current := token] = []
        else:
            parts[current].append(token)
    assert set(parts) == set(SENTINELS)
    texts = {sentinel: tokenizer.decode(part) for sentinel, part in parts.items()}
    prefix, suffix, middle = texts[Special.FIM_PREFIX], texts[Special.FIM_SUFFIX], texts[Special.FIM_MIDDLE]
    # Suffix first: prefix and middle follow on one another.
    return prefix + middle + suffix


@given(ANY_TEXT, st.integers(0, 9), st.sampled_from([0.0, 0.5, 1.0]))
def test_a_cut_document_is_the_document(tokenizer: Tokenizer, text: str, seed: int, spm: float) -> None:
    section = Augment(fill_in_the_middle=FillInTheMiddle(rate=1.0, spm=spm), seed=seed)
    document, outcomes = augment(make(text, "text"), section)
    assert document.text == text and "".join(parts(text, cut_of(document))) == text
    (encoded,) = encode([document], True, tokenizer)
    ids = encoded.rendered.ids.tolist()
    assert ids[-1] == Special.DOCUMENT and encoded.rendered.loss.all()
    assert original(ids[:-1], tokenizer) == text
    order = outcomes["fill_in_the_middle"]
    assert order in {0.0: ["psm"], 0.5: ["psm", "spm"], 1.0: ["spm"]}[spm]
    assert (ids[1] == Special.FIM_SUFFIX) == (order == "spm" or not parts(text, cut_of(document))[0])


@given(ANY_TEXT)
def test_a_text_that_spells_a_control_token_is_text(tokenizer: Tokenizer, text: str) -> None:
    (encoded,) = encode([make(text)], True, tokenizer)
    assert not set(encoded.rendered.ids.tolist()) & set(SENTINELS)
    assert tokenizer.decode(encoded.rendered.ids[:-1]) == text


def test_parts_stand_as_published() -> None:
    encoded = [np.array(ids, np.uint16) for ids in ([100], [200, 201], [300])]
    p, m, s = int(Special.FIM_PREFIX), int(Special.FIM_MIDDLE), int(Special.FIM_SUFFIX)
    assert arranged(encoded, Cut("psm", 1, 3)).tolist() == [p, 100, s, 300, m, 200, 201]
    assert arranged(encoded, Cut("spm", 1, 3)).tolist() == [p, s, 300, m, 100, 200, 201]
    assert arranged(encoded[:1], None).tolist() == [100]


def test_the_cut_follows_from_document_and_seed_alone(library: list[Document]) -> None:
    cuts = [cut_of(augment(each, ALL)[0]) for each in library]
    renamed = [dataclasses.replace(each, source="other", path=f"{each.path}.old") for each in reversed(library)]
    assert [cut_of(each) for each in rewrite(renamed, ALL, Ledger())] == cuts[::-1]
    other = ALL.model_copy(update={"seed": 2})
    assert sum(cut == cut_of(augment(each, other)[0]) for cut, each in zip(cuts, library, strict=True)) < 3


def test_rates_hold_and_places_are_uniform() -> None:
    documents = [make(f"x = {number:04d}\n" * 10) for number in range(4_000)]
    section = Augment(fill_in_the_middle=FillInTheMiddle(rate=0.3, spm=0.25))
    ledger = Ledger()
    changed = list(rewrite(documents, section, ledger))
    cuts = [cut for each in changed if (cut := cut_of(each)) is not None]
    assert 1_080 < len(cuts) < 1_320
    orders = Counter(cut.order for cut in cuts)
    assert ledger.as_json()["facts"]["transforms"]["fill_in_the_middle"] == orders
    assert 0.2 < orders["spm"] / len(cuts) < 0.3
    # Of two uniform places in [0, 1] the lower has the mean 1/3, the higher 2/3.
    assert np.mean([cut.start for cut in cuts]) == pytest.approx(90 / 3, abs=3)
    assert np.mean([cut.stop for cut in cuts]) == pytest.approx(180 / 3, abs=3)
    # What is not chosen, and all without the section, is the document that it was.
    assert [each for each in changed if cut_of(each) is None] == [
        before for before, after in zip(documents, changed, strict=True) if cut_of(after) is None
    ]
    quiet = Ledger()
    assert list(rewrite(documents, Augment(), quiet)) == documents
    assert "fill_in_the_middle" not in quiet.as_json()["facts"]["transforms"]


def test_conversations_stay_whole_and_other_changes_come_first(library: list[Document]) -> None:
    chat = make('{"role": "user", "content": "fill"}\n', "conversation")
    assert augment(chat, ALL) == (chat, {})
    both = ALL.model_copy(update={"quotes": 1.0})
    document = max(library, key=lambda each: each.size)
    changed, _ = augment(document, both)
    assert changed.derived.startswith("quotes+fim-") and changed.text != document.text
    cut = cut_of(changed)
    assert cut is not None and "".join(parts(changed.text, cut)) == changed.text


@pytest.mark.parametrize(
    ("derived", "language"), [("fim-psm@2-1", "text"), ("fim-spm@0-99", "text"), ("quotes+fim-psm@0-1", "conversation")]
)
def test_a_mark_that_is_no_cut_is_named(derived: str, language: str) -> None:
    with pytest.raises(UserError, match=r"s/a.py: 'fim-.*' is no cut of its text; run the augment stage again"):
        cut_of(dataclasses.replace(make("text", language), derived=derived))


def test_the_store_holds_cut_documents_whole(library: list[Document], tokenizer: Tokenizer, tmp_path: Path) -> None:
    short = [make(f"def f{number}(x):\n    return x + {number}\n", path=f"{number:03d}.py") for number in range(60)]
    long = dataclasses.replace(library[0], source="s", path="z.py")
    half = Augment(fill_in_the_middle=FillInTheMiddle(rate=0.5))
    documents = [*(augment(each, half)[0] for each in short), augment(long, ALL)[0]]
    marked = {each.path: each.text for each in documents if cut_of(each) is not None}
    assert 15 < len(marked) < 46
    node = TokenStoreNode(
        corpus="c", tokenizer="t", context_length=128, loss="all", template="turns-v1", weights={"s": 1}
    )
    ledger = Ledger()
    pack(documents, node, tokenizer, tmp_path / "store", ledger)
    assert ledger.as_json()["sources"]["s"]["fill_in_the_middle"] == len(marked)
    store = TokenStore.open(tmp_path / "store")
    rows = store.rows(range(len(store)))
    ids: dict[str, dict[int, int]] = {}
    learnt: dict[str, set[int]] = {}
    for row in range(len(store)):
        for origin in store.origins(row):
            places = range(origin.offset, origin.offset + origin.length)
            span = slice(origin.start, origin.start + origin.length)
            ids.setdefault(origin.path, {}).update(zip(places, rows.tokens[row, span].tolist(), strict=True))
            targets = np.flatnonzero(rows.loss[row, span]) + origin.offset
            learnt.setdefault(origin.path, set()).update(targets.tolist())
    for path, found in ids.items():
        whole = [found[place] for place in range(len(found))]
        assert learnt[path] == set(range(1, len(whole)))
        assert whole[-1] == Special.DOCUMENT and (whole[0] == Special.FIM_PREFIX) == (path in marked)
        if path in marked:
            assert original(whole[:-1], tokenizer) == marked[path]


def test_random_numbers_are_the_same_in_every_python() -> None:
    assert Cut.draw(1_000, FillInTheMiddle(), random.Random(7)) == Cut("spm", 151, 651)
