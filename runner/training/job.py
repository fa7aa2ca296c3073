"""What the launching process tells the ranks of a training phase, and how they answer."""

import signal
from typing import Annotated, Any, Literal

from pydantic import Field

from specs.common.errors import UserError
from specs.common.files import digest_json
from specs.pipeline.code import Code
from specs.schema.base import Items, Name, Section
from specs.schema.experiment import Device, Level
from specs.schema.quantities import Positive
from specs.schema.training import Architecture, Training

BAD_INPUT = 2
LOST_PEER = 3
"""Exit code of a rank whose connection to another rank broke: that one is to be asked."""
STALLED = 4
"""Exit code of a rank that waited in vain."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""Those that ask a rank to save its state and end."""
STOPPED = 75
"""Exit code of a run that was asked to stop and saved its state: EX_TEMPFAIL, try again."""


def parse_steps(text: str, count: int, option: str) -> tuple[int, int]:
    """`A:B`, `A:` or `:B` as the first and last step, counted from 1. Raises UserError for anything else."""
    first, colon, last = text.partition(":")
    numbers = [part for part in (first, last) if part]
    if not colon or not all(part.isdigit() for part in numbers):
        raise UserError(f"{option} {text}: write A:B, the first and the last step, such as 10:20")
    begin, end = int(first or 1), int(last or count)
    if not 1 <= begin <= end <= count:
        raise UserError(f"{option} {text}: the run has steps 1 to {count}")
    return begin, end


def require_ranks(training: Training, ranks: int) -> None:
    """Raise UserError where there is no micro-batch for some of so many ranks."""
    if not 1 <= ranks <= training.micro_batches:
        raise UserError(
            f"{ranks} ranks for {training.micro_batches} micro-batches: give any number from 1 to "
            f"{training.micro_batches}"
        )


class Job(Section):
    """Everything that the ranks of one training phase need."""

    stage: Literal["pretrain", "finetune"]
    name: Name
    architecture: Architecture
    vocab_size: Positive
    training: Training
    steps: Positive
    level: Level
    threads: Positive
    device: Device
    inputs: dict[str, str]
    """sha256 of what the phase reads, by name."""
    store: str
    initial: str | None
    """Weights to start from, as safetensors; none means freshly initialised ones."""
    scratch: str
    code: Code | None = None
    """What every rank must run, on whichever machine; none where no stage keeps the state."""
    measured: str
    until: Positive | None = None
    """End after this step and leave no finished run: for a part of a run that is executed again."""
    trace: Items[Positive] | None = None
    """First and last step of a window to trace with torch's profiler."""
    launch: Annotated[dict[str, Any], Field(default_factory=dict)]
    """Where the ranks run: the cluster profile, and what became of it."""

    @property
    def portable(self) -> bool:
        """Whether its kernels have the same bits on any processor."""
        return self.level == "portable"

    @property
    def spec(self) -> dict[str, object]:
        """What shapes the bits of the run, but for its inputs. (At level portable, `threads` is always 1.)"""
        parts = {"architecture", "vocab_size", "training", "steps", "threads"}
        return self.model_dump(mode="json", include=parts | ({"level"} if self.portable else set()))

    @property
    def identity(self) -> str:
        """Digest of all that the bits of the run depend on: where its digest chain begins."""
        return digest_json(self.spec | {"inputs": self.inputs})
