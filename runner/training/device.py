"""The device of a rank: present, and made current."""

import torch

from specs.common.errors import UserError
from specs.schema.experiment import Device


def kind_of(device: Device) -> str:
    """`cpu` or `cuda`."""
    return "cpu" if device == "cpu" else "cuda"


def require_devices(device: Device, ranks: int) -> None:
    """Raise UserError where this machine cannot give each rank a device of the kind that the cluster section names."""
    if device == "cpu":
        return
    if not torch.cuda.is_available():
        raise UserError(f"cluster.device is {device}, but torch sees no CUDA device on this machine")
    if (count := torch.cuda.device_count()) < ranks:
        raise UserError(f"{ranks} ranks need {ranks} CUDA devices, this machine has {count}: give --ranks")


def device_of(device: Device, local_rank: int) -> torch.device:
    """The device of a rank, made current."""
    if device == "cpu":
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
