"""One phase on one rank: what the loop works on."""

from dataclasses import dataclass

from runner.monitoring.telemetry import Telemetry
from runner.training.checkpoints import Checkpoints
from runner.training.data_loader import DataLoader
from runner.training.journal import Journal
from runner.training.optimizer import Optimizer
from runner.training.sharding import ShardedModel
from runner.training.watchdog import Watchdog
from specs.schema.training import Training


@dataclass(frozen=True)
class Run:
    """The parts of a run, put together for one rank."""

    model: ShardedModel
    optimizer: Optimizer
    loader: DataLoader
    checkpoints: Checkpoints
    journal: Journal | None
    """Kept by rank 0 alone."""
    telemetry: Telemetry
    watchdog: Watchdog
    training: Training
    steps: int
    until: int | None = None
    """Step to end after, before the last: for a part of a run that is executed again."""
