"""The peak that the throughput of a device is told against."""

import torch

from specs.estimates.devices import named_peak


def peak_flops(device: torch.device, compute: str) -> float | None:
    """Peak operations per second in bf16; none where no peak is meaningful: on a CPU, or in fp32.

    Raises UserError for a device whose peak is not known.
    """
    if device.type == "cpu" or compute != "bf16":
        return None
    return named_peak(torch.cuda.get_device_name(device))
