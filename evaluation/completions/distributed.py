"""The processes that torchrun started for one stage: each takes its share, the first one writes the result."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those that share its work; alone, where torchrun did not start it."""

    rank: int = 0
    count: int = 1
    local: int = 0
    """Number of this process on its machine."""
    on_machine: int = 1
    """Processes on this machine, which share its cores."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes the result."""
        return self.rank == 0

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, in every process. Called by all; the others wait."""
        if self.count == 1:
            return make()
        import torch.distributed as dist

        made = [make() if self.first else None]
        dist.broadcast_object_list(made, src=0)
        return made[0]  # type: ignore[return-value]

    def wait(self) -> None:
        """Until every process is here."""
        if self.count > 1:
            import torch.distributed as dist

            dist.barrier()


def join() -> Ranks:
    """This process as torchrun's environment describes it, connected to the others where there are any."""
    names = {"rank": "RANK", "count": "WORLD_SIZE", "local": "LOCAL_RANK", "on_machine": "LOCAL_WORLD_SIZE"}
    ranks = Ranks(**{field: int(os.environ[name]) for field, name in names.items() if name in os.environ})
    if ranks.count > 1:
        from datetime import timedelta

        import torch.distributed as dist

        # A process that is done waits for the slowest: for hours, where a model is large.
        dist.init_process_group("gloo", timeout=timedelta(days=7))
    return ranks
