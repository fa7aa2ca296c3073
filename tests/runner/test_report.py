"""The report: whole, self-contained, the same bytes every time, and safe to open whatever a model wrote."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from runner.report import DATA_STAGES, build_page, read_records, render
from specs.common.errors import UserError
from specs.pipeline import stage
from specs.pipeline.nodes import RunNode

HOSTILE = '</pre><script src="https://evil.example/x.js">alert(1)</script>'
VERDICTS = ("wrong", "passed", "wrong", "wrong", "wrong")


class Elements(HTMLParser):
    """Names of all elements, what they refer to, and whether each that was opened was closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.references: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "action", "xlink:href")]
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(value) if isinstance(value, dict) else "".join(json.dumps(row) + "\n" for row in value),
        encoding="utf-8",
    )


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """What the stages before the report leave, with hostile text wherever a corpus or a model decides it."""
    drops = {"too odd": {"documents": 3, "examples": [f"code/{HOSTILE}.py"], "sources": {"code": 3}}}
    counts = {"documents_in": 9, "documents_out": 6, "bytes_in": 9_000, "bytes_out": 6_000}
    for folder in DATA_STAGES.values():
        ledger = counts | {"drops": drops, "sources": {"code": counts}, "facts": {}}
        write(tmp_path / "corpora" / "c" / folder / "ledger.json", ledger)
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.model").write_bytes(b"model")
    write(tmp_path / "tokenizer" / "ledger.json", {"facts": {"vocab_size": 8_192, "model_sha256": "ab" * 32}})
    facts = {"rows": 14_368, "tokens": 990, "targets": 700, "padding": 10, "documents_cut": 2}
    write(tmp_path / "store" / "ledger.json", {"facts": facts, "sources": {"code": {"tokens": 990}}})
    write(tmp_path / "store" / "manifest.json", {})
    for phase in ("pretrained", "finetuned"):
        rows = [{"step": step, "loss": 9 - step, "lr": 0.1, "norm": 1.0, "chain": f"{step:064x}"} for step in (1, 2)]
        write(tmp_path / "run" / phase / "steps.jsonl", rows)
        (tmp_path / "run" / phase / "model.safetensors").write_bytes(phase.encode())
    folder = tmp_path / "evaluations" / "e"
    keys = [{"task_id": str(number), "sample": 0} for number in range(len(VERDICTS))]
    write(folder / "completions" / "completions.jsonl", [key | {"completion": HOSTILE} for key in keys])
    results = [key | {"class": verdict, "message": HOSTILE} for key, verdict in zip(keys, VERDICTS, strict=True)]
    write(folder / "scored" / "results.jsonl", results)
    scores = {
        "problems": 5, "samples": 1, "temperature": 0.8, "pass_at": {"1": 0.2}, "interval": {"1": {"low": 0, "high": 1}}
    }  # fmt: skip
    write(folder / "scored" / "scores.json", scores)
    return tmp_path


def page_of(made: Path) -> str:
    corpus, store = made / "corpora" / "c", made / "store"
    spec = stage.node("runs.smoke", RunNode)
    page, steps = build_page(
        "smoke", spec, [corpus, corpus], made / "tokenizer", [store, store], made / "run", made / "evaluations"
    )
    assert {phase: len(rows) for phase, rows in steps.items()} == {"pretraining": 2, "finetuning": 2}
    return render(page)


def test_it_says_what_was_made(made: Path) -> None:
    page = page_of(made)
    for said in ("20.0%", "14,368", "1.00%", "too odd: 3", "8,192 pieces", "ab" * 32, f"{2:064x}"):
        assert said in page, said
    assert "split checker" not in page


def test_it_says_what_the_split_checker_saw_otherwise(made: Path) -> None:
    path = made / "evaluations" / "e" / "scored" / "scores.json"
    write(path, json.loads(path.read_text("utf-8")) | {"split_checker_disagrees": 3})
    assert "disagrees about 3 of its completions" in page_of(made)


def test_nothing_that_a_model_or_a_corpus_wrote_is_taken_for_a_page(made: Path) -> None:
    page = page_of(made)
    elements = Elements(page)
    assert not elements.open
    assert "&lt;script" in page, "the hostile text is not shown at all"
    assert elements.names.isdisjoint({"script", "iframe", "img", "link", "object", "form"})
    assert all(reference.startswith("#") for reference in elements.references), elements.references


def test_passing_programs_are_shown_first_and_few_of_each_verdict(made: Path) -> None:
    page = page_of(made)
    assert page.index("<h3>passed: 1</h3>") < page.index("<h3>wrong: 4</h3>")
    assert page.count("&lt;script") == 2 * (1 + 3) + len(DATA_STAGES)


def test_the_same_artifacts_give_the_same_bytes(made: Path) -> None:
    assert page_of(made) == page_of(made)


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "steps.jsonl").write_text('{"step": 1}\n{"step"\n', "utf-8")
    with pytest.raises(UserError, match=r"steps\.jsonl:2: not valid JSON .*; force its stage to run again"):
        read_records(tmp_path / "steps.jsonl")
