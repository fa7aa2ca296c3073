"""Peaks of devices: those of their data sheets, or an error."""

import pytest
import torch

from runner.monitoring.peak import named_peak, peak_flops
from specs.common.errors import UserError
from specs.estimates.devices import DEVICES


def test_a_cpu_has_no_peak_to_compare_with() -> None:
    assert peak_flops(torch.device("cpu"), "bf16") is None


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA H100 80GB HBM3", 989e12)],
)
def test_known_devices_have_the_peak_of_their_data_sheet(
    name: str, peak: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda"), "bf16") == peak
    assert peak_flops(torch.device("cuda"), "fp32") is None


def test_an_unknown_device_is_an_error_not_a_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Frobnicator 9000")
    with pytest.raises(UserError, match="the peak of 'Frobnicator 9000' is not known"):
        peak_flops(torch.device("cuda"), "bf16")


def test_the_peaks_of_specs_and_of_names_agree() -> None:
    for known in DEVICES.values():
        if known.peak is not None:
            model = known.name.split("-")[0]
            assert named_peak(f"NVIDIA {model}") == named_peak(known.name) == known.peak
