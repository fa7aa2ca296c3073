"""One rank of a training phase: reads the job, builds what it names, trains, and leaves the finished run beside it."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from data_pipeline.tokens.token_store import TokenStore
from model.portable.closed_list import ClosedList, strict
from runner.monitoring.environment import environment
from runner.monitoring.peak import peak_flops
from runner.monitoring.telemetry import Telemetry
from runner.training.build import build, initialise
from runner.training.checkpoints import Checkpoints, State
from runner.training.data_loader import DataLoader
from runner.training.determinism import pin, pin_portable
from runner.training.device import device_of
from runner.training.finished import export
from runner.training.job import LOST_PEER, STOP_SIGNALS, STOPPED, Job, require_ranks
from runner.training.journal import Journal
from runner.training.loop import Stopped, train
from runner.training.run import Run
from runner.training.sharding import ShardedModel
from runner.training.watchdog import Watchdog, bytes_written, refuse, say
from specs.common.errors import UserError
from specs.common.run_folder import ENVIRONMENT, THROUGHPUT, RunFolder
from specs.estimates.counts import flops_per_sequence, sequences_per_step, tokens_per_step
from specs.loading.settings import load_settings
from specs.pipeline.code import require

# What torchrun says of the nodes.
TOPOLOGY = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT")


def run(job: Job, watchdog: Watchdog, listener: Callable[[], bool]) -> None:
    """Train as one rank of the process group that the environment describes.

    Raises UserError for bad input, and `Stopped` where the run was asked to stop.
    """
    require(job.code)
    require_ranks(job.training, int(os.environ["WORLD_SIZE"]))
    device = device_of(job.device, int(os.environ.get("LOCAL_RANK", "0")))
    flags = pin(job.threads, device)
    if job.portable:
        flags |= pin_portable(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    stall = timedelta(seconds=load_settings().stall_seconds)
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
    watchdog.expect("the other ranks")
    dist.init_process_group(backend, timeout=stall)
    try:
        watchdog.expect("the state to begin with")
        parts, state = _prepare(job, device, watchdog)
        if parts.journal:
            parts.telemetry.note(ENVIRONMENT, environment() | _circumstances(job, parts.model, flags))
        try:
            with ClosedList() if job.portable and strict() else nullcontext():
                train(parts, state, listener)
        finally:
            parts.telemetry.close()
        if job.until is None:
            watchdog.expect("the finished run", progress=bytes_written)
            export(job, parts.model, parts.journal)
        if parts.journal:
            parts.telemetry.note(THROUGHPUT, parts.telemetry.summary())
    finally:
        watchdog.expect("the end of the process group")
        dist.destroy_process_group()


def _prepare(job: Job, device: torch.device, watchdog: Watchdog) -> tuple[Run, State | None]:
    """The parts of the run, in the state of the newest whole checkpoint, or of the beginning (none)."""
    training, scratch = job.training, RunFolder(Path(job.scratch))
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    model, optimizer = build(
        job.architecture, job.vocab_size, training, mesh, per_node=_ranks_per_node(), portable=job.portable
    )
    checkpoints = Checkpoints(scratch.checkpoints, job.identity, training.checkpoints, model, optimizer, job.code)
    journal = Journal(scratch.steps, job.identity) if model.rank == 0 else None
    state = checkpoints.load()
    if state is None:
        initialise(model, optimizer, training.seed, Path(job.initial) if job.initial else None, portable=job.portable)
    elif job.level not in ("topology", "portable") and state.ranks != model.ranks:
        raise UserError(
            f"reproducibility.level is {job.level}: the run began on {state.ranks} ranks and cannot go on with "
            f"{model.ranks}; give --ranks {state.ranks}, or declare level topology"
        )
    elif journal:
        journal.rewind(state.steps_file)
    model.before_micro_batch = watchdog.touch
    parts = Run(
        model=model,
        optimizer=optimizer,
        # The launching process has verified every byte of the store.
        loader=DataLoader(TokenStore.open(Path(job.store), verify=False), training, device),
        checkpoints=checkpoints,
        journal=journal,
        telemetry=_telemetry(job, model),
        watchdog=watchdog,
        training=training,
        steps=job.steps,
        until=job.until,
    )
    return parts, state


def _telemetry(job: Job, model: ShardedModel) -> Telemetry:
    peak = peak_flops(model.device, job.training.precision.compute)
    return Telemetry(
        Path(job.measured) if model.rank == 0 else None,
        f"{job.stage} {job.name}",
        job.steps,
        tokens_per_step(job.training, job.architecture),
        flops_per_sequence(job.architecture, job.vocab_size) * sequences_per_step(job.training),
        peak * model.ranks if peak else None,
        job.trace,
    )


def _circumstances(job: Job, model: ShardedModel, flags: dict[str, object]) -> dict[str, object]:
    """How this run runs, for `environment.json`."""
    return {
        "code": job.code and job.code.digest,
        "ranks": model.ranks,
        "ranks_per_node": _ranks_per_node(),
        "process_group": dist.get_backend(),
        "determinism": flags,
        "attention": {"requested": job.architecture.attention.backend, "resolved": model.model.backend},
        "launch": job.launch | {name.lower(): os.environ[name] for name in TOPOLOGY if name in os.environ},
    }


def _ranks_per_node() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", dist.get_world_size()))


class _Listener:
    """Remembers that a signal asked the run to stop; the loop looks after each step."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self) -> bool:
        return self.requested

    def hear(self, number: int, frame: FrameType | None) -> None:
        self.requested = True


def _listen() -> _Listener:
    listener = _Listener()
    for number in STOP_SIGNALS:
        signal.signal(number, listener.hear)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # as the worker found them
    return listener


def main(path: Path) -> int:
    """Run the job at `path`; returns the exit code.

    A rank that cannot go on says why, on standard error and to its agent; where no other attempt can help, also in
    `failure.txt` beside the job, and then all end.
    """
    failure, listener = RunFolder(path.parent).failure, _listen()
    watchdog = Watchdog(load_settings().stall_seconds)
    try:
        job = Job.model_validate_json(path.read_bytes())
        run(job, watchdog, listener)
    except UserError as error:
        return refuse(failure, str(error))
    except OSError as error:
        return refuse(failure, f"{error.filename or 'a file'}: {error.strerror}; the last checkpoint is whole")
    except (MemoryError, torch.OutOfMemoryError) as error:
        return refuse(failure, f"out of memory: {_first_line(error)}; see `twice plan`")
    except Stopped as stopped:
        if os.environ.get("RANK") == "0":
            print(f"{job.stage} {job.name}: {stopped}", file=sys.stderr, flush=True)
        return STOPPED
    except Exception as error:
        if _in_collective(error):
            # Whichever way a backend words it: another rank ended, or did not come. What became of that one matters.
            say(f"lost its connection to another rank, or waited for it in vain: {_first_line(error)}")
            return LOST_PEER
        traceback.print_exc()
        say(f"{type(error).__name__}: {_first_line(error)}")
        return 1
    finally:
        watchdog.stop()
    return 0


def _in_collective(error: Exception) -> bool:
    """Whether an error was raised by torch's process groups."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return isinstance(error, dist.DistError) or frames[-1].f_globals.get("__name__", "").startswith("torch.distributed")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
