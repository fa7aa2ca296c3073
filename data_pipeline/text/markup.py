"""The words of a page without its markup: what rules for natural language are to count."""

import re

# Underlines of titles, rulers, and the borders of tables.
_ORNAMENT = re.compile(r"[ \t]*([!-/:-@\[-`{-~])\1{2,}[ \t]*|[ \t]*(?=[-=+|~ \t]*[-=]{3})[-=+|~ \t]+")
_DOCTEST = re.compile(r"[ \t]*(?:>>>|\.\.\.|In \[\d+\]:|Out\[\d+\]:)(?:\s|$)")
_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})")
_HEADING = re.compile(r"^[ \t]{0,3}#{1,6}[ \t]+|[ \t]+#+[ \t]*$")
_DIRECTIVE = re.compile(r"([ \t]*)\.\.[ \t]+([\w:-]+)::")
_OF_CODE = frozenset(
    (
        *(
            "code",
            "code-block",
            "sourcecode",
            "literalinclude",
            "parsed-literal",
            "highlight",
            "ipython",
            "plot",
            "math",
        ),
        *(
            "graphviz",
            "doctest",
            "testcode",
            "testsetup",
            "testoutput",
            "raw",
            "productionlist",
            "toctree",
            "autosummary",
        ),
    )
)


def prose_of(language: str, text: str) -> str:
    """The text without ornaments, code and the signs of headings, as Markdown and reStructuredText write them.

    A plain text file is read as reStructuredText: where it has no markup, nothing goes.
    """
    lines = text.split("\n")
    kept = _without_fences(lines) if language == "markdown" else _without_literal_blocks(lines)
    kept = [line.replace("|", " ") if line.lstrip().startswith("|") else line for line in kept]
    return "\n".join(line for line in kept if not _ORNAMENT.fullmatch(line) and not _DOCTEST.match(line))


def _without_fences(lines: list[str]) -> list[str]:
    kept = []
    fence = ""
    for line in lines:
        match = _FENCE.match(line)
        if fence:
            if match is not None and match[1].startswith(fence):
                fence = ""
        elif match is not None:
            fence = match[1]
        else:
            kept.append(_HEADING.sub("", line))
    return kept


def _without_literal_blocks(lines: list[str]) -> list[str]:
    kept = []
    # Lines that are indented further than this belong to a block of code; -1 outside of one.
    margin = -1
    for line in lines:
        indentation = len(line) - len(line.lstrip(" \t"))
        if margin >= 0 and (indentation > margin or not line.strip()):
            continue
        margin = -1
        directive = _DIRECTIVE.match(line)
        if directive is not None:
            if directive[2] in _OF_CODE:
                margin = indentation
            continue
        if line.rstrip().endswith("::"):
            margin = indentation
        kept.append(line)
    return kept
