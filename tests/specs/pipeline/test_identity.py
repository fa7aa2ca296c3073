"""The identity of a section is that of all its values, whoever wrote them."""

from specs.pipeline.identity import identities, identity
from specs.schema.data import Dedup, MinHash
from specs.schema.training import AdamW


def test_a_default_counts_whether_it_is_written_or_not() -> None:
    """So a default that changes in code changes the identity, and what depends on it runs again."""
    assert identity(AdamW(lr=1e-3)) == identity(AdamW(lr=1e-3, beta1=AdamW(lr=1).beta1))
    assert identity(AdamW(lr=1e-3)) != identity(AdamW(lr=1e-3, beta1=0.8))
    assert identity(AdamW(lr=1e-3)) != identity(AdamW(lr=2e-3))


def test_a_golden_value() -> None:
    """Scratch folders, journals and records of older runs are named by it."""
    assert identity(MinHash()) == "50c4dc1f7c146e20f9e1c97f0b7e03316c628b9b85585f0af81838921f6ec821"


def test_the_section_that_changed_is_told_by_its_name() -> None:
    one, other = Dedup(), Dedup(near=MinHash(threshold=0.5))
    assert identities(one).keys() == {"near"} and identities(one) != identities(other)
