"""Registers the kernels as operations of torch, in the namespace `twice`.

So a dispatch mode, a planner and recomputation see them as they see torch's own.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

FORMS = {torch.bfloat16: "bf16", torch.float32: "fp32"}
"""The name of a number format in kernels."""
WORTH = 2**22
"""Multiplications and additions, or their like, below which a second thread costs more than it saves."""

_LIBRARY = torch.library.Library("twice", "FRAGMENT")  # type: ignore[no-untyped-call]
_Function = TypeVar("_Function", bound=Callable[..., Any])


def operation(schema: str) -> Callable[[_Function], _Function]:
    """Register a function for the CPU under its schema."""

    def register(function: _Function) -> _Function:
        _LIBRARY.define(schema)  # type: ignore[no-untyped-call]
        _LIBRARY.impl(schema.split("(", 1)[0], function, "CPU")  # type: ignore[no-untyped-call]
        return function

    return register


def worth(cost: int) -> int:
    """The least number of rows for a second thread, when a row costs so many multiplications and additions."""
    return -(-WORTH // max(1, cost))


def addresses(*tensors: Tensor) -> tuple[int, ...]:
    """Where tensors begin."""
    return tuple(x.data_ptr() for x in tensors)
