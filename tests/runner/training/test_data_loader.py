"""Micro-batches: dealt by the global order, whole whatever the number of ranks."""

from pathlib import Path

import pytest
import torch

from data_pipeline.tokens.token_store import TokenStore
from runner.training.data_loader import DataLoader
from specs.schema.training import Training


@pytest.fixture
def loader(store: Path) -> DataLoader:
    values = {
        "micro_batches": 4,
        "micro_batch_size": 3,
        "optimizer": {"lr": 1e-3},
        "schedule": {"warmup_steps": 0},
        "checkpoints": {"every": 1},
        "held_out": {"sequences": 7, "every": 1},
    }
    return DataLoader(TokenStore.open(store), Training.model_validate(values), torch.device("cpu"))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_ranks_together_hold_every_micro_batch_once_in_the_order_of_the_tree(loader: DataLoader, ranks: int) -> None:
    whole = loader.micro_batches(5, 0, 1)
    by_rank = [loader.micro_batches(5, rank, ranks) for rank in range(ranks)]
    dealt = [by_rank[micro_batch % ranks][micro_batch // ranks] for micro_batch in range(4)]
    assert all(torch.equal(one.tokens, other.tokens) for one, other in zip(whole, dealt, strict=True))
    # As many on every rank; what a rank without one of its own gets is not learnt.
    assert {len(own) for own in by_rank} == {-(-4 // ranks)}
    assert sum(micro_batch.count for own in by_rank for micro_batch in own) == sum(each.count for each in whole)


def test_a_micro_batch_asks_for_the_next_token_of_the_same_document(loader: DataLoader) -> None:
    for micro_batch in loader.micro_batches(0, 0, 1):
        assert (
            micro_batch.tokens.shape
            == micro_batch.targets.shape
            == micro_batch.learnt.shape
            == micro_batch.documents.shape
            == (3, 32)
        )
        assert torch.equal(micro_batch.tokens[:, 1:], micro_batch.targets[:, :-1])
        assert torch.equal(micro_batch.learnt[:, :-1], micro_batch.documents[:, 1:] == micro_batch.documents[:, :-1])
        assert micro_batch.count == int(micro_batch.learnt.sum())


def test_held_out_rows_fill_micro_batches_and_the_filling_does_not_count(loader: DataLoader) -> None:
    assert loader.held_out_micro_batches() == 3
    micro_batches = [loader.held_out(micro_batch) for micro_batch in range(3)]
    rows = loader.store.rows(loader.order.held_out)
    assert sum(micro_batch.count for micro_batch in micro_batches) == int(rows.loss[:, 1:].sum())
    assert micro_batches[2].learnt[0].any() and not micro_batches[2].learnt[1:].any()
    assert len({micro_batch.tokens.shape for micro_batch in micro_batches}) == 1


def test_rows_of_a_step_are_told_by_their_digest(loader: DataLoader) -> None:
    assert loader.rows_digest(3) == loader.rows_digest(3) != loader.rows_digest(4)


def test_reading_ahead_changes_nothing_whatever_is_asked_next(loader: DataLoader) -> None:
    asked = [(5, 0, 2), (6, 0, 2), (6, 1, 2), (7, 0, 2), (3, 0, 1), (4, 0, 1)]
    fresh = [DataLoader(loader.store, loader.training, loader.device).micro_batches(*each) for each in asked]
    for one, other in zip([loader.micro_batches(*each) for each in asked], fresh, strict=True):
        assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(one, other, strict=True))
