import json
import random
import re
from itertools import pairwise
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
from data_pipeline.near_duplicates import candidates
from data_pipeline.near_duplicates.minhash import band_keys
from data_pipeline.near_duplicates.shingles import jaccard, shingles
from data_pipeline.near_duplicates.verification import SIMILAR, resolved
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


def brute_force(sets: list[np.ndarray], threshold: float) -> dict[int, int]:
    """The survivor of each document that goes: each one, in order, against every earlier one that stays."""
    survivor: dict[int, int] = {}
    for later in range(len(sets)):
        similar = (one for one in range(later) if one not in survivor and jaccard(sets[later], sets[one]) >= threshold)
        if (found := next(similar, None)) is not None:
            survivor[later] = found
    return survivor


def verified(sets: list[np.ndarray], pairs: np.ndarray, threshold: float) -> dict[int, int]:
    """What the stage makes of these candidates: survivors by what goes."""

    def compare(chosen: np.ndarray) -> np.ndarray:
        rows = [(int(a), int(b), jaccard(sets[a], sets[b])) for a, b in chosen]
        return np.sort(np.array([row for row in rows if row[2] >= threshold], SIMILAR), order=["later", "earlier"])

    matches = resolved(compare(pairs), compare)
    assert all(similarity == jaccard(sets[one], sets[other]) >= threshold for one, other, similarity in matches)
    return {dropped: stays for dropped, stays, _ in matches}


def all_pairs(count: int) -> np.ndarray:
    return np.array([(later, one) for later in range(count) for one in range(later)], np.int64).reshape(-1, 2)


@given(st.lists(st.sets(st.integers(0, 12), min_size=1), min_size=1, max_size=24), st.sampled_from((0.5, 0.6, 0.7)))
def test_all_candidates_verified_are_what_brute_force_drops(contents: list[set[int]], threshold: float) -> None:
    sets = [np.array(sorted(content), np.uint64) for content in contents]
    assert verified(sets, all_pairs(len(sets)), threshold) == brute_force(sets, threshold)


@given(st.lists(st.integers(1, 60), min_size=9, max_size=30, unique=True), st.sampled_from((0.5, 0.7, 0.75, 0.9)))
def test_nested_sets_at_the_threshold_are_not_missed(tmp_path_factory, sizes: list[int], threshold: float) -> None:  # type: ignore[no-untyped-def]
    # Each set holds the smaller ones: their similarity is the ratio of their sizes, often the threshold itself.
    words_of = {size: [f"w{number}" for number in range(size + 4)] for size in sizes}
    documents = [make(words_of[size], "a", f"{place:03}") for place, size in enumerate(sizes)]
    section = MinHash(threshold=threshold, min_words=1, bands=80, rows=1)
    kept, _ = write_and_find(tmp_path_factory.mktemp("nested"), documents, Dedup(exact=False, near=section))
    sets = [found for _, found in shingles(documents, 5)]
    assert [len(each) for each in sets] == sizes
    dropped = {int(path) for path in (document.path for document in documents) if path not in kept}
    assert dropped == set(brute_force(sets, threshold))


def test_a_survivor_of_a_survivor_is_compared_too() -> None:
    # 2 is like 1 and 0, of which the candidates know 1 only; 1 goes for 0.
    sets = [np.arange(start, start + 100, dtype=np.uint64) for start in (0, 5, 10)]
    assert verified(sets, np.array([(1, 0), (2, 1)]), 0.8) == {1: 0, 2: 0} == brute_force(sets, 0.8)
    # And stays where it is not like it, as 3 is like 2 alone.
    chain = [np.arange(start, start + 100, dtype=np.uint64) for start in (0, 10, 20, 30)]
    pairs = np.array([(1, 0), (2, 1), (3, 2)])
    assert verified(chain, pairs, 0.8) == {1: 0, 3: 2} == brute_force(chain, 0.8)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 40)), max_size=120))
def test_candidates_are_bounded_and_each_group_hangs_together(rows: list[tuple[int, int]]) -> None:
    rows = sorted(set(rows))
    keys, places = (np.array([row[column] for row in rows], kind) for column, kind in ((0, np.uint64), (1, np.int64)))
    found = candidates.pairs(keys, places)
    groups = [sorted(place for key, place in rows if key == number) for number in range(10)]
    pairs = {(int(later), int(earlier)): int(bands) for later, earlier, bands in found}
    for (later, earlier), bands in pairs.items():
        shared = sum(later in group and earlier in group for group in groups)
        assert earlier < later and 1 <= bands <= shared
    for group in groups:
        assert all((later, group[0]) in pairs for later in group[1:])
        assert all((later, earlier) in pairs for earlier, later in pairwise(group))
    # In one piece or in several.
    pieces = [candidates.pairs(keys[keys % 3 == rest], places[keys % 3 == rest]) for rest in range(3)]
    assert np.array_equal(candidates.merged(pieces), candidates.merged([found]))
    counts = np.unique(candidates.merged([found])["later"], return_counts=True)[1]
    assert (counts <= candidates.LARGEST).all()


def test_a_thousand_copies_are_compared_with_the_first_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    monkeypatch.setattr(
        "data_pipeline.near_duplicates.verification.jaccard", lambda *sets: compared.append(1) or jaccard(*sets)
    )
    documents = [make(edited(text(0, 200), 1, seed), "a", f"{seed:04}") for seed in range(1_000)]
    kept, _ = write_and_find(tmp_path, documents, Dedup())
    assert kept == ["0000"] and len(compared) < 1_100


def test_of_many_pairs_of_a_document_those_that_share_most_bands_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "LARGEST", 2)
    table = np.array([(9, 1, 3), (9, 2, 1), (9, 3, 3), (9, 4, 2), (8, 1, 1)], candidates.PAIR)
    assert candidates.merged([table[:2], table[2:]]).tolist() == [(8, 1, 1), (9, 1, 3), (9, 3, 3)]


HEADER = """#!/usr/bin/env python
# -*- coding: utf-8 -*-
#
# Copyright 2020 The Authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with
# the License. You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software distributed under the License is distributed on
# an "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.

"""
AS_C = "/*\n" + "\n".join(" *" + line[1:] for line in HEADER.split("\n")[3:-2]) + "\n */\n"
GENERATED = "// Code generated by the compiler. DO NOT EDIT.\n" + AS_C.replace("/*\n", "").replace(" */\n", "").replace(
    " *", "//"
)
DOCSTRING = '"""\n' + HEADER.replace("#!", "").replace("# ", "") + '"""\n'


@pytest.mark.parametrize("header", [HEADER, AS_C, GENERATED, DOCSTRING])
def test_distinct_files_under_one_header_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: str) -> None:
    documents = [make(header + " ".join(text(seed, 22)), "a", f"{seed:03}", "python") for seed in range(200)]
    section = Dedup(near=MinHash(threshold=0.6))
    kept, _ = write_and_find(tmp_path / "distinct", documents, section)
    assert len(kept) == len(documents)
    # The control: with its header each is like each other.
    monkeypatch.setattr("data_pipeline.near_duplicates.shingles.body_start", lambda text: 0)
    assert len(write_and_find(tmp_path / "control", documents, section)[0]) < 10


def test_copies_that_differ_in_their_header_only_are_near_duplicates(tmp_path: Path) -> None:
    body = " ".join(text(1, 60))
    documents = [make(body, "a", "0"), make(HEADER + body, "a", "1"), make(AS_C + body, "a", "2")]
    assert write_and_find(tmp_path, documents, Dedup())[0] == ["0"]


def test_work_is_bounded_where_all_documents_lie_just_below_the_threshold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = 0
    original = jaccard

    def counted(left: np.ndarray, right: np.ndarray) -> float:
        nonlocal compared
        compared += 1
        return original(left, right)

    monkeypatch.setattr("data_pipeline.near_duplicates.verification.jaccard", counted)
    shared = text(0, 400)
    documents = [make(shared + text(seed, 110), "a", f"{seed:04}") for seed in range(1, 401)]
    similarity = jaccard(*(found for _, found in shingles(documents[:2], 5)))
    assert 0.6 < similarity < 0.7
    kept, _ = write_and_find(tmp_path, documents, Dedup())
    assert len(kept) == len(documents)
    # All pairs would be 79,800.
    assert 400 < compared <= candidates.LARGEST * len(documents)


def test_literal_signatures_shingles_and_words() -> None:
    documents = [make("The quick brown fox jumps over the lazy dog, twice: " * 3, "a", "x")]
    [(count, hashes)] = shingles(documents, 5)
    assert (count, len(hashes)) == (30, 10)
    counts, keys = band_keys(documents, SECTION)
    assert counts.tolist() == [10]
    assert [int(each) for each in hashes[:3]] == GOLDEN_SHINGLES
    assert [int(each) for each in keys[0, :3]] == GOLDEN_BANDS
    seeded = band_keys(documents, MinHash(seed=2))[1]
    assert int(seeded[0, 0]) == GOLDEN_SEEDED
    [(_, unicode)] = shingles([make("Übergröße naïve 一二三 straße ǅ x_1", "a", "x")], 2)
    assert [int(each) for each in unicode[:2]] == GOLDEN_UNICODE


# Literal: signatures decide which documents older runs kept.
GOLDEN_SHINGLES = [7_725_096_202_791_663_019, 8_849_204_784_860_393_221, 9_993_988_204_328_867_288]
GOLDEN_BANDS = [10_431_737_410_627_865_676, 8_913_657_462_033_737_789, 3_945_720_458_132_969_347]
GOLDEN_SEEDED = 15_216_163_998_549_807_061
GOLDEN_UNICODE = [3_514_839_751_508_257_433, 6_405_580_563_014_123_378]


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
