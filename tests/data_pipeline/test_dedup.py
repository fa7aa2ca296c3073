import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.dedup import dedup
from data_pipeline.documents import documents as documents_module
from data_pipeline.documents.documents import (
    Document,
    Message,
    document_id,
    read_documents,
    render_conversation,
    write_documents,
)
from data_pipeline.documents.engine import Engine
from data_pipeline.near_duplicates.connected_components import forest, members, merged
from data_pipeline.near_duplicates.minhash import band_keys, verified
from data_pipeline.near_duplicates.shingles import jaccard, shingles
from data_pipeline.text.words import words
from specs.schema.data import Corpus, Dedup, MinHash
from specs.schema.sources import LocalFile, Source

SECTION = MinHash()


def text(seed: int, length: int = 120) -> list[str]:
    rng = random.Random(seed)
    return [f"w{rng.randrange(10_000)}" for _ in range(length)]


def edited(found: list[str], changes: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    result = list(found)
    for place in rng.sample(range(len(found)), changes):
        result[place] = f"changed{seed}x{place}"
    return result


def make(found: list[str] | str, source: str, path: str, language: str = "text") -> Document:
    joined = found if isinstance(found, str) else " ".join(found)
    return Document(document_id(joined), source, path, "MIT", language, joined)


def corpus() -> list[Document]:
    documents = [make(text(seed), "a", f"{seed:03}") for seed in range(60)]
    documents += [make(edited(text(seed), 2, seed), "b", f"near-{seed:03}") for seed in range(0, 60, 2)]
    documents += [make(text(seed), "b", f"same-{seed:03}") for seed in range(0, 60, 5)]
    documents += [make(f"short {seed % 2}", "b", f"short-{seed}") for seed in range(4)]
    return documents


def share_a_band(documents: list[Document], section: MinHash) -> set[tuple[str, str]]:
    """Paths of the pairs that LSH proposes."""
    _, keys = band_keys(documents, section)
    holders: dict[int, list[str]] = {}
    for document, row in zip(documents, keys.tolist(), strict=True):
        for key in set(row) - {0}:
            holders.setdefault(key, []).append(document.path)
    return {(a, b) for held in holders.values() for i, a in enumerate(held) for b in held[i + 1 :]}


def test_short_and_empty_texts_are_no_candidates() -> None:
    documents = [make(("" if seed % 2 else "one two three ") * 2, "a", str(seed)) for seed in range(6)]
    assert share_a_band(documents, SECTION) == set()
    # The control: long enough, they are.
    assert share_a_band(documents, MinHash(min_words=1)) == {("0", "2"), ("0", "4"), ("2", "4")}


def test_another_seed_draws_other_hashes_and_finds_the_same() -> None:
    documents = corpus()[:120]
    one, other = band_keys(documents, SECTION)[1], band_keys(documents, MinHash(seed=2))[1]
    assert (one != other).mean() > 0.9
    assert share_a_band(documents, SECTION) == share_a_band(documents, MinHash(seed=2))


@pytest.mark.parametrize("length", [24, 80, 400, 3_000])
def test_each_row_of_a_signature_agrees_as_often_as_two_texts_are_similar(length: int) -> None:
    single = MinHash(bands=240, rows=1)
    documents = []
    for seed in range(60):
        found = text(seed, length)
        documents += [make(found, "a", f"{seed}"), make(edited(found, length // 24, seed), "b", f"{seed}")]
    keys = band_keys(documents, single)[1]
    sets = [found for _, found in shingles(documents, single.shingle_words)]
    similar = np.array([jaccard(*pair) for pair in zip(sets[::2], sets[1::2], strict=True)])
    agree = (keys[::2] == keys[1::2]).mean(axis=1)
    # 240 draws for each of 60 pairs have a standard error of 0.004; short texts have fewer shingles to draw from.
    assert 0.5 < similar.mean() < 0.9
    assert abs((agree - similar).mean()) < 0.03


def write_and_find(
    folder: Path, documents: list[Document], section: Dedup, engine: Engine | None = None
) -> tuple[list[str], dict]:
    """Paths of what dedup keeps, and its ledger."""
    sources = tuple(
        Source(name=name, locator=LocalFile(kind="file", path=name), sha256="0" * 64, licence="MIT", format="files")
        for name in ("a", "b")
    )
    write_documents(folder / "in", documents, ["a", "b"])
    spec = Corpus(name="c", sources=sources, dedup=section)
    dedup("corpora.c", spec, folder / "in", folder / "out", engine or Engine())
    ledger = json.loads((folder / "out" / "ledger.json").read_text("utf-8"))
    return [each.path for each in read_documents(folder / "out")], ledger


def test_the_first_source_survives_and_the_ledger_explains(tmp_path: Path) -> None:
    kept, ledger = write_and_find(tmp_path, corpus(), Dedup())
    assert kept == [f"{seed:03}" for seed in range(60)] + ["short-0", "short-1"]
    assert ledger["documents_in"] - ledger["documents_out"] == 44
    assert ledger["drops"]["exact duplicate"]["documents"] == 14
    assert ledger["drops"]["near-duplicate"]["documents"] == 30
    facts = ledger["facts"]
    assert facts["near-duplicates: clusters by size"] == {"2": 30}
    assert facts["near-duplicates: examples"][0]["survivor"] == "a/000"
    assert 0.7 <= facts["near-duplicates: examples"][0]["similarity"] < 1
    assert facts["dropped for a survivor in"] == {"b -> a": 42, "b -> b": 2}


def test_the_matches_depend_on_nothing_but_the_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write_and_find(tmp_path / "whole", corpus(), Dedup())
    # Many blocks, many buckets, and several passes because all of them would not fit the memory.
    monkeypatch.setattr(documents_module, "GROUP_ROWS", 9)
    for partitions, memory in ((1, 2**30), (7, 10_000)):
        engine = Engine(partitions=partitions, memory=memory)
        assert write_and_find(tmp_path / f"{partitions}", corpus(), Dedup(), engine) == whole
    monkeypatch.setattr(documents_module, "SHARD_ROWS", 20)
    assert write_and_find(tmp_path / "shards", corpus(), Dedup()) == whole


def test_sources_that_stand_apart_lose_nothing_to_others(tmp_path: Path) -> None:
    kept, ledger = write_and_find(tmp_path, corpus(), Dedup(apart=("b",)))
    # Of b, only what repeats itself goes: copies of near-duplicates' originals are exact ones of nothing in b.
    assert set(ledger["facts"]["dropped for a survivor in"]) == {"b -> b"}
    assert [path for path in kept if path.isdigit()] == [f"{seed:03}" for seed in range(60)]
    assert ledger["drops"]["exact duplicate"]["documents"] == 2
    assert ledger["drops"]["near-duplicate"]["documents"] == 6


def test_each_kind_can_be_left_out(tmp_path: Path) -> None:
    assert len(write_and_find(tmp_path / "none", corpus(), Dedup(exact=False, near=None))[0]) == len(corpus())
    assert len(write_and_find(tmp_path / "exact", corpus(), Dedup(near=None))[0]) == len(corpus()) - 14
    assert len(write_and_find(tmp_path / "near", corpus(), Dedup(exact=False))[0]) == len(corpus()) - 42


def test_a_candidate_below_the_threshold_stays(tmp_path: Path) -> None:
    # Without verification LSH alone would drop some of these: a band is shared now and then at 0.6.
    documents = []
    for seed in range(80):
        documents += [make(text(seed, 100), "a", f"{seed}"), make(edited(text(seed, 100), 6, seed), "b", f"b{seed}")]
    proposed = {path for pair in share_a_band(documents, SECTION) for path in pair}
    kept, _ = write_and_find(tmp_path, documents, Dedup())
    similar = sum(
        jaccard(one, two) >= SECTION.threshold
        for (_, one), (_, two) in zip(shingles(documents[::2], 5), shingles(documents[1::2], 5), strict=True)
    )
    assert len(documents) - len(kept) == similar < len(proposed) // 2


def test_conversations_are_compared_without_their_system_message(tmp_path: Path) -> None:
    system = " ".join(text(999, 200))

    def talk(seed: int) -> Document:
        turns = [Message("system", system), Message("user", " ".join(text(seed, 15))), Message("assistant", "yes " * 9)]
        return make(render_conversation(turns), "a", str(seed), "conversation")

    kept, _ = write_and_find(tmp_path, [talk(1), talk(2)], Dedup())
    assert kept == ["1", "2"]


def test_an_empty_corpus_is_fine(tmp_path: Path) -> None:
    assert write_and_find(tmp_path, [], Dedup())[0] == []


nodes = st.integers(0, 30)


@given(st.lists(st.tuples(nodes, nodes)), st.randoms(use_true_random=False))
def test_a_forest_has_the_components_of_its_graph(edges: list[tuple[int, int]], rng: random.Random) -> None:
    # The oracle: neighbours are gathered one by one.
    expected: dict[int, int] = {}
    for start in sorted({node for edge in edges for node in edge}):
        waiting = [] if start in expected else [start]
        while waiting:
            node = waiting.pop()
            if node not in expected:
                expected[node] = start
                waiting += [b if a == node else a for a, b in edges if node in (a, b)]
    array = np.array(edges, np.int64).reshape(-1, 2)
    found = forest(array)
    joined = {node: lowest for node, lowest in expected.items() if node != lowest}
    assert dict(found[:, ::-1].tolist()) == joined and len(found) == len(joined)
    assert {node: expected[node] for node in (*joined, *joined.values())} == dict(members(found).tolist())
    # Pieces may be of any size and order.
    shuffled = rng.sample(edges, len(edges))
    pieces = [np.array(shuffled[start::3], np.int64).reshape(-1, 2) for start in range(3)]
    assert np.array_equal(merged(map(forest, pieces)), found)


def test_a_long_chain_is_one_component() -> None:
    chain = np.random.default_rng(1).permutation(20_000)
    found = forest(np.stack([chain[:-1], chain[1:]], axis=1))
    assert (found[:, 0] == 0).all() and found[:, 1].tolist() == list(range(1, 20_000))


@given(st.sets(st.integers(0, 40)), st.sets(st.integers(0, 40)))
def test_jaccard_is_that_of_sets(left: set[int], right: set[int]) -> None:
    arrays = [np.array(sorted(each), np.uint64) for each in (left, right)]
    union = left | right
    assert jaccard(*arrays) == (len(left & right) / len(union) if union else 0.0)


@given(st.text(alphabet="ab c\n", max_size=60), st.integers(1, 4))
@settings(max_examples=30)
def test_shingles_are_distinct_runs_of_words(found: str, length: int) -> None:
    parts = words(found)
    runs = {tuple(parts[start : start + length]) for start in range(len(parts) - length + 1)}
    [(count, hashes)] = shingles([make(found, "a", "x")], length)
    assert (count, len(hashes)) == (len(words(found)), len(runs))
    assert (np.diff(hashes.astype(object)) > 0).all()
    # Whatever is hashed along with it.
    beside = [make("another one", "a", "w"), make(found, "a", "x"), make("", "a", "y"), make(found, "a", "z")]
    assert [each.tolist() for _, each in shingles(beside, length)][1::2] == [hashes.tolist()] * 2


@given(st.lists(st.sets(st.integers(0, 12), min_size=1), min_size=1, max_size=12))
def test_every_drop_is_similar_to_a_survivor_and_no_two_survivors_are(contents: list[set[int]]) -> None:
    sets = {place: np.array(sorted(content), np.uint64) for place, content in enumerate(contents)}
    matches = verified(range(len(contents)), sets, 0.6)
    dropped = {match.dropped for match in matches}
    for match in matches:
        assert match.survivor < match.dropped and match.survivor not in dropped
        assert match.similarity == jaccard(sets[match.dropped], sets[match.survivor]) >= 0.6
    survivors = [place for place in sets if place not in dropped]
    assert all(jaccard(sets[one], sets[two]) < 0.6 for one in survivors for two in survivors if one < two)


def planted(count: int, seed: int) -> list[Document]:
    """Texts, and copies of them with a few words replaced, removed, inserted or moved: similarities from 0.3 to 1."""
    rng = random.Random(seed)
    documents = []
    for number in range(count):
        original = text(10_000 * seed + number, rng.randrange(30, 200))
        documents.append(make(original, "a", f"{number:05}"))
        for copy in range(rng.choice((0, 0, 1, 2))):
            changed = list(original)
            for _ in range(rng.randrange(len(changed) // 18 + 1)):
                place = rng.randrange(len(changed))
                match rng.randrange(4):
                    case 0:
                        changed[place] = f"x{rng.randrange(10**6)}"
                    case 1:
                        del changed[place]
                    case 2:
                        changed.insert(place, f"y{rng.randrange(10**6)}")
                    case 3:
                        changed.insert(rng.randrange(len(changed)), changed.pop(place))
            documents.append(make(changed, "b", f"{number:05}-{copy}"))
    return sorted(documents, key=lambda each: (each.source, each.path))


def test_near_duplicates_are_those_of_an_exact_comparison_of_all_pairs(tmp_path: Path) -> None:
    documents = planted(1_800, seed=7)
    assert len(documents) >= 3_000
    sets = [found for _, found in shingles(documents, SECTION.shingle_words)]
    holders: dict[int, list[int]] = {}
    for place, each in enumerate(sets):
        for shingle in each.tolist():
            holders.setdefault(shingle, []).append(place)
    # All pairs: those that share no shingle have similarity 0.
    pairs = {(a, b) for held in holders.values() for i, a in enumerate(held) for b in held[i + 1 :]}
    exact = {pair: jaccard(sets[pair[0]], sets[pair[1]]) for pair in pairs}
    paths = {document.path: place for place, document in enumerate(documents)}
    proposed = {(paths[a], paths[b]) for a, b in share_a_band(documents, SECTION)}
    for threshold, least in ((0.7, 0.97), (0.8, 0.99)):
        similar = {pair for pair, similarity in exact.items() if similarity >= threshold}
        assert len(similar) > 500
        assert len(similar & proposed) / len(similar) >= least, threshold
    # The exact answer: each document, in order, against every earlier one that stays.
    expected: set[int] = set()
    earlier: dict[int, list[int]] = {}
    for (a, b), similarity in sorted(exact.items()):
        if similarity >= SECTION.threshold:
            earlier.setdefault(b, []).append(a)
    for place in range(len(documents)):
        expected |= {place} if any(other not in expected for other in earlier.get(place, ())) else set()
    kept, ledger = write_and_find(tmp_path, documents, Dedup(exact=False))
    removed = set(range(len(documents))) - {paths[path] for path in kept}
    assert abs(len(removed) - len(expected)) <= 0.01 * len(expected)
    assert len(removed & expected) >= 0.99 * len(expected)
    # Precision 1: whatever goes has an earlier document that stays and is as similar as the threshold asks.
    assert all(any(other not in removed for other in earlier.get(place, ())) for place in removed)
    assert ledger["drops"]["near-duplicate"]["documents"] == len(removed)


@given(st.text(max_size=60) | st.text(st.characters(max_codepoint=127), max_size=60))
def test_words_are_runs_of_word_characters_in_lower_case(found: str) -> None:
    assert words(found) == re.findall(r"\w+", found.lower())
