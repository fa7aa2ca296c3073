from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.documents.documents import Document
from data_pipeline.filters import quality
from data_pipeline.filters.fast_accept import FAST_ACCEPT
from data_pipeline.text.lexical import COMMENTS
from specs.schema.filters import Filter

Rule = Callable[[Document, Filter], quality.Verdict]

PIECES = (
    *(
        '"',
        "'",
        '"""',
        "'''",
        'r"""',
        "U'''",
        "#",
        "# a comment\n",
        '    """',
        '\t"""doc"""\n',
        "\\",
        "\\\n",
        "\n",
        "\r\n",
    ),
    *(
        "/*",
        "*/",
        "//",
        "`",
        "x = 1\n",
        "x = 1\n" * 9,
        "word " * 30,
        "x" * 300,
        "é一\u2028",
        "\x1c",
        " \t ",
        "\x00",
        "",
    ),
)


def joined(*pieces: str) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(pieces), max_size=30).map("".join)


TEXTS = st.one_of(
    joined(*PIECES),
    st.text(st.characters(exclude_categories=["Cs"])),
    joined('"', "'", '"""', "U'''", '    r"""', "#", "\\", "\n", "a", "/*", "*/", "`"),
    joined('"""', "doc", '"""\n', "U'''", "'''\n", "# one\n", "code\n", "\n", " "),
    joined("assert x\n", "other\n", "assert y", "\n", "  self.assert_()\n", "oth", "else\n", "elsewhere\n"),
)
LANGUAGES = st.sampled_from(["python", "python", "cython", "c", "javascript", "markdown", "other"])


def share(count: float, of: int) -> float:
    return min(1.0, max(0.0, count / max(1, of)))


def just_refused(text: str, language: str) -> dict[Rule, list[dict[str, Any]]]:
    """For each rule, limits that the text misses by the least that there is."""
    lines = text.split("\n")
    size, longest = len(text.encode()), max(map(len, lines))
    told = [line for line in map(str.strip, lines) if line]
    asserts = sum(line.startswith(("assert ", "assert(", "self.assert")) for line in told)
    pattern = COMMENTS.get(language)
    commented = sum(len(match[0]) for match in pattern.finditer(text) if match.lastgroup) if pattern else 0
    letters = share(sum(map(str.isalpha, text)) + 0.5, len(text))
    return {
        quality.size: [
            {"min_bytes": size + 1},
            {"min_bytes": 0, "max_bytes": max(1, size - 1)},
            {"min_bytes": 0, "max_lines": max(1, len(lines) - 1)},
        ],
        quality.line_length: [
            {"max_line_length": max(1, longest - 1)},
            {"max_mean_line_length": max(1, (len(text) - len(lines) + 1) // len(lines))},
        ],
        quality.alphanumeric: [{"min_alphabetic": letters, "min_alphanumeric": 0.0}],
        quality.comments: [
            {"max_comment_share": share(commented - 0.5, len(text))},
            {"max_comment_share": 1.0, "min_comment_share": share(commented + 0.5, len(text))},
        ],
        quality.repeated: [
            {"max_repeated_lines": share(len(told) - len(set(told)) - 0.5, len(told)), "max_assert_lines": 1.0},
            {"max_repeated_lines": 1.0, "max_assert_lines": share(asserts - 0.5, len(told))},
        ],
    }


@pytest.mark.parametrize("rule", FAST_ACCEPT, ids=lambda rule: rule.__name__)
def test_what_is_proved_is_so(rule: Rule) -> None:
    @settings(max_examples=500)
    @given(TEXTS, LANGUAGES)
    def check(text: str, language: str) -> None:
        document = Document("", "s", "a", "MIT", language, text)
        for limits in ({}, *just_refused(text, language)[rule]):
            given = Filter(sizes=()).model_copy(update=limits)
            if FAST_ACCEPT[rule](document, len(text.split("\n")), given):
                assert rule(document, given)[0]

    check()


@pytest.mark.parametrize("rule", FAST_ACCEPT, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("language", ["python", "c"])
def test_a_proof_is_enough_for_ordinary_code(rule: Rule, language: str) -> None:
    mark = {"python": '"""Area."""', "c": "/* Area. */"}[language]
    text = f"{mark}\n\n" + "".join(f"function area_{n}(width, height)\n    {mark}\n    times {n}\n" for n in range(30))
    assert FAST_ACCEPT[rule](Document("", "s", "a", "MIT", language, text), len(text.split("\n")), Filter())


@given(st.text(alphabet="aB1é., \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\x00_-"))
def test_words_with_letters_are_counted_alike_in_ascii_and_elsewhere(text: str) -> None:
    words = text.split()
    assert quality._with_letters(text, words) == sum(any(map(str.isalpha, word)) for word in words)
