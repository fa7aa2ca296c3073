"""Card: what a corpus is, for people (a dataset card) and for machines (`croissant.json`), from its ledgers alone.

The card follows the layout of the Hugging Face hub, so that a corpus can be published as it is. Croissant is the format
of MLCommons (version 1.0): every shard with its digest, every column with its meaning.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pyarrow.parquet as pq

from data_pipeline.documents.documents import shards
from specs.common.errors import UserError
from specs.common.files import replacing, sha256_file, write_bytes, write_json
from specs.pipeline import stage
from specs.schema.data import Corpus
from specs.schema.sources import GitCommit, HttpsFile, HubFile, LocalFile, LocalFolder, PackageIndexFile, Pinned, Source

STAGES = ("ingested", "filtered", "deduplicated", "decontaminated", "documents")
"""Folders of a corpus, in the order in which documents pass through them."""

_COLUMNS = {
    "id": "blake2b-128 of the text, or of the text that it derives from",
    "source": "name of the source",
    "path": "path within the source",
    "licence": "SPDX expression",
    "language": "programming language, kind of prose, or `conversation`",
    "text": "the document; a conversation is JSON Lines of role and content",
    "derived": "names of the augmentations applied, joined by `+`",
    "licence_from": "what states the licence: `source` or `row`, then `tag`, `notice` or `file:PATH`, joined by `+`",
    "repository": "repository that the row states",
    "file": "path within the repository, where it is not `path`",
}
_PRIORITY = (
    "Listed by priority: among duplicates, the document of the source listed first survives. What files "
    "state of their licence must be met beside the licence of their source."
)
_REMAINS = "Names of people, and secrets of a form that no detector knows, may remain."
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


@dataclass(frozen=True)
class Contents:
    """What the documents of a corpus are, counted."""

    languages: Counter[str]
    licences: Counter[str]
    derived: int
    """Documents that an augmentation has changed."""
    middles: Counter[str]
    """Documents to be written with their middle last, by the order of their parts."""


def contents(folder: Path) -> Contents:
    """Languages and licences of a folder of documents, without reading their texts."""
    languages, licences, derived, middles = Counter[str](), Counter[str](), 0, Counter[str]()
    for shard in shards(folder):
        table = pq.read_table(shard, columns=["language", "licence", "derived"]).to_pydict()
        languages.update(table["language"])
        licences.update(table["licence"])
        for marks in filter(None, table["derived"]):
            *changes, last = marks.split("+")
            order = last.removeprefix("fim-").partition("@")[0] if last.startswith("fim-") else None
            middles.update(filter(None, [order]))
            derived += bool(changes) or order is None
    return Contents(languages, licences, derived, middles)


def croissant(corpus: Corpus, folder: Path, counts: Contents) -> dict[str, Any]:
    """Metadata of a corpus in Croissant 1.0; `folder` holds its documents, beside the folder of the card."""
    files = [
        {
            "@type": "cr:FileObject",
            "@id": shard.name,
            "name": shard.name,
            "contentUrl": f"../{folder.name}/{shard.name}",
            "encodingFormat": "application/x-parquet",
            "contentSize": f"{shard.stat().st_size} B",
            "sha256": sha256_file(shard),
        }
        for shard in shards(folder)
    ]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": corpus.name,
        "description": _summary(corpus, counts),
        "license": sorted(counts.licences),
        "version": "1.0.0",
        "isBasedOn": [
            _address(pinned) for source in corpus.sources for pinned in (source, source.contents) if pinned is not None
        ],
        "distribution": files,
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": name,
                "name": name,
                "description": "One document for each row.",
                "field": [
                    {
                        "@type": "cr:Field",
                        "@id": f"{name}/{column}",
                        "name": column,
                        "description": meaning,
                        "dataType": "sc:Text",
                        "source": {"fileObject": {"@id": file["@id"]}, "extract": {"column": column}},
                    }
                    for column, meaning in _COLUMNS.items()
                ],
            }
            for file in files
            for name in [str(file["@id"]).removesuffix(".parquet")]
        ],
    }


def card(corpus: Corpus, ledgers: Mapping[str, Mapping[str, Any]], counts: Contents) -> str:
    """The dataset card, as Markdown with the header that the Hugging Face hub reads."""
    first, last = ledgers[STAGES[0]], ledgers[STAGES[-1]]
    sources = [
        (
            *(source.name, _from(source), f"`{source.sha256[:16]}...`", source.licence, source.format),
            *(_count(ledger["sources"].get(source.name, {}), "documents_out") for ledger in (first, last)),
        )
        for source in corpus.sources
    ]
    funnel = [
        (name, f"{ledger['documents_in']:,}", f"{ledger['documents_out']:,}", f"{ledger['bytes_out']:,}")
        for name, ledger in ledgers.items()
    ]
    drops = [
        (name, reason, f"{entry['documents']:,}", _code(str(entry["examples"][0])))
        for name, ledger in ledgers.items()
        for reason, entry in sorted(ledger["drops"].items())
    ]
    redacted = ledgers["filtered"]["facts"].get("redacted", {})
    against = ", ".join(benchmark.name for benchmark in corpus.decontaminate.against) or "no benchmark"
    dropped = sum(entry["documents"] for entry in ledgers["decontaminated"]["drops"].values())
    header = ["license: other", "license_name: several", f"size_categories: [{_size(last['documents_out'])}]"]
    parts = [
        "---\n" + "\n".join([*header, f"pretty_name: {corpus.name}", "tags: [code, croissant]"]) + "\n---",
        f"# {corpus.name}\n\n{_summary(corpus, counts)}",
        f"## Sources\n\n{_PRIORITY}\n\n"
        + _table(("source", "from", "sha256", "licence", "format", "read", "kept"), sources),
        "## From sources to documents\n\n" + _table(("after", "documents in", "documents out", "bytes out"), funnel),
        "## What was left out, and why\n\n" + _table(("stage", "reason", "documents", "such as"), drops),
        "## Languages\n\n" + _table(("language", "documents"), _counted(counts.languages)),
        "## Licences\n\n" + _table(("licence", "documents"), _counted(counts.licences)),
        "## Licences that files state beyond the declared one\n\n"
        + _table(("source", "declared, and stated", "documents read", "such as"), _conflicts(ledgers[STAGES[0]])),
        "## Personal data and secrets\n\n"
        f"Replaced in {redacted.get('documents', 0):,} documents: {redacted.get('emails', 0):,} e-mail addresses, "
        f"{redacted.get('addresses', 0):,} network addresses, {redacted.get('secrets', 0):,} secrets. {_REMAINS}",
        f"## Benchmarks\n\nCleaned of {against}: {dropped:,} documents dropped for what they shared with a problem.",
        f"## Augmentation\n\n{counts.derived:,} documents were rewritten without changing what they mean; the column "
        "`derived` says how." + _middles(counts.middles),
    ]
    return "\n\n".join(parts) + "\n"


def read_ledgers(corpus: Path) -> dict[str, dict[str, Any]]:
    """The ledger of each stage of a corpus, in order. Raises UserError where one is missing or damaged."""
    ledgers = {}
    for name in STAGES:
        path = corpus / name / "ledger.json"
        try:
            ledgers[name] = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot read the ledger ({error}); run the stage that writes it") from error
    return ledgers


def _summary(corpus: Corpus, counts: Contents) -> str:
    return (
        f"{sum(counts.languages.values()):,} documents of {len(corpus.sources)} pinned sources in "
        f"{len(counts.languages)} languages, filtered, deduplicated and cleaned of benchmarks. Everything here is a "
        "function of a spec: the same spec gives the same bytes."
    )


def _from(source: Source) -> str:
    return _address(source) + (f" with contents of {_address(source.contents)}" if source.contents else "")


def _address(source: Pinned) -> str:
    match source.locator:
        case PackageIndexFile(project=project, filename=filename):
            return f"https://pypi.org/project/{project}/#{filename}"
        case HttpsFile(url=url):
            return url
        case HubFile(dataset=dataset, revision=revision, path=path):
            return f"https://huggingface.co/datasets/{dataset}/blob/{revision}/{path}"
        case GitCommit(repository=repository, commit=commit):
            return f"{repository}@{commit}"
        case LocalFile(path=path) | LocalFolder(path=path):
            return path


def _middles(counts: Counter[str]) -> str:
    if not counts:
        return ""
    return (
        f" {sum(counts.values()):,} are to be written with their middle last: {counts['psm']:,} prefix first, "
        f"{counts['spm']:,} suffix first. Their text is whole; `fim-psm@start-stop` in `derived` is the middle."
    )


def _conflicts(ledger: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (source, words, f"{entry['documents']:,}", _code(str(entry["examples"][0])))
        for source, found in sorted(ledger["facts"].get("licences", {}).items())
        for words, entry in sorted(found["conflicts"].items())
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "None."
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _code(text: str) -> str:
    return "`" + text.replace("`", "'").replace("\n", " ") + "`"


def _counted(counts: Counter[str]) -> list[tuple[str, str]]:
    return [(name, f"{count:,}") for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def _count(counts: Mapping[str, int], key: str) -> str:
    return f"{counts.get(key, 0):,}"


def _size(documents: int) -> str:
    steps = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
    return next((name for limit, name in steps if documents < limit), "n>10M")


@click.command(epilog="Example: python -m data_pipeline.card corpora.smoke-code --corpus corpus --out card")
@click.argument("node")
@click.option("--corpus", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of its stages.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for README.md and croissant.json.")
@stage.command
def main(node: str, corpus: Path, out: Path) -> None:
    """Describe a finished corpus for people and for machines."""
    section = stage.node(node, Corpus)
    with stage.measuring("card", node), replacing(out) as temporary:
        counts, folder = contents(corpus / STAGES[-1]), corpus / STAGES[-1]
        temporary.mkdir()
        write_json(temporary / "croissant.json", croissant(section, folder, counts))
        write_bytes(temporary / "README.md", card(section, read_ledgers(corpus), counts).encode())


if __name__ == "__main__":
    main()
