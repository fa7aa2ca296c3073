"""What a protocol makes of an answer, and what a sandbox runs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Program:
    """Code under test, and the code that tests it in the same namespace."""

    candidate: str
    tests: str
    helpers: str = ""
    """Code of the problem that its tests use: what the split checker runs before them, in place of what the candidate
    calls by these names."""
    plus: str = ""
    """Tests that an extended benchmark adds, run apart from the others where those pass."""
