import pytest

from specs.estimates.counts import attended_pairs, epoch_steps, flops_per_sequence, parameters, pretraining_steps
from specs.loading.load import load_experiment
from specs.loading.settings import ROOT
from specs.review.claims import audit, derived
from specs.schema.experiment import Experiment
from specs.schema.training import Architecture, Attention


@pytest.fixture(scope="module")
def code_34b() -> Experiment:
    return load_experiment(ROOT / "specs" / "experiments" / "code-34b.yaml")


def test_code_34b_implies_what_was_published(code_34b: Experiment) -> None:
    numbers = derived(code_34b)
    assert numbers["parameters"] == 34_000_573_440
    assert numbers["tokens_per_step"] == 2_097_152
    assert numbers["steps"] == 333_787
    assert all(verdict.met for verdict in audit(code_34b))
    assert len(audit(code_34b)) == 16


def test_the_usual_feed_forward_would_miss_the_claim(code_34b: Experiment) -> None:
    changed = code_34b.architecture.model_copy(update={"d_ff": 4 * code_34b.architecture.d_model})
    missed = [v for v in audit(code_34b.model_copy(update={"architecture": changed})) if not v.met]
    assert [verdict.name for verdict in missed] == ["parameters"]
    # Three matrices of SwiGLU at 4 x d_model.
    assert missed[0].implied == 34_000_573_440 - 48 * 3 * 5120 * (38_400 - 20_480)


def test_full_causal_flops_follow_the_published_formula(code_34b: Experiment) -> None:
    full = code_34b.architecture.model_copy(update={"attention": Attention()})
    count, length = parameters(full, 64_000), full.context_length
    n = count.total - count.embedding - count.norms
    assert flops_per_sequence(full, 64_000) == 6 * n * length + 6 * 48 * length * (length + 1) * 5120
    assert flops_per_sequence(full, 64_000) == pytest.approx(1.754e15, rel=1e-3)


@pytest.mark.parametrize("window", [1, 3, 8])
def test_pairs_are_counted_as_the_mask_allows(window: int) -> None:
    architecture = Architecture(
        d_model=8,
        n_layers=4,
        n_heads=2,
        d_ff=16,
        context_length=8,
        attention=Attention(pattern="interleaved", window=window, global_every=2),
    )
    sliding = sum(1 for query in range(8) for key in range(query + 1) if query - key < window)
    assert attended_pairs(architecture) == 2 * (sliding + 36)


def test_steps_round_up(code_34b: Experiment) -> None:
    exact = code_34b.pretraining.model_copy(update={"tokens": 2_097_152 * 3})
    one_more = code_34b.pretraining.model_copy(update={"tokens": 2_097_152 * 3 + 1})
    assert pretraining_steps(exact, code_34b.architecture) == 3
    assert pretraining_steps(one_more, code_34b.architecture) == 4
    assert epoch_steps(code_34b.finetuning, 2, 1000) == 8
