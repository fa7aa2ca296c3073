"""Decontaminate: no document may hold a benchmark's problem, its solution or its tests.

Three tests: shared runs of words, as in GPT-3 (Brown et al., 2020, appendix C), shared passages, as in StarCoder (Li et
al., 2023: docstrings and solutions as substrings), and a shared structure of code. A document goes when it shares

- a run of `ngram_words` words with a problem, where at least half of them are different words of two characters or more
  that begin with a letter and do not count (`one`, `two`, ...). Without that condition `1 2 3 4 5 6 7 8 9 10`,
  `one 1 two 2 three 3`, or rows of equal words, would match texts that have nothing in common;
- a passage of at least `min_chars` characters, white space and case aside: a paragraph of a prompt, a paragraph of a
  solution, or a line of the tests. A passage that is only an import or a row of numbers is no evidence, so it must hold
  as many different words as the rule above asks for;
- a run of `structure_tokens` tokens with a solution, or the whole of a shorter one, whatever its names, layout,
  comments and quotes (`data_pipeline.text.code_structure`).
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from data_pipeline.documents import engine as engines
from data_pipeline.documents.document_stage import pass_over
from data_pipeline.documents.documents import Document, plain_text
from data_pipeline.problems import Problem, read_problems
from data_pipeline.text.code_structure import Patterns
from data_pipeline.text.words import words
from specs.pipeline import stage
from specs.schema.data import Benchmark, Corpus, Decontaminate

Ngram = tuple[str, ...]

_MAX_MATCHES = 1_000
_COUNTING = frozenset(
    ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
)


@dataclass(frozen=True)
class Origin:
    """Where an n-gram or a passage comes from."""

    benchmark: str
    task_id: str
    part: str
    """`prompt`, `solution` or `tests`."""


@dataclass(frozen=True)
class Hit:
    """What a document shares with a problem."""

    origin: Origin
    kind: str
    """`words`, `passage` or `structure`."""
    matched: str
    line: int
    """The line of the text, of a conversation what is said in it, on which the match begins; counts from 1."""


class Index:
    """Everything that must not occur, ready to be looked for."""

    def __init__(self, problems: Iterable[tuple[str, Problem]], section: Decontaminate) -> None:
        self._length, self._min_chars = section.ngram_words, section.min_chars
        # Any passage of min_chars characters covers a whole cell of a grid with cells of half that length.
        self._cell = (section.min_chars + 1) // 2
        self._ngrams: dict[Ngram, Origin] = {}
        # As with passages: any run of so many words covers a whole cell of a grid with cells of half that length.
        self._word_cell = (section.ngram_words + 1) // 2
        self._word_cells: set[Ngram] = set()
        self._passages: dict[str, Origin] = {}
        self._by_cell: dict[str, list[str]] = {}
        programs: list[tuple[str, Origin]] = []
        for benchmark, problem in problems:
            for part in ("prompt", "solution", "tests"):
                self._add(getattr(problem, part), Origin(benchmark, problem.task_id, part))
            solution = Origin(benchmark, problem.task_id, "solution")
            programs += [(program, solution) for program in _programs(problem)]
        self._program_origins = [origin for _, origin in programs]
        tokens = section.structure_tokens
        self._patterns = Patterns([program for program, _ in programs] if tokens else [], tokens)

    def _add(self, text: str, origin: Origin) -> None:
        for ngram in _ngrams(words(text), self._length):
            if self._telling(ngram):
                self._ngrams.setdefault(ngram, origin)
                self._word_cells.update(_ngrams(ngram, self._word_cell))
        for passage in text.split("\n" if origin.part == "tests" else "\n\n"):
            squeezed = _squeezed(passage)
            if len(squeezed) >= self._min_chars and self._telling(words(passage)) and squeezed not in self._passages:
                self._passages[squeezed] = origin
                for start in range(len(squeezed) - self._cell + 1):
                    self._by_cell.setdefault(squeezed[start : start + self._cell], []).append(squeezed)

    def _telling(self, found: Sequence[str]) -> bool:
        telling = {word for word in found if len(word) > 1 and not word[0].isdigit()} - _COUNTING
        return len(telling) * 2 >= self._length

    def hit(self, text: str) -> Hit | None:
        """The first shared n-gram, else passage, else structure, of a text; none where it is clean."""
        found = words(text)
        cells = zip(*(found[start :: self._word_cell] for start in range(self._word_cell)), strict=False)
        if not self._word_cells.isdisjoint(cells):
            # Which n-gram it is, if any, is looked up in the few texts that share a cell.
            shared = ((at, each) for at, each in enumerate(_ngrams(found, self._length)) if each in self._ngrams)
            for at, ngram in shared:
                return Hit(self._ngrams[ngram], "words", " ".join(ngram), _line(text, r"\w+", at))
        squeezed = _squeezed(text)
        for start in range(0, len(squeezed) - self._cell + 1, self._cell):
            for passage in self._by_cell.get(squeezed[start : start + self._cell], ()):
                if passage in squeezed:
                    return Hit(self._passages[passage], "passage", passage, _line(text, r"\S", squeezed.index(passage)))
        place = self._patterns.find(text)
        return (
            None if place is None else Hit(self._program_origins[place.pattern], "structure", place.matched, place.line)
        )


def keep(documents: Iterable[Document], index: Index, ledger: stage.Ledger) -> Iterator[Document]:
    """Documents that share nothing with the index, in the order given; the ledger names what the others share."""
    matches: list[dict[str, str | int]] = []
    for document in documents:
        ledger.take(document.source, document.size)
        hit = index.hit(plain_text(document.language, document.text))
        if hit is None:
            ledger.keep(document.source, document.size)
            yield document
            continue
        item = f"{hit.origin.benchmark}/{hit.origin.task_id}"
        ledger.drop(
            f"holds {hit.kind} of {hit.origin.benchmark}", f"{document.place}:{hit.line}: {item}, {hit.origin.part}"
        )
        if len(matches) < _MAX_MATCHES:
            part, kind = hit.origin.part, hit.kind
            matches.append(
                {"document": document.place, "line": hit.line, "item": item, "part": part, kind: hit.matched}
            )
    ledger.state("matches", matches)


def problems_of(against: Sequence[Benchmark], folder: Path) -> list[tuple[str, Problem]]:
    """Problems of every benchmark, with its name: also those outside its scored range, whose texts are as public.

    Raises UserError where a file is missing or damaged.
    """
    return [
        (benchmark.name, problem)
        for benchmark in against
        for problem in read_problems(folder / benchmark.name / benchmark.source.filename, benchmark.problem_schema)
    ]


def _ngrams(found: Sequence[str], length: int) -> Iterator[Ngram]:
    return (tuple(found[start : start + length]) for start in range(len(found) - length + 1))


def _programs(problem: Problem) -> list[str]:
    """The solution as code that somebody may have renamed: with its signature, and without."""
    start = problem.prompt.rfind(f"def {problem.entry_point}(")
    return [problem.solution] if start < 0 else [problem.prompt[start:] + "\n" + problem.solution, problem.solution]


def _line(text: str, unit: str, ordinal: int) -> int:
    """Line, counted from 1, on which the unit with this ordinal stands; units as a regular expression."""
    lowered = text.lower()
    unit_there = next(itertools.islice(re.finditer(unit, lowered), ordinal, None))
    return lowered.count("\n", 0, unit_there.start()) + 1


def _squeezed(text: str) -> str:
    return "".join(text.lower().split())


@click.command(
    epilog="Example: python -m data_pipeline.decontaminate corpora.smoke-code "
    "--documents unique --benchmarks benchmarks --out clean"
)
@click.argument("node")
@click.option("--documents", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of dedup.")
@click.option("--benchmarks", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of fetch.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for what is kept.")
@stage.command
@engines.options
def main(node: str, documents: Path, benchmarks: Path, out: Path, engine: engines.Engine) -> None:
    """Drop documents that hold problems, solutions or tests of the benchmarks."""
    corpus = stage.node(node, Corpus)
    problems = problems_of(corpus.decontaminate.against, benchmarks)
    index = Index(problems, corpus.decontaminate)
    counts = {each.name: sum(name == each.name for name, _ in problems) for each in corpus.decontaminate.against}
    pass_over(
        "decontaminate",
        node,
        corpus,
        documents,
        out,
        lambda given, ledger: keep(given, index, ledger),
        engine,
        inputs=[benchmarks],
        facts={"problems": counts},
    )


if __name__ == "__main__":
    main()
