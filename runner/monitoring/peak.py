"""The peak that a device's throughput is compared with."""

import torch

from specs.common.errors import UserError

_NAMED: tuple[tuple[str, float], ...] = (
    ("A100", 312e12),
    # Fewer multiprocessors and slower clocks than the boards of a node of eight.
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("H200", 989e12),
    ("B200", 2250e12),
)
"""Dense bf16 operations per second from NVIDIA's data sheets, by a part of the name that a device gives itself; the
first that matches counts."""


def peak_flops(device: torch.device, compute: str) -> float | None:
    """Peak operations per second in bf16; none where no peak is meaningful: on a CPU, or in fp32.

    Raises UserError for a device whose peak is not known.
    """
    if device.type == "cpu" or compute != "bf16":
        return None
    return named_peak(torch.cuda.get_device_name(device))


def named_peak(name: str) -> float:
    """Dense bf16 operations per second of the device that gives itself this name, such as `NVIDIA H100 80GB HBM3`.

    Raises UserError for a device that is not in the table: a utilisation against a guessed peak would mislead.
    """
    for part, peak in _NAMED:
        if part in name:
            return peak
    raise UserError(f"the peak of {name!r} is not known: add it, with its source, to runner/monitoring/peak.py")
