import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.documents.documents import Document
from data_pipeline.filters.quality import prose
from data_pipeline.text.markup import prose_of
from specs.schema.filters import Filter

SENTENCES = "The words of this page have to be read, and that is what they are for, with all of it. " * 6


def kept(language: str, text: str) -> bool:
    return prose(Document("", "s", "a", "MIT", language, text), Filter())[0]


@pytest.mark.parametrize(
    ("language", "markup"),
    [
        # Underlines of titles.
        ("restructuredtext", "".join(f"Title\n{'#' * 60}\n\n" for _ in range(3))),
        ("restructuredtext", "".join(f"{'. ' * 0}{'.' * 40}\nPart\n{'.' * 40}\n\n" for _ in range(9))),
        ("text", "Release notes\n" + "#" * 79 + "\n\n"),
        # Code, with its comments and its continuation lines.
        ("restructuredtext", "An example::\n\n" + "    x = 1  # one # two # three\n" * 40 + "\nand on.\n\n"),
        ("restructuredtext", ".. code-block:: python\n\n" + "    ## 1 2 3 4 5 6 7 8 9 0\n" * 40 + "\n"),
        ("restructuredtext", ">>> f(1,\n... 2)\n" * 40),
        ("markdown", "```sh\n" + "# 1 2 3 4 5\n" * 60 + "```\n\n"),
        ("markdown", "~~~~\n" + "...\n```\n" * 60 + "~~~~\n\n"),
        # Headings and tables.
        ("markdown", "".join(f"###### Part {number} ######\n\n" for number in range(30))),
        ("restructuredtext", "====  ====\none   two\n====  ====\n" * 20),
        ("restructuredtext", "+------+------+\n| some | more |\n+------+------+\n" * 20),
    ],
)
def test_a_good_page_is_kept_whatever_its_markup(language: str, markup: str) -> None:
    assert kept(language, markup + SENTENCES)
    assert kept(language, SENTENCES.replace(". ", ".\n") + "\n\n" + markup)
    assert SENTENCES.strip() in prose_of(language, markup + SENTENCES)


def test_the_control_a_page_that_is_bad_without_its_markup_goes() -> None:
    assert not kept("markdown", SENTENCES + "# a ... " * 80)
    assert not kept("restructuredtext", SENTENCES + " #hash" * 80)
    assert not kept("text", "1234 " * 200 + SENTENCES[:60])


def test_prose_in_directives_stays() -> None:
    page = ".. note::\n   This is said.\n\n.. code-block:: c\n\n   int x;\n\n   int y;\n\nAfter.\n"
    assert prose_of("restructuredtext", page).split() == ["This", "is", "said.", "After."]
    assert prose_of("restructuredtext", "Thus::\n\n  code\n\n  more\n\nAfter.").split() == ["Thus::", "After."]


@given(st.text(alphabet="ab #`~.=:->+|\n\t", max_size=200), st.sampled_from(["markdown", "restructuredtext", "text"]))
def test_what_is_left_are_words_of_the_page(text: str, language: str) -> None:
    left, whole = prose_of(language, text).split(), text.split()
    assert len("".join(left)) <= len("".join(whole)) and set("".join(left)) <= set("".join(whole))
