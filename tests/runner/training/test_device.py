"""Devices, and what is pinned: stated, or refused."""

import json
import subprocess
import sys

import pytest
import torch

from runner.training import device as devices
from runner.training.determinism import environment_of_ranks
from specs.common.errors import UserError


def test_a_cpu_is_always_there() -> None:
    devices.require_devices("cpu", 64)
    assert devices.device_of("cpu", 3) == torch.device("cpu")


@pytest.mark.parametrize(
    ("available", "count", "expected"), [(False, 0, "torch sees no CUDA device"), (True, 2, "this machine has 2")]
)
def test_devices_that_are_not_here_are_refused(
    available: bool, count: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(UserError, match=expected):
        devices.require_devices("A100-80GB", 8)


def test_pinning_brings_every_flag_into_force() -> None:
    """In a process of its own: flags hold for a whole process."""
    script = (
        "import json, torch; from runner.training.determinism import pin;print(json.dumps(pin(1, torch.device('cpu'))))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    flags = json.loads(done.stdout)
    assert flags["threads"] == flags["interop_threads"] == 1
    assert flags["deterministic_algorithms"] and not flags["deterministic_warn_only"]
    assert environment_of_ranks(3)["OMP_NUM_THREADS"] == "3"
