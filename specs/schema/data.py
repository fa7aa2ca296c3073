"""Sections of a spec that say what is made of sources: corpus, benchmarks, tokenizer."""

from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from specs.schema.base import Items, Language, Licence, Name, Section, Sha256, SomeItems, require_unique
from specs.schema.filters import Filter
from specs.schema.quantities import Bytes, Characters, Count, Epochs, Fraction, Natural, Positive, Threads, Words
from specs.schema.sources import Pinned, Source


class Benchmark(Section):
    """A file of programming problems with tests."""

    name: Name
    """Keys the benchmark's artifacts."""
    problem_schema: Literal["humaneval", "mbpp"]
    """How problems and tests are read."""
    source: Pinned
    """The problems themselves."""
    licence: Licence
    """Under what terms problems may be used."""
    content_sha256: Sha256 | None = None
    """Holds the parsed problems to a digest, whatever the bytes of the file. Another edition of the same problems, with
    other bytes, keeps it; `twice problems` prints it."""
    first_id: Natural | None = None
    """Which problems count: scores over another split are other scores. The first id, included."""
    last_id: Natural | None = None
    """Which problems count: scores over another split are other scores. The last id, included (MBPP's test split is 11
    to 510); none means all."""


class OptOut(Section):
    """What people asked not to be trained on. A long list may stand in a file: `repositories: ../opt-out/2026.yaml`."""

    repositories: Items[str] = ()
    """Repositories whose documents are left out, as rows state them (`owner/name`), case aside."""
    paths: Items[str] = ()
    """Documents that are left out. Globs over `source/path`, and over `repository/path` where a row states them."""
    contents: Items[Annotated[str, Field(pattern=r"^([0-9a-f]{32}|[0-9a-f]{64})$")]] = ()
    """Texts that are left out: hex blake2b-128 (the id of a document) or sha256 of their UTF-8 bytes."""


class Ingest(Section):
    """Limits that keep hostile or broken archives from doing harm."""

    max_archive_bytes: Bytes = 4_000_000_000
    """A safety limit for archives: the sum of all uncompressed members."""
    max_members: Positive = 1_000_000
    """A safety limit for archives: the number of members."""
    max_document_bytes: Bytes = 1_048_576
    """Longer documents are left out."""
    languages: Items[Language] = ("python", "restructuredtext", "markdown", "text", "conversation")
    """Documents of other languages are left out, with that reason."""
    opt_out: OptOut = OptOut()
    """Which documents are left out because somebody asked for it."""


class MinHash(Section):
    """Near-duplicate removal: MinHash-LSH proposes pairs, exact Jaccard similarity decides."""

    threshold: Annotated[Fraction, Field(gt=0)] = 0.7
    """How alike two documents must be for one to go: Jaccard similarity of their word shingles."""
    shingle_words: Words = 5
    """Words of a shingle: what likeness is measured over."""
    bands: Annotated[Positive, Field(le=10_000)] = 40
    """Which pairs are looked at: bands of hashes, of which one must agree."""
    rows: Annotated[Positive, Field(le=1_000)] = 6
    """Which pairs are looked at: hashes in each band. 40 bands of 6 propose 99% of the pairs of similarity 0.7, and 3%
    of those of 0.3."""
    min_words: Words = 20
    """Shorter documents are compared exactly only: their shingles say too little."""
    seed: Natural = 1
    """Which pairs are looked at."""


class Dedup(Section):
    """Duplicate removal; the copy that survives comes from the source listed first, then the lowest path."""

    exact: bool = True
    """Whether equal documents count once."""
    near: MinHash | None = MinHash()
    """Whether nearly equal documents count once."""
    apart: Items[str] = ()
    """Between which sources duplicates are looked for. The documents of these sources are compared among themselves
    only: none is dropped for another source's document."""


class Decontaminate(Section):
    """Removal of documents that contain benchmark problems."""

    against: Items[Benchmark] = ()
    """Which benchmarks may not occur in training text: what scores can be believed."""
    ngram_words: Words = 10
    """How short an overlap counts as contamination. A document that shares one run of so many words with a problem or
    its solution is dropped."""
    min_chars: Characters = 40
    """How short a solution counts as contamination. A solution or prompt line group of at least so many characters,
    white space aside, must not occur."""
    structure_tokens: Natural = 32
    """How short a renamed copy of a solution counts as contamination. A document whose code shares a run of so many
    tokens with a solution, names and layout aside, is dropped; so is one that holds the whole of a shorter solution.
    0 leaves this test out."""


class FillInTheMiddle(Section):
    """Documents written with their middle last (Bavarian et al., 2022), conversations aside."""

    rate: Fraction = 0.5
    """Share of documents whose middle comes last; SantaCoder and StarCoder take half."""
    spm: Fraction = 0.5
    """Share of those whose suffix comes first (SPM); of the others the prefix does (PSM)."""


class Augment(Section):
    """Light syntax perturbations of code: shares of documents, chosen by (document id, transform, seed)."""

    rename_locals: Fraction = 0.0
    """Share of documents with renamed locals of Python functions; the result parses to the same tree but for the names.
    """
    quotes: Fraction = 0.0
    """Share of documents whose Python strings swap single and double quotes; the syntax tree stays equal."""
    indent: Fraction = 0.0
    """Share of documents with another indent; the syntax tree stays equal."""
    blank_lines: Fraction = 0.0
    """Share of documents with more or fewer blank lines between statements; the syntax tree stays equal."""
    comments: Fraction = 0.0
    """Share of documents that lose half of the comments on lines of their own; the syntax tree stays equal."""
    fill_in_the_middle: FillInTheMiddle | None = None
    """Whether a model learns to fill gaps, beside going on from a text: documents are written with their middle last.
    """
    seed: Natural = 1
    """Which documents are perturbed."""


class Corpus(Section):
    """Sources and what is done to them, in the order ingest, filter, dedup, decontaminate, augment."""

    name: Name
    """Keys the corpus, its token stores and its artifacts."""
    sources: SomeItems[Source]
    """What is read, by priority: among duplicates, the document of the source listed first survives."""
    ingest: Ingest = Ingest()
    """What is read from archives."""
    filter: Filter = Filter()
    """Which documents are good enough."""
    dedup: Dedup = Dedup()
    """Which documents count once."""
    decontaminate: Decontaminate = Decontaminate()
    """Which documents would give benchmarks away."""
    augment: Augment = Augment()
    """Which documents are perturbed."""

    @property
    def source_names(self) -> tuple[str, ...]:
        """Names of the sources, by priority."""
        return tuple(source.name for source in self.sources)

    @property
    def may_be_empty(self) -> tuple[str, ...]:
        """Names of the sources of which no document need be left."""
        return tuple(source.name for source in self.sources if source.may_be_empty)

    @model_validator(mode="after")
    def _unique_names(self) -> Self:
        require_unique("sources[{}].name", [source.name for source in self.sources])
        require_unique("decontaminate.against[{}].name", [benchmark.name for benchmark in self.decontaminate.against])
        if unknown := set(self.dedup.apart) - {source.name for source in self.sources}:
            raise ValueError(f"dedup.apart names {min(unknown)!r}, which is no source of this corpus")
        if self.filter.min_bytes > self.ingest.max_document_bytes:
            raise ValueError(
                f"filter.min_bytes ({self.filter.min_bytes}) is above ingest.max_document_bytes "
                f"({self.ingest.max_document_bytes}): no document lies between them"
            )
        return self


class WeightedSource(Source):
    """A source, and how much of it training sees. Weights stay out of the corpus itself: changing one repacks only."""

    epochs: Epochs = 1.0
    """Which part of this source is seen, or how often: the mixture. Counts for one pass over the store. Of a fraction,
    the documents with the least content hashes are seen once more: 0.5 takes half of them, 2.5 all twice and half of
    them a third time."""
    weight: Positive = 1
    """How often this source is seen: the mixture. A whole number that multiplies `epochs`."""


class WeightedCorpus(Corpus):
    """A corpus as an experiment names it."""

    sources: SomeItems[WeightedSource]
    """What the model reads, by priority: among duplicates, the first source's survives."""

    @property
    def weights(self) -> dict[str, int]:
        """Weight of each source by name."""
        return {source.name: source.weight for source in self.sources}

    @property
    def epochs(self) -> dict[str, float]:
        """Epochs of each source by name."""
        return {source.name: source.epochs for source in self.sources}

    @property
    def passes(self) -> dict[str, float]:
        """How often each source is seen in one pass over the store, by name."""
        return {source.name: float(Decimal(repr(source.epochs)) * source.weight) for source in self.sources}


class Tokenizer(Section):
    """A SentencePiece unigram model with byte fallback, trained on a sample of the corpus."""

    name: Name
    """Keys the tokenizer and the token stores."""
    algorithm: Literal["unigram"] = "unigram"
    """How pieces are chosen."""
    vocab_size: Annotated[Count, Field(ge=512, le=65_535)]
    """Pieces: embedding size, sequence lengths, and every loss per token. At most 65,535, so that a token id fits
    sixteen bits and one value stays free for 'nothing here'."""
    sample_bytes: Bytes = 1_000_000_000
    """How much text the tokenizer is trained on, chosen by content hash, in chunks of at most 4,096 characters."""
    character_coverage: Annotated[Fraction, Field(ge=0.9)] = 0.9999
    """Rare characters fall back to bytes."""
    max_piece_length: Annotated[Characters, Field(le=512)] = 16
    """Characters of the longest piece."""
    split_digits: bool = True
    """Whether numbers are spelt digit by digit."""
    threads: Annotated[Threads, Field(le=1_024)] = 1
    """Another number of threads trains another model, so it is part of the spec."""
