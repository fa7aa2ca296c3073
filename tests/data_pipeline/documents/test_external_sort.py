import dataclasses
import random
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.documents import external_sort
from data_pipeline.documents.documents import Document, document_id
from data_pipeline.documents.external_sort import Sorter, key_of


def make(path: str, text: str) -> Document:
    return Document(document_id(text), "s", path, "MIT", "python", text)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.text("ab/#1", min_size=1, max_size=4), st.text(min_size=1, max_size=9)), max_size=60),
    st.integers(1, 40),
    st.integers(2, 4),
)
def test_any_order_comes_back_sorted_however_little_is_held(texts: list[tuple[str, str]], size: int, fan: int) -> None:
    documents = [make(path, text) for path, text in dict.fromkeys(texts)]
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setattr(external_sort, "RUN_BYTES", size)
        patch.setattr(external_sort, "BATCH_BYTES", 7)
        patch.setattr(external_sort, "FAN", fan)
        scratch = Path(folder) / "runs"
        with Sorter(scratch) as sorter:
            for document in documents:
                sorter.add(document)
            if sum(document.size for document in documents) >= 3 * (size + 36):
                assert any(scratch.iterdir()), "nothing was written although it did not fit"
            assert list(sorter.documents()) == sorted(documents, key=key_of)
        assert not scratch.exists()


def test_a_source_larger_than_memory_is_sorted_in_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_sort, "RUN_BYTES", 2**20)
    monkeypatch.setattr(external_sort, "BATCH_BYTES", 2**14)
    one = make("a", "x" * 50_000)
    order = random.Random(1).sample(range(2_000), 2_000)
    process = psutil.Process()
    with Sorter(tmp_path / "runs") as sorter:
        before = process.memory_info().rss
        for number in order:
            # Of its own, as every text that is read.
            sorter.add(dataclasses.replace(one, path=f"{number:04d}", text=f"{number:04d}" + "x" * 50_000))
        most, seen = process.memory_info().rss, []
        for document in sorter.documents():
            seen.append(document.path)
            if len(seen) % 100 == 0:
                most = max(most, process.memory_info().rss)
    assert seen == sorted(seen) and len(seen) == 2_000
    # 100 MB of text went through; a list of it would hold all.
    assert most - before < 50e6


def test_a_folder_that_a_killed_process_left_is_started_anew(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "000000.arrow").write_bytes(b"half a file")
    with Sorter(tmp_path / "runs") as sorter:
        assert list(sorter.documents()) == []
