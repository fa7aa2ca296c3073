"""Writes the list of modules in docs/architecture.md: each with the first paragraph of its docstring.

python docs/tree.py            write it
python docs/tree.py --check    exit code 1 if it is stale
"""

import ast
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
FOLDERS = ("specs", "data_pipeline", "model", "evaluation", "runner", "benchmarks")
BEGIN, END = "<!-- modules -->\n", "<!-- /modules -->\n"
_WRAPPER = textwrap.TextWrapper(118, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def tree() -> str:
    """The list as markdown: a heading for each folder, a line for each room and module."""
    lines = []
    for folder in FOLDERS:
        for room in sorted({path.parent for path in (ROOT / folder).rglob("*.py")}):
            name = room.relative_to(ROOT).as_posix()
            title = f"### `{name}/`" if name == folder else f"**`{name}/`**"
            lines += ["", title, "", _summary(room / "__init__.py"), ""]
            for path in sorted(room.glob("*.py")):
                if path.name != "__init__.py":
                    lines += _WRAPPER.wrap(f"- `{path.name}`: {_summary(path)}")
    return "\n".join(lines).strip() + "\n"


def _summary(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split())


def main() -> None:
    """Write the page, or with --check compare it."""
    text = PAGE.read_text("utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    fresh = f"{head}{BEGIN}{tree()}{END}{tail}"
    if "--check" in sys.argv and fresh != text:
        sys.exit("docs/architecture.md is stale: run `python docs/tree.py`")
    if fresh != text:
        PAGE.write_text(fresh, "utf-8")


if __name__ == "__main__":
    main()
