import pytest

from data_pipeline.documents.languages import known, language_of, may_be, named

ENDINGS = {
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
    ".kt": "kotlin",
    ".jl": "julia",
    ".m": "objective-c",
    ".zig": "zig",
    ".html.erb": "html+erb",
}


@pytest.mark.parametrize(("ending", "language"), ENDINGS.items())
def test_language_follows_the_file_ending(ending: str, language: str) -> None:
    assert language_of(f"a.b/c{ending}") == language_of(f"A.B/C{ending.upper()}") == language


@pytest.mark.parametrize(
    ("path", "language"),
    [
        ("Makefile", "makefile"),
        ("a/Dockerfile", "dockerfile"),
        ("CMakeLists.txt", "cmake"),
        ("requirements.txt", "pip requirements"),
        ("Gemfile", "ruby"),
        ("LICENSE", "text"),
        ("a.bin", "other"),
        ("a.tar.gz", "other"),
        ("python", "other"),
        (".bashrc", "shell"),
    ],
)
def test_some_files_are_known_by_their_name(path: str, language: str) -> None:
    assert language_of(path) == language


@pytest.mark.parametrize(
    ("line", "language"),
    [
        ("#!/usr/bin/env python3\n", "python"),
        ("#!/usr/bin/python3.11 -u\n", "python"),
        ("#! /bin/bash -e\n", "shell"),
        ("#!/usr/bin/env -S node --experimental\n", "javascript"),
        ("#!/usr/bin/env LANG=C perl\n", "perl"),
        ("#!/opt/unheard-of\n", "other"),
        ("# python\n", "other"),
    ],
)
def test_scripts_without_ending_are_known_by_their_first_line(line: str, language: str) -> None:
    assert language_of("bin/tool", line + "x\n") == language
    assert language_of("bin/tool.py", line + "x\n") == "python"
    assert language_of("bin/tool") == "other"


@pytest.mark.parametrize(
    ("path", "text", "language"),
    [
        ("a.h", "#include <stdio.h>\nint add(int a, int b);\n", "c"),
        ("a.h", "#pragma once\n#include <string>\n", "cpp"),
        ("a.h", "namespace a {\nint add(int a, int b);\n}\n", "cpp"),
        ("a.h", "template <typename T>\nT add(T a, T b);\n", "cpp"),
        ("a.h", "#import <Foundation/Foundation.h>\n@interface A : NSObject\n@end\n", "objective-c"),
        ("a.h", "/* the class of std names */\nstruct class_of { int a; };\n", "c"),
        ("a.m", "% adds\nfunction c = add(a, b)\nc = a + b;\nend\n", "matlab"),
        ("a.m", '#import "a.h"\n@implementation A\n@end\n', "objective-c"),
    ],
)
def test_content_decides_where_endings_are_shared(path: str, text: str, language: str) -> None:
    assert language_of(path, text) == language
    assert may_be(path, (language,))


def test_what_a_name_rules_out_need_not_be_read() -> None:
    assert may_be("tool", ("python",)) and may_be("a.py", ("python",)) and may_be("a.h", ("cpp",))
    assert not may_be("a.png", ("python",)) and not may_be("a.h", ("python",)) and not may_be("Makefile", ("python",))


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("C++", "cpp"),
        ("golang", "go"),
        ("Jupyter Notebook", "notebook"),
        ("reStructuredText", "restructuredtext"),
        ("js", "javascript"),
        ("conversation", "conversation"),
        ("Objective-C++", "objective-c++"),
        ("nothing of the kind", None),
    ],
)
def test_names_of_elsewhere_are_known(name: str, own: str | None) -> None:
    assert named(name) == named(name.upper()) == own


def test_the_table_is_large_and_names_are_lower_case() -> None:
    assert len(known()) > 600
    assert all(name == name.lower() for name in known())
    assert set(ENDINGS.values()) <= known()
