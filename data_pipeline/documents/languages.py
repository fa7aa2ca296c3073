"""Languages of documents: by file name, ending, first line and, for headers of C, content.

The table is Linguist's (languages.tsv), which GitHub and The Stack go by; where several languages have one ending,
`_PREFERRED` decides, or who lists it first.
"""

import functools
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

OTHER = "other"
_OWN = ("conversation", OTHER)
"""Languages that no file has by its name."""
_PREFERRED = {
    ".as": "actionscript",
    ".asc": "asciidoc",
    ".asm": "assembly",
    ".bas": "visual basic 6.0",
    ".bst": "bibtex style",
    ".cfg": "ini",
    ".cgi": "perl",
    ".cl": "opencl",
    ".cls": "tex",
    ".d": "d",
    ".es": "javascript",
    ".f": "fortran",
    ".fs": "f#",
    ".g": "gap",
    ".gml": "xml",
    ".gs": "javascript",
    ".h": "c",
    ".hh": "cpp",
    ".html": "html",
    ".inc": "php",
    ".json": "json",
    ".l": "lex",
    ".lean": "lean 4",
    ".m": "objective-c",
    ".md": "markdown",
    ".ml": "ocaml",
    ".mod": "modula-2",
    ".ms": "roff",
    ".pl": "perl",
    ".plist": "xml property list",
    ".pm": "perl",
    ".r": "r",
    ".rs": "rust",
    ".scm": "scheme",
    ".sql": "sql",
    ".st": "smalltalk",
    ".t": "perl",
    ".txt": "text",
    ".v": "verilog",
    ".yaml": "yaml",
}
_BY_CONTENT = {
    ".h": ("c", "cpp", "objective-c"),
    ".m": ("objective-c", "matlab"),
    ".ipynb": ("python", "r", "julia", "shell", "javascript", "scala", "rust"),
}
_SHEBANG = re.compile(r"#!\s*(?:\S*/)?(?:env\s+(?:-\S+\s+|\w+=\S*\s+)*(?:\S*/)?)?([\w.+-]+)")
_CPP = re.compile(
    r"^\s*#\s*include\s*<(?:cstd\w+|iostream|string|vector|map|memory|type_traits|utility|algorithm|functional|optional)>"
    r"|^\s*(?:template\s*<|class\s+\w|namespace\b|using\s+(?:namespace\b|\w+\s*=)|(?:public|private|protected)\s*:)"
    r"|\b(?:std|boost)::|\bconstexpr\b|\bnoexcept\b|\bstatic_cast<",
    re.M,
)
_OBJECTIVE_C = re.compile(r"^\s*(?:@(?:interface|protocol|class|property|end|import|implementation)\b|#import\b)", re.M)
_MATLAB = re.compile(r"^\s*(?:%|function\b[^;{]*$|end\s*$)", re.M)


@dataclass(frozen=True)
class _Table:
    names: Mapping[str, str]
    """Name here, by every name and alias in lower case."""
    endings: Mapping[str, str]
    files: Mapping[str, str]
    interpreters: Mapping[str, str]


def language_of(path: str, text: str | None = None) -> str:
    """Language by file name or ending; with the text also by the first line and by content. `other` where unknown."""
    table = _table()
    name = path.rsplit("/", 1)[-1]
    language = table.files.get(name) or _by_ending(name.lower(), table.endings)
    if text is not None:
        if language is None and text.startswith("#!"):
            language = _by_first_line(text, table.interpreters)
        elif language == "c" and name.lower().endswith(".h"):
            language = "objective-c" if _OBJECTIVE_C.search(text) else "cpp" if _CPP.search(text) else "c"
        elif language == "objective-c" and name.lower().endswith(".m") and not _OBJECTIVE_C.search(text):
            language = "matlab" if _MATLAB.search(text) else language
    return language or OTHER


def may_be(path: str, languages: Container[str]) -> bool:
    """Whether a file can be of one of these languages, as far as its name says; else it need not be read."""
    language = language_of(path)
    if language in languages:
        return True
    name = path.rsplit("/", 1)[-1].lower()
    if language == OTHER:
        # Without an ending the first line decides.
        return "." not in name.lstrip(".")
    return any(one in languages for ending, ones in _BY_CONTENT.items() if name.endswith(ending) for one in ones)


def named(name: str) -> str | None:
    """The name here of a language that goes by another one elsewhere (`C++`, `golang`); none where there is no such."""
    return _table().names.get(name.strip().lower())


def known() -> frozenset[str]:
    """Every name that a document's language may have."""
    return frozenset(_table().names.values())


def _by_ending(name: str, endings: Mapping[str, str]) -> str | None:
    # The longest that is known: `.html.erb` before `.erb`.
    at = name.find(".", 1)
    while at >= 0:
        if (language := endings.get(name[at:])) is not None:
            return language
        at = name.find(".", at + 1)
    return None


def _by_first_line(text: str, interpreters: Mapping[str, str]) -> str | None:
    match = _SHEBANG.match(text[:200].split("\n", 1)[0])
    if match is None:
        return None
    # python3.11 is python3, and that is python.
    program = match[1]
    return interpreters.get(program) or interpreters.get(re.sub(r"[\d.]+$", "", program))


@functools.cache
def _table() -> _Table:
    names: dict[str, str] = {name: name for name in _OWN}
    files: dict[str, str] = {}
    interpreters: dict[str, str] = {}
    endings: dict[str, tuple[int, str]] = {}
    for line in Path(__file__).with_name("languages.tsv").read_text("utf-8").splitlines():
        if line.startswith("#"):
            continue
        name, theirs, _, aliases, *lists = line.split("\t")
        own_endings, own_files, own_interpreters = (list(filter(None, entries.split("|"))) for entries in lists)
        names |= {name: name, theirs.lower(): name}
        for alias in filter(None, aliases.split("|")):
            names.setdefault(alias, name)
        for file in own_files:
            files.setdefault(file, name)
        for interpreter in own_interpreters:
            interpreters.setdefault(interpreter, name)
        for rank, ending in enumerate(own_endings):
            endings[ending.lower()] = min(endings.get(ending.lower(), (rank, name)), (rank, name))
    by_ending = {ending: name for ending, (_, name) in endings.items()} | _PREFERRED
    return _Table(*map(MappingProxyType, (names, by_ending, files, interpreters)))
