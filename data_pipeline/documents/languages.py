"""Languages of documents, by the ending of a file's name."""

from pathlib import PurePosixPath

_LANGUAGES = {
    ".c": "c",
    ".cc": "cpp",
    ".cfg": "ini",
    ".cpp": "cpp",
    ".cs": "csharp",
    ".css": "css",
    ".cxx": "cpp",
    ".go": "go",
    ".h": "c",
    ".hpp": "cpp",
    ".html": "html",
    ".ini": "ini",
    ".ipynb": "notebook",
    ".java": "java",
    ".js": "javascript",
    ".json": "json",
    ".markdown": "markdown",
    ".md": "markdown",
    ".php": "php",
    ".po": "gettext",
    ".py": "python",
    ".pyi": "python",
    ".pyx": "cython",
    ".rb": "ruby",
    ".rs": "rust",
    ".rst": "restructuredtext",
    ".sh": "shell",
    ".sql": "sql",
    ".toml": "toml",
    ".ts": "typescript",
    ".txt": "text",
    ".yaml": "yaml",
    ".yml": "yaml",
}

KNOWN = frozenset(_LANGUAGES.values()) | {"conversation", "other"}
"""Every name that a document's language may have."""


def language_of(path: str) -> str:
    """Language by file ending; `other` where the ending is not known."""
    return _LANGUAGES.get(PurePosixPath(path).suffix.lower(), "other")
