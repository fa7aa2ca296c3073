import pytest

from data_pipeline.documents.languages import language_of


@pytest.mark.parametrize(
    ("path", "language"),
    [
        ("a/b.py", "python"),
        ("A.RST", "restructuredtext"),
        ("x.md", "markdown"),
        ("LICENSE", "other"),
        ("a.bin", "other"),
    ],
)
def test_language_follows_the_file_ending(path: str, language: str) -> None:
    assert language_of(path) == language
