import pytest
from pydantic import TypeAdapter, ValidationError

from specs.schema.base import Licence
from specs.schema.data import Benchmark, Corpus
from specs.schema.filters import Filter, Prose, SizeOf

PINNED = {"locator": {"kind": "file", "path": "a.tar"}, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("stated", "spelt"),
    [
        ("mit", "MIT"),
        ("apache-2.0 or MIT", "Apache-2.0 OR MIT"),
        ("LicenseRef-internal", "LicenseRef-internal"),
        ("Apache-2.0 WITH LLVM-exception", "Apache-2.0 WITH LLVM-exception"),
        ("NOASSERTION", "NOASSERTION"),
    ],
)
def test_a_licence_is_spelt_as_spdx_spells_it(stated: str, spelt: str) -> None:
    assert TypeAdapter(Licence).validate_python(stated) == spelt


@pytest.mark.parametrize("stated", ["", "Apache 2", "BSD", "MIT AND", "(MIT", "MIT, BSD-3-Clause", "https://x.org/l"])
def test_what_is_no_expression_of_spdx_is_refused(stated: str) -> None:
    with pytest.raises(ValidationError, match="no SPDX expression"):
        TypeAdapter(Licence).validate_python(stated)
    with pytest.raises(ValidationError, match="no SPDX expression"):
        Filter(licences=("MIT", stated))


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (Filter, {"min_bytes": 2_000_000}),
        (Filter, {"min_comment_share": 0.5, "max_comment_share": 0.25}),
        (SizeOf, {"language": "json", "min_chars": 10, "max_chars": 9}),
        (Prose, {"min_words": 60, "max_words": 50}),
        (Prose, {"min_mean_word_length": 12}),
        (
            Benchmark,
            {"name": "b", "problem_schema": "mbpp", "source": PINNED, "licence": "MIT", "first_id": 9, "last_id": 8},
        ),
    ],
)
def test_a_lower_limit_above_the_upper_one_is_refused(section: type, values: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"is above .*: nothing lies between them"):
        section.model_validate(values)


def test_equal_limits_and_limits_that_are_left_open_are_fine() -> None:
    assert SizeOf(language="json", min_chars=10, max_chars=10).max_chars == 10
    assert SizeOf(language="json", min_chars=10).max_chars is None


def test_no_document_lies_between_the_limits_of_two_stages() -> None:
    source = PINNED | {"name": "s", "licence": "MIT", "format": "files"}
    limits = {"ingest": {"max_document_bytes": 1_000}, "filter": {"min_bytes": 1_001}}
    with pytest.raises(ValidationError, match=r"filter.min_bytes \(1001\) is above ingest.max_document_bytes"):
        Corpus.model_validate({"name": "c", "sources": [source], **limits})
