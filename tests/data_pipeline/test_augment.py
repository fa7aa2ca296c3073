import ast
import hashlib

from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.augment import augment, rewrite
from data_pipeline.augmentations.python_layout import TRANSFORMS
from data_pipeline.documents.documents import Document, document_id
from specs.pipeline.stage import Ledger
from specs.schema.data import Augment

ALWAYS = Augment(rename_locals=1.0, quotes=1.0, indent=1.0, blank_lines=1.0, comments=1.0)


def make(text: str, path: str, language: str = "python") -> Document:
    return Document(document_id(text), "s", path, "MIT", language, text)


def test_a_document_keeps_its_id_and_says_how_it_was_derived(library: list[Document]) -> None:
    document = max(library, key=lambda each: each.size)
    changed, outcomes = augment(document, ALWAYS)
    assert outcomes == dict.fromkeys(TRANSFORMS, "applied")
    assert (changed.id, changed.path, changed.derived) == (document.id, document.path, "+".join(TRANSFORMS))
    assert changed.text != document.text
    assert len(ast.parse(changed.text).body) == len(ast.parse(document.text).body)


def test_a_share_of_zero_and_other_languages_change_nothing(library: list[Document]) -> None:
    assert all(augment(document, Augment()) == (document, {}) for document in library)
    prose = make("x = 'a'\n", "a.md", "markdown")
    assert augment(prose, ALWAYS) == (prose, {})


@given(st.permutations(range(30)), st.integers(0, 3))
def test_the_choice_depends_on_document_and_seed_alone(order: list[int], seed: int) -> None:
    documents = [make(f"x = 'number {number}'\n", f"{number}.py") for number in range(30)]
    section = Augment(quotes=0.5, seed=seed)
    alone = {document.path: augment(document, section)[0] for document in documents}
    shuffled = rewrite([documents[place] for place in order], section, Ledger())
    assert {document.path: document for document in shuffled} == alone


def test_shares_hold_and_seeds_differ() -> None:
    documents = [make(f"x = 'number {number}'\n", f"{number}.py") for number in range(2_000)]
    chosen = [{each.path for each in documents if augment(each, Augment(quotes=0.2, seed=seed))[1]} for seed in (1, 2)]
    assert all(330 < len(paths) < 470 for paths in chosen)
    assert len(chosen[0] & chosen[1]) < 150


def test_the_ledger_counts_outcomes(library: list[Document]) -> None:
    ledger = Ledger()
    broken = make("print 'python 2'\n", "old.py")
    plain = make("x = 1\n", "plain.py")
    assert list(rewrite([broken, plain], Augment(quotes=1.0), ledger)) == [broken, plain]
    facts = ledger.as_json()["facts"]
    assert facts["transforms"]["quotes"] == {"nothing to change": 1, "unproven": 1}
    assert facts["unproven"] == ["s/old.py: quotes"]


def test_the_bytes_are_the_same_on_every_machine() -> None:
    text = "def f(a):\n    total = 'x'\n\n    for part in a:\n        total += part\n    return total\n"
    texts = [augment(make(text + f"# {number}\n", "a.py"), ALWAYS)[0].text for number in range(20)]
    assert (
        hashlib.sha256("".join(texts).encode()).hexdigest()
        == "3e4a61e6c9f844086f15c586918a5dbadbbbbabd69953028ae384ebb5e84e185"
    )
