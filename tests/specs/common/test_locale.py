"""No file and no answer of a program is read by the locale: it would mean something else on another machine."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from specs.loading.settings import ROOT

ROOMS = ("specs", "data_pipeline", "model", "evaluation", "runner", "benchmarks", "docs")
BINARY_OPENERS = {
    "TokenStore",
    "archive",
    "tarfile",
    "zipfile",
    "os",
    "ts",
    "pa",
    "webbrowser",
    "wave",
    "dbm",
    "safe_open",
}
"""What has an `open` that opens no text."""


def by_locale(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of each call that would take its encoding from the locale."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (name := _trouble(node)):
            yield node.lineno, name


def _trouble(call: ast.Call) -> str | None:
    function = call.func
    name = (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )
    owner = function.value.id if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) else ""
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in keywords or None in keywords:
        return None
    constants = [value.value for value in [*call.args, *keywords.values()] if isinstance(value, ast.Constant)]
    mode = next((value for value in constants if isinstance(value, str) and set(value) <= set("rwxabt+")), "")
    match name:
        case "read_text":
            # Of importlib.resources too the first argument is the encoding.
            return None if call.args else "read_text"
        case "write_text":
            return None if len(call.args) > 1 else "write_text"
        case "open" if owner in ("gzip", "bz2", "lzma"):
            return "open" if "t" in mode else None
        case "open" | "fdopen" | "NamedTemporaryFile" | "TemporaryFile" | "SpooledTemporaryFile":
            if owner in BINARY_OPENERS - {"os"} or (owner == "os" and name == "open"):
                return None
            binary = "b" in mode or (not mode and name.endswith("File"))
            return None if binary else name
        case "TextIOWrapper":
            return None if len(call.args) > 1 else name
        case "run" | "Popen" | "check_output" | "check_call" if owner == "subprocess":
            text = [keywords.get(word) for word in ("text", "universal_newlines")]
            return name if any(isinstance(value, ast.Constant) and value.value for value in text) else None
    return None


def modules() -> list[Path]:
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def test_nothing_takes_its_encoding_from_the_locale() -> None:
    paths = modules()
    assert len(paths) > 150
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in paths
        for line, name in by_locale(ast.parse(path.read_text("utf-8")))
    ]
    assert not found


@pytest.mark.parametrize(
    ("code", "caught"),
    [
        ("open(path)", True),
        ("open(path, 'w')", True),
        ("open(path, 'rb')", False),
        ("open(path, encoding='utf-8')", False),
        ("path.open()", True),
        ("path.open('wb')", False),
        ("path.read_text()", True),
        ("path.read_text('utf-8')", False),
        ("path.write_text(text)", True),
        ("path.write_text(text, 'utf-8')", False),
        ("gzip.open(path)", False),
        ("gzip.open(path, 'rt')", True),
        ("tarfile.open(path)", False),
        ("os.fdopen(3, 'w')", True),
        ("os.open(path, 0)", False),
        ("tempfile.NamedTemporaryFile('w')", True),
        ("tempfile.NamedTemporaryFile()", False),
        ("io.TextIOWrapper(stream)", True),
        ("subprocess.run(command, text=True)", True),
        ("subprocess.run(command, text=True, encoding='utf-8')", False),
        ("subprocess.run(command)", False),
    ],
)
def test_the_scan_sees_what_it_should(code: str, caught: bool) -> None:
    assert bool(list(by_locale(ast.parse(code)))) is caught
