"""What blocks are cut from; what stages make of them is tested with the stages and in `test_engine`."""

from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.documents.blocks import batches


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 20), st.none() | st.integers(1, 5))
def test_batches_hold_all_in_order_and_end_as_soon_as_they_may(sizes: list[int], limit: int, count: int | None) -> None:
    found = list(batches(sizes, lambda size: size, limit, count))
    assert [size for batch in found for size in batch] == sizes
    for batch in found:
        assert batch and sum(batch[:-1]) < limit and (count is None or len(batch) <= count)
    for batch in found[:-1]:
        assert sum(batch) >= limit or len(batch) == count
