from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from specs.loading.load import load_experiment
from specs.loading.settings import ROOT
from specs.schema.experiment import Experiment

EXPERIMENTS = sorted((ROOT / "specs" / "experiments").glob("*.yaml"))


@pytest.fixture(params=EXPERIMENTS, ids=lambda path: path.stem)
def experiment_path(request: pytest.FixtureRequest) -> Path:
    """Each experiment that the project ships."""
    assert isinstance(request.param, Path)
    return request.param


@pytest.fixture(scope="session")
def smoke() -> Experiment:
    """The experiment that everything is tried on, at the level at which a backend and threads matter."""
    plain = load_experiment(ROOT / "specs" / "experiments" / "smoke.yaml").model_dump(mode="json")
    return Experiment.model_validate(plain | {"reproducibility": {"level": "topology", "threads": 1}})


@pytest.fixture(scope="session")
def edited(smoke: Experiment) -> Callable[[str, Any], Experiment]:
    """Another value at a dotted path of smoke (list items by number), validated again."""

    def change(path: str, value: Any) -> Experiment:
        plain = at = smoke.model_dump(mode="json")
        *parents, last = path.split(".")
        for part in parents:
            at = at[int(part)] if part.isdigit() else at[part]
        at[last] = value
        return Experiment.model_validate(plain)

    return change


@pytest.fixture(scope="session")
def edits() -> list[dict[str, Any]]:
    """Edits of smoke, each with what a reviewer should be told."""
    return list(YAML(typ="safe", pure=True).load(Path(__file__).with_name("edits.yaml").read_text("utf-8")))
