"""Normal numbers for weights at the start: Box and Muller over the raw words of Philox."""

import hashlib

import numpy as np
import torch
from torch import Tensor

from model.portable.library import once


def normal_block(seed: int, name: str, block: int, size: int) -> Tensor:
    """Block number `block` of the normal numbers of a parameter: fp32 [size], size even.

    The words are those of Philox with the first 128 bits of sha256("seed/name/block") as key, little endian.
    """
    digest = hashlib.sha256(f"{seed}/{name}/{block}".encode()).digest()
    words = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(size)
    values = torch.empty(size)
    once()["normals"](words.ctypes.data, values.data_ptr(), size // 2)
    return values
