"""Where a source's bytes are had, what they must hash to, and what becomes of them."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from specs.schema.base import Items, Licence, Name, Section, Sha256
from specs.schema.quantities import Bytes, Positive


def _below_root(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"{path!r} leaves the project: give a path below its root")
    return path


def _repository(place: str) -> str:
    if place.startswith("-") or ("://" in place and not place.startswith("https://")):
        raise ValueError(f"{place!r} is no repository: give an https address, or a path below the project root")
    return place if place.startswith("https://") else _below_root(place)


class PackageIndexFile(Section):
    """A file of a project on the Python package index, found by its name."""

    kind: Literal["package-index"]
    """How the bytes are had."""
    project: str
    """Project on the package index."""
    filename: str
    """File of the project: names the version."""


class HttpsFile(Section):
    """A file behind an https address."""

    kind: Literal["https"]
    """How the bytes are had."""
    url: Annotated[str, Field(pattern=r"^https://[^\s]+$")]
    """Where the bytes are had; their digest is what counts."""


class LocalFile(Section):
    """A file below the project root, versioned with it."""

    kind: Literal["file"]
    """How the bytes are had."""
    path: Annotated[str, Field(min_length=1), AfterValidator(_below_root)]
    """A file that is versioned with the project."""


class LocalFolder(Section):
    """The files of a folder below the project root. What is pinned is the tar that `reproducible_tar` makes."""

    kind: Literal["folder"]
    """How the bytes are had."""
    path: Annotated[str, Field(min_length=1), AfterValidator(_below_root)]
    """A folder that lies with the project."""


class GitCommit(Section):
    """The files of a git repository at a commit. What is pinned is the tar that `reproducible_tar` makes of it."""

    kind: Literal["git"]
    """How the bytes are had."""
    repository: Annotated[str, Field(min_length=1), AfterValidator(_repository)]
    """Where the commit is had; its contents are what counts. An https address, or the path of a clone or a bundle below
    the project root."""
    commit: Annotated[str, Field(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$")]
    """Which state of the repository is read."""

    @property
    def name(self) -> str:
        """The repository by the last part of its place."""
        last = self.repository.rstrip("/").rsplit("/", 1)[-1]
        return last.removesuffix(".git").removesuffix(".bundle")


class HubFile(Section):
    """A file of a dataset on the Hugging Face hub, at a revision."""

    kind: Literal["hugging-face"]
    """How the bytes are had."""
    dataset: Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")]
    """Dataset on the Hugging Face hub."""
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    """Which state of the dataset is read. The commit of the dataset, in full: branches move."""
    path: Annotated[str, Field(min_length=1), AfterValidator(_below_root)]
    """File of the dataset."""


Locator = Annotated[
    PackageIndexFile | HttpsFile | LocalFile | LocalFolder | GitCommit | HubFile, Field(discriminator="kind")
]


class Pinned(Section):
    """Raw bytes, pinned: where they may be had and what they must hash to."""

    locator: Locator
    """Where the bytes are had."""
    sha256: Sha256
    """The bytes themselves: other text, other results."""
    size: Bytes | None = None
    """A check on downloads. Length in bytes, where known: an overlong download is then refused early."""

    @property
    def filename(self) -> str:
        """The last part of the locator: archives are told apart by its ending."""
        match self.locator:
            case PackageIndexFile(filename=filename):
                return filename
            case HttpsFile(url=url):
                return url.split("?")[0].rstrip("/").rsplit("/", 1)[-1]
            case LocalFile(path=path) | HubFile(path=path):
                return path.rsplit("/", 1)[-1]
            case LocalFolder(path=path):
                return path.rstrip("/").rsplit("/", 1)[-1] + ".tar"
            case GitCommit(commit=commit) as locator:
                return f"{locator.name}-{commit[:12]}.tar"


class Columns(Section):
    """What the columns of a row are called, where their layout is none that is known. A dot leads into a column."""

    text: str | None = None
    """Where the text of a document stands."""
    path: str | None = None
    """Where its path within the repository stands: it tells the language."""
    licence: str | None = None
    """Where its licence stands, or a list of them that must all be met."""
    language: str | None = None
    """Where its language stands, by any name of Linguist."""
    repository: str | None = None
    """Where its repository stands."""
    messages: str | None = None
    """Where the turns of a conversation stand."""
    system: str | None = None
    """Where a system message stands."""
    instruction: str | None = None
    """Where an instruction stands."""
    context: str | None = None
    """Where its input stands."""
    response: str | None = None
    """Where its answer stands."""


class Source(Pinned):
    """Pinned bytes that become documents."""

    name: Name
    """Names the source in ledgers, weights and provenance."""
    licence: Licence
    """Whether the licence filter keeps it. SPDX expression that covers the documents of this source, where a row
    states none of its own; NOASSERTION where nothing is known: such documents are then dropped, unless
    `filter.licences` lists NOASSERTION."""
    stated_licences: Literal["met", "listed"] = "met"
    """Whether the licences that files state must be met beside the declared one: those of their headers and of the
    licence files of their folders. `listed`: somebody has looked, and conflicts are only listed."""
    format: Literal[
        "files",
        "jsonl",
        "codesearchnet",
        "stack-v2",
        "conversations",
        "instructions",
        "docstring-pairs",
        "debugging-tasks",
    ]
    """How bytes become documents. `files`: each member of the archive is a document. The next five read rows of JSON
    Lines, JSON arrays (both plain or compressed) or Parquet: `jsonl` texts under `text` or `content`, as The Pile,
    The Stack and StarCoder ship them; `codesearchnet` functions; `stack-v2` ids of files, whose text is in
    `contents`; `conversations` chat messages as OpenAI or ShareGPT lay them out; `instructions` as Alpaca and Dolly
    do. `docstring-pairs`: Python functions become an instruction (signature and docstring) and an answer (the
    function), in the manner of CodeSearchNet. `debugging-tasks`: functions with a defect that the examples in their
    docstrings notice become an instruction, and the function without it the answer."""
    columns: Columns | None = None
    """What the columns of rows are called. Else the layouts are known that docs/data.md lists."""
    include: Items[str] = ("**",)
    """Which members are read. Globs over member paths without the archive's top folder; the first path part of an sdist
    is dropped."""
    exclude: Items[str] = ()
    """Which members are left out."""
    may_be_empty: bool = False
    """Whether the source may lose every document. Else a stage that leaves none of them stops, and says why."""
    contents: Pinned | None = None
    """The text of the files that rows name by id. Of `stack-v2`: the files that its rows name by id. A folder or an
    archive of files of those names, plain or gzipped, or rows of `blob_id` and `content`."""
    limit: Positive | None = None
    """At most so many documents. At most so many documents, chosen by content hash, so that the choice does not depend
    on order."""

    @model_validator(mode="after")
    def _contents_where_rows_hold_ids(self) -> Self:
        if (self.format == "stack-v2") != (self.contents is not None):
            raise ValueError(f"format {self.format!r} {'takes no' if self.contents else 'needs'} contents")
        if self.columns and self.format not in ("jsonl", "conversations", "instructions"):
            raise ValueError(f"format {self.format!r} takes no columns: jsonl, conversations and instructions do")
        return self
