import pytest

from data_pipeline.sources.certain_losses import require_possible
from specs.common.errors import UserError
from specs.schema.data import Corpus


def corpus(source: dict[str, object] | None = None, **sections: object) -> Corpus:
    pinned = {"locator": {"kind": "file", "path": "a.tar"}, "sha256": "0" * 64}
    values = {"name": "s", "licence": "MIT", "format": "files"} | (source or {})
    return Corpus.model_validate({"name": "c", "sources": [pinned | values], **sections})


@pytest.mark.parametrize(
    ("source", "sections", "message"),
    [
        ({"licence": "GPL-3.0-only"}, {}, "source 's': its licence GPL-3.0-only is not allowed by filter.licences"),
        ({"licence": "MIT AND GPL-2.0-or-later"}, {}, "licence MIT AND GPL-2.0-or-later is not allowed"),
        ({"format": "conversations", "licence": "BSD-3-Clause"}, {"filter": {"licences": ["MIT"]}}, "not allowed"),
        ({}, {"ingest": {"languages": ["pyton"]}}, r"ingest.languages.0: no language is called 'pyton'; .*python"),
        (
            {},
            {"filter": {"sizes": [{"language": "yml"}]}},
            r"filter.sizes.0.language: no language is called 'yml'; .*yaml",
        ),
    ],
)
def test_what_is_certain_is_told_beforehand(
    source: dict[str, object], sections: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        require_possible(corpus(source, **sections))


@pytest.mark.parametrize(
    ("source", "sections"),
    [
        ({"licence": "NOASSERTION"}, {}),
        ({"licence": "GPL-3.0-only OR MIT"}, {}),
        ({"licence": "GPL-3.0-only", "may_be_empty": True}, {}),
        # Rows may say better of themselves.
        ({"licence": "GPL-3.0-only", "format": "jsonl"}, {}),
        ({"licence": "LicenseRef-internal"}, {"filter": {"licences": ["LicenseRef-internal"]}}),
    ],
)
def test_what_may_be_is_left_to_the_stages(source: dict[str, object], sections: dict[str, object]) -> None:
    require_possible(corpus(source, **sections))


def test_every_fault_has_a_line() -> None:
    sections = {"ingest": {"languages": ["pyton", "python", "jva"]}}
    with pytest.raises(UserError) as caught:
        require_possible(corpus({"licence": "GPL-3.0-only"}, **sections))
    assert len(str(caught.value).splitlines()) == 3
