"""A ledger adds up: whatever comes in is kept or dropped, one by one, many at once, or from another ledger."""

from specs.pipeline.ledger import EXAMPLES_PER_REASON, Ledger


def ledger(first: int) -> Ledger:
    """What a block of three documents leaves: one is kept, two go for one reason."""
    made = Ledger()
    made.take("s", 30, documents=3)
    made.keep("s", 10)
    made.drop("too short", f"s/{first}.py", documents=2)
    made.state("matches", [first])
    made.state("redacted", {"emails": 1})
    return made


def test_drops_of_many_documents_are_counted_as_many() -> None:
    told = ledger(0).as_json()
    assert (told["documents_in"], told["documents_out"], told["bytes_in"], told["bytes_out"]) == (3, 1, 30, 10)
    assert told["drops"] == {"too short": {"documents": 2, "sources": {"s": 2}, "examples": ["s/0.py"]}}


def test_ledgers_of_blocks_add_up_to_that_of_the_whole() -> None:
    whole = Ledger()
    for number in range(9):
        whole.merge(ledger(number).as_json())
    told = whole.as_json()
    assert (told["documents_in"], told["documents_out"], told["bytes_in"], told["bytes_out"]) == (27, 9, 270, 90)
    assert told["drops"] == {
        "too short": {
            "documents": 18,
            "sources": {"s": 18},
            "examples": [f"s/{number}.py" for number in range(EXAMPLES_PER_REASON)],
        }
    }
    assert told["facts"] == {"matches": list(range(9)), "redacted": {"emails": 9}}
