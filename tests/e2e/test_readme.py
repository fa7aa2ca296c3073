"""The README against the project that it describes."""

import ast
import re
import textwrap
from pathlib import Path

import pytest

from specs.loading.settings import ROOT

README = (ROOT / "README.md").read_text("utf-8")
ROOMS = ("specs", "data_pipeline", "model", "evaluation", "runner", "benchmarks")


def tree() -> str:
    """The file tree as the README shows it: every module with the first sentence of its docstring."""
    lines = []
    for room in ROOMS:
        lines.append(f"{room}/  {_first_sentence(ROOT / room / '__init__.py')}")
        for path in sorted((ROOT / room).glob("*.py")):
            if path.name != "__init__.py":
                wrapped = textwrap.wrap(_first_sentence(path), 90)
                lines.append(f"  {path.name:<20} {wrapped[0]}")
                lines += [f"  {'':<20} {line}" for line in wrapped[1:]]
    return "\n".join(lines)


def _first_sentence(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split())


def test_the_file_tree_has_a_line_for_every_module() -> None:
    assert tree() in README, f"put this between the fences of the file tree:\n{tree()}"


@pytest.mark.parametrize("page", [*sorted(path.name for path in (ROOT / "docs").glob("*.md")), "../README.md"])
def test_every_link_leads_somewhere(page: str) -> None:
    path = ROOT / "docs" / page
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text("utf-8")):
        assert (path.parent / target).exists(), f"{page} links to {target}"


def test_the_two_commands_of_the_readme_are_targets() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"`?make ([a-z]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
