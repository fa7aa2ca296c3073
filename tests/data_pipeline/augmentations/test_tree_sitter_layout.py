import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.augment import augment
from data_pipeline.augmentations.tree_sitter_layout import LANGUAGES, _leaves, transforms
from data_pipeline.documents.documents import Document, document_id
from specs.schema.data import Augment

CODE = {
    "c": "#define SUM(a, b) \\\n    ((a) + (b))\n\n"
    "int main(void) {\n    /* two\n       rows */\n    return SUM(1, 2);\n}\n",
    "cpp": 'auto text = R"(raw\n    rows)";\n\n'
    "int f(int x) {\n    if (x) {\n        return 1;\n    }\n    return 0;\n}\n",
    "go": "package main\n\nvar s = `raw\n    rows`\n\n"
    "func f(x int) int {\n\tif x > 1 {\n\t\treturn 1\n\t}\n\treturn 0\n}\n",
    "java": 'class A {\n    // one\n    int f(int x) {\n        return x + 1;\n    }\n\n    String s = "x";\n}\n',
    "javascript": "const s = `raw\n    rows ${1}\n  more`;\n\nfunction f(x) {\n    return x\n}\n\nlet y = f(1)\n",
    "rust": 'fn f(x: i32) -> i32 {\n    let s = "raw\n    rows";\n\n    x + s.len() as i32\n}\n',
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_token_stays_and_the_layout_changes(language: str) -> None:
    text = CODE[language]
    before = _leaves(language, text)
    assert before is not None
    for name, transform in transforms(language).items():
        results = [transform(text, random.Random(seed)) for seed in range(12)]
        assert None not in results and set(results) != {text}, name
        for result in filter(None, results):
            after = _leaves(language, result)
            assert after is not None and [token for *_, token in after] == [token for *_, token in before]
            # What lies inside one token, of several rows, keeps its margins.
            assert ("raw\n    rows" in text) == ("raw\n    rows" in result)


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_does_not_parse_is_left_alone(language: str) -> None:
    assert all(transform("} ) (((\n", random.Random(1)) is None for transform in transforms(language).values())


@given(st.text(alphabet='{}()[];,="`/*\\ \n\tabx1'), st.sampled_from(LANGUAGES), st.integers(0, 9))
def test_any_text_is_proven_or_left(text: str, language: str, seed: int) -> None:
    for transform in transforms(language).values():
        result = transform(text, random.Random(seed))
        assert result is None or "".join(result.split()) == "".join(text.split())


def test_a_document_of_another_language_says_how_it_was_derived() -> None:
    text = CODE["java"]
    always = Augment(rename_locals=1.0, quotes=1.0, indent=1.0, blank_lines=1.0, comments=1.0)
    document = Document(document_id(text), "s", "A.java", "MIT", "java", text)
    changed, outcomes = augment(document, always)
    assert set(outcomes) == {"indent", "blank_lines"} and "indent" in changed.derived and changed.text != text
    prose = Document(document_id(text), "s", "a.md", "MIT", "markdown", text)
    assert augment(prose, always) == (prose, {})
