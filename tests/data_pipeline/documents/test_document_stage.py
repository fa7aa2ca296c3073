"""The stages from fetch to augment, as commands, one after the other on a small corpus."""

import hashlib
import importlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from data_pipeline.documents.document_stage import pass_over
from data_pipeline.documents.documents import Document, document_id, read_documents, write_documents
from specs.common.files import tree_digests
from specs.loading import settings
from specs.pipeline import stage
from specs.schema.data import Augment, Benchmark, Corpus, Decontaminate
from specs.schema.sources import LocalFile, Pinned, Source

PROBLEM = {
    "task_id": 1,
    "text": "Write a function that gives the larger of the two smallest even numbers in a list.",
    "code": "def pick(numbers):\n    return sorted(number for number in numbers if number % 2 == 0)[1]\n",
    "test_list": ["assert pick([5, 4, 2, 8]) == 4"],
}
STAGES = {
    "fetch": ["--out", "sources", "--benchmarks-out", "benchmarks"],
    "ingest": ["--sources", "sources", "--out", "ingested"],
    "filter": ["--documents", "ingested", "--out", "filtered"],
    "dedup": ["--documents", "filtered", "--out", "unique"],
    "decontaminate": ["--documents", "unique", "--benchmarks", "benchmarks", "--out", "clean"],
    "augment": ["--documents", "clean", "--out", "documents"],
}


def module(number: int) -> str:
    lines = [f"def function_{number}_{line}(value):\n    return value + '{number * line}'\n" for line in range(12)]
    return "\n\n".join(lines)


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """Two versions of a project, and a benchmark that one module has copied; the spec and all paths below tmp_path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(settings, "ROOT", tmp_path)
    files = {f"m{number}.py": module(number) for number in range(6)}
    old = {name: text.replace("return value", "return value ", 1) for name, text in files.items()}
    extra = {"tiny.py": "x = 1\n", "copied.py": module(9) + str(PROBLEM["code"])}
    sources = []
    for name, members in (("new", files | extra), ("old", old | {"m0.py": files["m0.py"]})):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as archive:
            for path, text in members.items():
                info = tarfile.TarInfo(f"p/{path}")
                info.size = len(text.encode())
                archive.addfile(info, io.BytesIO(text.encode()))
        pinned = pin(tmp_path / f"{name}.tar").model_dump()
        sources.append(Source(**pinned, name=name, licence="MIT", format="files", may_be_empty=name == "old"))
    (tmp_path / "problems.jsonl").write_text(json.dumps(PROBLEM), "utf-8")
    benchmark = Benchmark(name="b", problem_schema="mbpp", source=pin(tmp_path / "problems.jsonl"), licence="MIT")
    result = Corpus(
        name="c",
        sources=tuple(sources),
        decontaminate=Decontaminate(against=(benchmark,)),
        augment=Augment(quotes=0.5, indent=0.5),
    )
    monkeypatch.setattr(stage, "node", lambda address, kind: {"corpora.c": result, "benchmarks.b": benchmark}[address])
    return result


def pin(path: Path) -> Pinned:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Pinned(locator=LocalFile(kind="file", path=path.name), sha256=digest)


def run(name: str, *arguments: str) -> Result:
    return CliRunner().invoke(importlib.import_module(f"data_pipeline.{name}").main, list(arguments))


def test_the_chain_drops_what_it_should_and_its_bytes_repeat(corpus: Corpus, tmp_path: Path) -> None:
    seen = []
    for _ in range(2):
        for name, arguments in STAGES.items():
            assert run(name, "corpora.c", *arguments).exit_code == 0, name
        folders = [arguments[-1] for arguments in STAGES.values()]
        seen.append({folder: tree_digests(tmp_path / folder) for folder in ("sources", *folders)})
    assert seen[0] == seen[1]
    final = list(read_documents(tmp_path / "documents"))
    assert [(each.source, each.path) for each in final] == [("new", f"m{number}.py") for number in range(6)]
    assert {each.derived for each in final} > {""}
    drops = {}
    for folder in ("filtered", "unique", "clean"):
        drops |= json.loads((tmp_path / folder / "ledger.json").read_text("utf-8"))["drops"]
    assert {reason: entry["documents"] for reason, entry in drops.items()} == {
        "smaller than min_bytes": 1,
        "exact duplicate": 1,
        "near-duplicate": 5,
        "holds words of b": 1,
    }


def test_one_benchmark_is_fetched_alone(corpus: Corpus, tmp_path: Path) -> None:
    assert run("fetch", "benchmarks.b", "--out", "alone").exit_code == 0
    assert (tmp_path / "alone" / "problems.jsonl").read_bytes() == (tmp_path / "problems.jsonl").read_bytes()


def test_bad_input_is_one_line_and_the_finished_artifact_stays(corpus: Corpus, tmp_path: Path) -> None:
    for name in ("fetch", "ingest"):
        run(name, "corpora.c", *STAGES[name])
    before = tree_digests(tmp_path / "ingested")
    archive = tmp_path / "sources" / "new" / "new.tar"
    archive.write_bytes(archive.read_bytes()[:-600])
    result = run("ingest", "corpora.c", *STAGES["ingest"])
    assert result.exit_code == 2
    assert [line for line in result.output.splitlines() if "error:" in line] == [
        "error: source 'new': new.tar is not the pinned file; run the fetch stage again"
    ]
    assert tree_digests(tmp_path / "ingested") == before
    assert sorted(path.name for path in tmp_path.glob(".*.tmp")) == []
    assert run("fetch", "corpora.c", "--out", "x").exit_code == 2


@pytest.mark.parametrize("name", STAGES)
def test_help_has_an_example(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0 and "Example: python -m data_pipeline." in result.output


def test_a_change_that_fails_leaves_no_folder(
    corpus: Corpus, tmp_path: Path, document: Callable[..., Document]
) -> None:
    first = document("text", source="new")
    assert first.id == document_id("text")
    write_documents(tmp_path / "in", [first], ["new"])
    with pytest.raises(ZeroDivisionError):
        change = lambda given, ledger: (1 / 0 for _ in given)  # noqa: E731
        pass_over("filter", "corpora.c", corpus, tmp_path / "in", tmp_path / "out", change)
    assert not (tmp_path / "out").exists()
