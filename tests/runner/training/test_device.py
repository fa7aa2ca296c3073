"""Devices, their peaks, and what is pinned: stated, or refused."""

import json
import subprocess
import sys

import pytest
import torch

from runner.training import device as devices
from runner.training.determinism import environment_of_ranks
from specs.common.errors import UserError
from specs.estimates.devices import DEVICES, named_peak


def test_a_cpu_has_no_peak_to_compare_with() -> None:
    assert devices.peak_flops(torch.device("cpu"), "bf16") is None
    devices.require_devices("cpu", 64)
    assert devices.device_of("cpu", 3) == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA H100 80GB HBM3", 989e12)],
)
def test_known_devices_have_the_peak_of_their_data_sheet(
    name: str, peak: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert devices.peak_flops(torch.device("cuda"), "bf16") == peak
    assert devices.peak_flops(torch.device("cuda"), "fp32") is None


def test_an_unknown_device_is_an_error_not_a_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Frobnicator 9000")
    with pytest.raises(UserError, match="the peak of 'Frobnicator 9000' is not known"):
        devices.peak_flops(torch.device("cuda"), "bf16")


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


def test_the_peaks_of_specs_and_of_names_agree() -> None:
    for known in DEVICES.values():
        if known.peak is not None:
            model = known.name.split("-")[0]
            assert named_peak(f"NVIDIA {model}") == known.peak
