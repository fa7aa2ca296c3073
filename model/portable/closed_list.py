"""The closed list of torch's operations at level portable: any other raises.

Which operations round alike everywhere cannot be seen on one machine, so each that may be used is named here with its
reason. `TWICE_STRICT=1` holds a run to the list; so do the tests.
"""

import os
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

VARIABLE = "TWICE_STRICT"

NAMESPACES = {
    "twice": "our own kernels, and AdamW from operations of IEEE 754",
    "c10d": "collectives; none that adds is used",
    "fsdp": "copies in and out of what collectives move",
    "profiler": "names of what is timed",
}
"""Whole namespaces."""

MOVES = (
    "_reshape_alias _to_copy _unsafe_view alias arange as_strided as_strided_ bitwise_and cat chunk clone contiguous "
    "copy_ "
    "detach detach_ embedding empty empty_like empty_strided expand eq fill_ flatten ge gt index index_put index_put_ "
    "index_select isfinite le lift_fresh logical_and lt masked_fill ne new_empty new_empty_strided new_zeros nonzero "
    "ones ones_like permute reshape resize_ scalar_tensor select select_backward slice slice_backward split "
    "split_with_sizes split_with_sizes_copy squeeze stack t transpose unbind unsqueeze view zero_ zeros zeros_like "
    "_foreach_copy_ _foreach_zero_ _local_scalar_dense chunk_cat _chunk_cat equal is_pinned set_ index_copy_ "
    "record_stream all any"
)
"""They move, convert (to the nearest, ties to even) or compare."""

ROUNDED_ONCE = "add add_ sub sub_ mul mul_ div div_ neg _foreach_add_ _foreach_mul_ square square_ pow pow_"
"""One operation of IEEE 754 for each element; `pow` for squares only, `div` by a number that is a power of two only."""

WHOLE_NUMBERS = "sum cumsum bitwise_or bitwise_xor remainder floor_divide max min argmax"
"""Any order gives the same, for whole numbers and truth values only."""


class OutsideTheListError(RuntimeError):
    """An operation whose bits may depend on the processor was used at level portable."""


class ClosedList(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises OutsideTheListError for every operation that is not on the list."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    _free = frozenset((*MOVES.split(), *ROUNDED_ONCE.split()))
    _whole = frozenset(WHOLE_NUMBERS.split())

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        namespace, _, name = function.name().partition("::")
        name = name.split(".", 1)[0]
        allowed = namespace in NAMESPACES or (name in self._free and _harmless(name, arguments))
        if not allowed and name in self._whole:
            allowed = not arguments[0].dtype.is_floating_point
        if not allowed:
            raise OutsideTheListError(
                f"{function.name()} is not on the closed list of level portable: its bits may depend on the processor"
            )
        return function(*arguments, **(options or {}))


def _harmless(name: str, arguments: Any) -> bool:
    """Whether the arguments of an operation that is on the list for some are such."""
    if name in ("pow", "pow_"):
        return bool(arguments[1] == 2)
    if name in ("div", "div_"):
        return isinstance(arguments[1], int | float) and abs(arguments[1]) in {2.0**i for i in range(-16, 17)}
    return True


def strict() -> bool:
    """Whether runs are held to the list."""
    return os.environ.get(VARIABLE, "0") not in ("", "0")
