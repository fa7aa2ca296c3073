"""Notebooks as scripts: cells in their order, text as comments, outputs left out."""

import json
import re

from data_pipeline.documents.languages import named

_COMMENTS = {"python": "#", "r": "#", "julia": "#", "shell": "#", "javascript": "//", "scala": "//", "rust": "//"}
_MAGIC = re.compile(r"[ \t]*(?:[%!?]|[\w.]+\?+$)")


def script(text: str) -> tuple[str, str] | None:
    """Language and text of the script that a notebook (nbformat 3 or 4) is; none where it is no notebook.

    Cells are parted by `# %%`, as jupytext and editors know them. Lines for the notebook's shell alone become comments.
    """
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(notebook, dict):
        return None
    sheets = notebook.get("worksheets")
    first = sheets[0] if isinstance(sheets, list) and sheets and isinstance(sheets[0], dict) else notebook
    cells = first.get("cells")
    if not isinstance(cells, list):
        return None
    language = _language(notebook.get("metadata"))
    mark = _COMMENTS.get(language)
    if mark is None:
        return None
    parts = [part for cell in cells if isinstance(cell, dict) and (part := _part(cell, mark))]
    return language, "\n\n".join(parts) + "\n" if parts else ""


def _language(metadata: object) -> str:
    about = metadata if isinstance(metadata, dict) else {}
    for key, field in (("language_info", "name"), ("kernelspec", "language")):
        stated = about.get(key)
        if isinstance(stated, dict) and isinstance(name := stated.get(field), str):
            return named(name) or name.lower()
    return "python"


def _part(cell: dict[str, object], mark: str) -> str:
    source = cell.get("source", cell.get("input", ""))
    text = "".join(map(str, source)) if isinstance(source, list) else str(source)
    lines = text.strip("\n").rstrip().split("\n")
    if not text.strip():
        return ""
    if cell.get("cell_type") != "code":
        return "\n".join([f"{mark} %% [markdown]", *(f"{mark} {line}".rstrip() for line in lines)])
    if lines[0].startswith("%%"):
        # The whole cell is in another language.
        return "\n".join([f"{mark} %%", *(f"{mark} {line}".rstrip() for line in lines)])
    return "\n".join([f"{mark} %%", *(f"{mark} {line}" if _MAGIC.match(line) else line for line in lines)])
