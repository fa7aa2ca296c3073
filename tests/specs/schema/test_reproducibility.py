"""The level that a spec asks for, and the one that it has where it asks for none."""

from typing import Any

import pytest
from pydantic import ValidationError

from specs.pipeline.nodes import EvaluationNode, RunNode, resolve
from specs.schema.experiment import Experiment


def with_changes(smoke: Experiment, reproducibility: dict[str, Any], **cluster: Any) -> Experiment:
    plain = smoke.model_dump(mode="json") | {"reproducibility": reproducibility}
    return Experiment.model_validate(plain | {"cluster": plain["cluster"] | cluster})


def test_on_a_cpu_the_level_is_portable_unless_another_is_written(smoke: Experiment) -> None:
    assert with_changes(smoke, {}).reproducibility.level == "portable"
    assert with_changes(smoke, {"level": "restart"}).reproducibility.level == "restart"
    assert with_changes(smoke, {}, device="A100-80GB").reproducibility.level == "topology"


def test_threads_leave_the_nodes_at_level_portable_alone(smoke: Experiment) -> None:
    for level, threads in (("portable", 1), ("topology", 3)):
        nodes = resolve(with_changes(smoke, {"level": level, "threads": 3}))
        run, evaluation = nodes["runs"]["smoke"], nodes["evaluations"]["smoke-basics"]
        assert isinstance(run, RunNode) and isinstance(evaluation, EvaluationNode)
        assert run.reproducibility.threads == evaluation.threads == threads
        assert evaluation.portable == (level == "portable")


def test_compiled_layers_are_not_portable(smoke: Experiment) -> None:
    plain = smoke.model_dump(mode="json") | {"reproducibility": {"level": "portable"}}
    plain["finetuning"]["parallelism"]["compile"] = True
    with pytest.raises(ValidationError, match=r"finetuning.parallelism.compile makes other kernels on each processor"):
        Experiment.model_validate(plain)
